"""The one interface of every Fisher approximation."""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ngd_theory import losses
from ngd_theory.arguments import (
    check_finite,
    check_range,
    checked,
    checked_fields,
    is_finite,
    is_known,
)
from ngd_theory.errors import InputError, SingularKernelError, require_type
from ngd_theory.fisher.damping import Damping, as_damping
from ngd_theory.fisher.kinds import EmpiricalFisher, TrueFisher
from ngd_theory.networks import LayerSize, Linearization
from ngd_theory.numerics import norm
from ngd_theory.precision import full_precision
from ngd_theory.pytrees import pytree


class Look(NamedTuple):
    """How figures show an approximation: colour, matplotlib marker, and a label if it differs from the name."""

    colour: str
    marker: str
    label: str = ""


#: Largest relative distance from the limit rho -> 0 of a result whose damping is below round-off.
SAME = 1e-2


class Approximation(abc.ABC):
    """A preconditioner G of the gradient: ``theta <- theta - eta (G + rho I)^-1 grad``.

    A new approximation is a frozen dataclass with a ``name`` that is decorated with `approximation`. It defines
    `factor`, which does the work that is needed once for a linearisation and a damping, and `precondition`, which
    applies the result to one cotangent. The default `layer_terms` applies it to NC cotangents. An approximation is a
    JAX pytree, so it can be an argument of a jitted function.
    """

    made_by: ClassVar[str] = "ngd.fisher.by_name('kfac'), say"
    name: ClassVar[str]
    #: Whether K becomes isotropic only as the width grows. If not, every width that meets the conditions is enough.
    asymptotic: ClassVar[bool] = False
    #: Whether its constant gives the trace of K only: K is not a multiple of the identity at any width.
    trace_only: ClassVar[bool] = False
    #: Whether its map off the training set has an infinite-width limit.
    has_limit: ClassVar[bool] = True
    #: Whether K is a sum over layers of ``(1/N) J_l G_l^-1 J_l^T``.
    by_layers: ClassVar[bool] = False
    #: Whether G needs the inputs and units of affine layers; parameters and kernels alone are then not enough.
    needs_layers: ClassVar[bool] = False
    #: Names of the conditions in `ngd_theory.theory.conditions` under which K is isotropic.
    requirements: ClassVar[tuple[str, ...]] = ()
    #: Look in every figure. The default, an olive star, is for users' own approximations.
    look: ClassVar[Look] = Look("#999900", "*")
    #: Losses under which its training is predicted with a derived tolerance.
    predicted_losses: ClassVar[tuple[str, ...]] = ("mse",)
    #: Why it is verified only if it is named; empty if it is always verified.
    named_only: ClassVar[str] = ""

    @checked
    def natural_gradient(
        self, lin: Linearization, cotangent: Float[Array, "N C"], damping
    ) -> PyTree[Array]:
        """``(G + damping I)^-1 J^T cotangent / N``, with the structure of the parameters.

        Parameters
        ----------
        lin : Linearization
        cotangent : (N, C)
            The loss's residual: ``f - y`` for MSE, ``softmax(f) - y`` for cross-entropy.
        damping : float or scalar array
            rho >= 0; 0 is the limit rho -> 0 (pseudo-inverse).

        Returns
        -------
        tuple of dict, one per layer; or a tree like the parameters of `linearize_function`
            The gradient's 1/N is inside, the step size is not.

        Raises
        ------
        InputError
            For a cotangent of the wrong shape, a damping that is negative or beyond the range of the outputs' type, a
            NaN or infinity in the arguments, or a linearisation of a function without layers if G needs layers.
        SingularKernelError
            If a solve breaks down: the arguments are finite, but the result is not, or has no correct digits. Values
            are read only outside jit, vmap and grad; inside, the broken result is NaN without an error.
        """
        return self._unfactored(lin, damping).natural_gradient(cotangent)

    @checked
    def function_space_map(
        self, lin: Linearization, damping, at: Linearization | None = None
    ) -> Float[Array, "MC NC"]:
        """``K = (1/N) J(at) (G + damping I)^-1 J^T`` (docs/theory.md section 2).

        One linearised step is ``f(at) <- f(at) - eta K residual``.

        Parameters
        ----------
        lin : Linearization
            At the N training inputs; G is built from it.
        damping : float or scalar array
        at : Linearization, optional
            Linearisation of the same network and parameters at N' inputs; ``lin`` when None.

        Returns
        -------
        (N'*C, N*C) array
            Row index ``n'*C + c``.

        Raises
        ------
        InputError, SingularKernelError
            As `natural_gradient`. InputError also if ``at`` has other layers.
        """
        return self._unfactored(lin, damping).function_space_map(at)

    @checked
    def prepare(self, lin: Linearization, damping) -> "Prepared":
        """Factor once at a linearisation and a damping, for several requests there.

        ``prepare(lin, rho).natural_gradient(v)`` equals ``natural_gradient(lin, v, rho)``, and so on, but the result
        of `factor` is reused. Use it for several natural gradients, maps or maps to other inputs:
        `natural_gradient` and `function_space_map` of this class factor at each call.

        Parameters
        ----------
        lin : Linearization
        damping : float or scalar array

        Returns
        -------
        Prepared

        Raises
        ------
        InputError
            As `natural_gradient`.
        """
        here = self._unfactored(lin, damping)
        return replace(here, factors=_factor(self, lin, here.damping))

    def _unfactored(self, lin: Linearization, damping) -> "Prepared":
        """Like `prepare`, but each request factors inside its own jitted program."""
        self.check_layers(lin)
        return Prepared(self, lin, as_damping(damping, lin.outputs.dtype))

    def _check_result(self, what: str, found, lin, damping, cotangent=None) -> None:
        """Raise an error that says why a result is not finite. A finite result is only looked at once."""
        if is_finite(found):
            return
        if cotangent is not None:
            check_finite("cotangent", cotangent)
        check_finite("lin", lin)
        reason = None if cotangent is None else self.breakdown(lin, cotangent, damping)
        reason = reason or (
            "digits are lost where samples are alike or sizes differ much: raise the damping, use float64, or damping "
            "0 (pseudo-inverse)"
        )
        raise SingularKernelError(
            f"{self.name}: the {what} is not finite with damping {float(damping.value):g}: {reason}"
        )

    def _check_digits(
        self, what: str, found, lin: Linearization, damping: Damping, limit: Callable
    ) -> None:
        """Check that a result with a damping below round-off agrees with the limit rho -> 0.

        If it does not (for example with copies of a sample), it has no correct digits. Checked only for the true Fisher
        under MSE; others may have no limit.
        """
        if not all(map(is_known, jax.tree.leaves((found, damping.value, lin)))):
            return
        rho, eps = float(damping.value), float(jnp.finfo(lin.outputs.dtype).eps)
        never_isotropic = type(self).damping_bias is Approximation.damping_bias
        # A damping above sqrt(eps) exceeds the round-off of any kernel below 1/sqrt(eps).
        if not 0 < rho < eps**0.5 or never_isotropic or not _is_plain(self):
            return
        rounding = eps * float(_largest_trace(lin))
        if rho >= self.matched_damping(rounding):
            return
        try:
            there = limit()
        except InputError:  # conjugate gradients have none
            return
        if not float(_distance(found, there)) <= SAME * float(_distance(there)):
            raise SingularKernelError(
                f"{self.name}: damping {rho:.1e} is below the rounding of this kernel, {rounding:.1e}, and so are some "
                f"of its eigenvalues: the {what} has no correct digits. Take damping 0 (pseudo-inverse) or a larger one"
            )

    def check_layers(self, lin: Linearization) -> None:
        """Raise `InputError` unless ``lin`` is a linearisation, and shows layers if G needs them."""
        require_type("lin", lin, Linearization, Linearization.made_by)
        if self.needs_layers and not lin.has_layers:
            raise InputError(
                f"{self.name!r} is made of the inputs and units of affine layers, and this linearisation has groups of "
                "parameters only (linearize_function): name its layers (ngd.networks.network, or linearize_model for "
                "equinox and flax), or take exact, block-diagonal, block-tridiagonal or entry-wise"
            )

    def of_samples(self, samples: Int[Array, " B"]) -> "Approximation":
        """The same approximation for some of the samples: an empirical Fisher keeps only their targets."""
        kind = getattr(self, "kind", None)
        if not isinstance(kind, EmpiricalFisher):
            return self
        return replace(self, kind=kind.take(samples))  # pyright: ignore[reportArgumentType, reportCallIssue]

    def factor(self, lin: Linearization, damping: Damping) -> Any:
        """Compute once what `precondition` and `layer_terms` apply at this linearisation and damping.

        Arguments are already checked. The result is any pytree of arrays: factors, parts of an inverse, whitened rows.
        The default returns the damping itself: then each cotangent factors anew.
        """
        return damping

    @abc.abstractmethod
    def precondition(
        self, lin: Linearization, cotangent: Float[Array, "N C"], factors: Any
    ) -> PyTree[Array]:
        """Compute `natural_gradient` from what `factor` made; arguments are already checked."""

    def precondition_once(
        self, lin: Linearization, cotangent: Float[Array, "N C"], damping: Damping
    ) -> PyTree[Array]:
        """Compute `natural_gradient` of one cotangent, where nothing is prepared; arguments are already checked.

        The result is that of `precondition` with `factor`. Override it where one cotangent takes less work.
        """
        return self.precondition(lin, cotangent, self.factor(lin, damping))

    def layer_terms(
        self, lin: Linearization, factors: Any, at: Linearization
    ) -> Sequence[Float[Array, "MC NC"]]:
        """What each layer's step adds to `function_space_map`. The default calls `precondition` for each column.

        It is ``(1/N) J_l(at) [(G + rho)^-1 J^T]_l``, or ``(1/N) J_l(at) (G_l + rho)^-1 J_l^T`` if G couples no layers.
        """
        n, c = lin.outputs.shape
        basis = jnp.eye(n * c, dtype=lin.outputs.dtype).reshape(n * c, n, c)

        def columns(cotangent):
            steps = at.by_layer(self.precondition(lin, cotangent, factors))
            return [y.jvp(step).ravel() for y, step in zip(at.layers, steps, strict=True)]

        return [found.T for found in jax.lax.map(columns, basis)]

    def preconditioned_map(
        self, lin: Linearization, factors: Any, at: Linearization
    ) -> Float[Array, "MC NC"]:
        """Compute `function_space_map` from what `factor` made. The default is the sum of `layer_terms`."""
        terms = self.layer_terms(lin, factors, at)
        return sum(terms[1:], terms[0])

    def factored(self, lin: Linearization, factors: Any) -> Any:
        """Return ``factors``; if a damping is given instead, as in earlier versions, factor with it."""
        return self.factor(lin, factors) if isinstance(factors, Damping) else factors

    def layer_maps(self, lin: Linearization, damping) -> tuple[Float[Array, "NC NC"], ...]:
        """Each layer's share ``(1/N) J_l (G_l + damping I)^-1 J_l^T`` of K on the training set.

        Parameters
        ----------
        lin : Linearization
        damping : float or scalar array

        Returns
        -------
        tuple of (N*C, N*C) arrays
            First layer to last; their sum is `function_space_map`.

        Raises
        ------
        InputError
            If G couples layers: K is then not a sum over layers.
        """
        return self._unfactored(lin, damping).layer_maps()

    def matched_damping(self, damping: float) -> float:
        """The damping at which this approximation's own inverses are damped by about ``damping``."""
        return damping

    def breakdown(self, lin: Linearization, cotangent: Float[Array, "N C"], damping) -> str | None:
        """Why a natural gradient is not finite; None if the approximation cannot tell. Reads values."""
        return None

    def workspace(self, sizes: tuple[LayerSize, ...], num_samples: int, itemsize: int) -> int:
        """How many numbers a natural gradient holds beside the linearisation and arrays like the parameters.

        A model from the leading terms, for `ngd_theory.theory.step_memory`; ``itemsize`` is in bytes.
        """
        return 0

    def damping_bias(self, lin: Linearization, damping: float) -> float | None:
        """Leading-order bound on ``||K(rho) - K(0)||_2 / alpha``, from the measured spectra.

        None if the approximation is never isotropic. Reads values: not for use inside jit.
        """
        return None

    def solve_condition(self, lin: Linearization, damping: float) -> float | None:
        """Estimated mean condition number of the solved systems if it may be far above the NTK's; else None.

        Reads values: not for use inside jit.
        """
        return None

    def broken_premises(
        self, sizes: tuple[LayerSize, ...], num_samples: int, equal_leverages: bool = False
    ) -> dict[str, str]:
        """Premises of isotropy that fail by the sizes alone: names from `ngd_theory.fisher.PREMISES`, with reasons.

        ``equal_leverages``: whether the inputs were transformed to have equal leverages (Forster transform).
        """
        return {}

    def layer_constants(
        self, sizes: tuple[LayerSize, ...], num_samples: int
    ) -> tuple[float, ...] | None:
        """Each layer's share ``tr K_l / (NC)`` of the isotropy constant, as rho -> 0 and the width grows.

        None if the theory states none.
        """
        return None

    def measured_constants(
        self, lin: Linearization, sizes: tuple[LayerSize, ...]
    ) -> tuple[float, ...] | None:
        """`layer_constants` of one linearisation with its measured ``sizes``; reads values.

        Approximations whose trace does not follow from ranks measure it on ``lin``.
        """
        return self.layer_constants(sizes, lin.num_samples)

    def isotropy_constant(self, sizes: tuple[LayerSize, ...], num_samples: int) -> float | None:
        """``alpha = tr K / (NC)`` as rho -> 0 and the width grows; None if there is none."""
        shares = self.layer_constants(sizes, num_samples)
        return None if shares is None else float(sum(shares))


@pytree("approximation", "lin", "damping", "factors")
@dataclass(frozen=True)
class Prepared:
    """An approximation factored at a linearisation and a damping (`Approximation.prepare`).

    A JAX pytree: it may be made in one jitted function and applied in another.

    Attributes
    ----------
    approximation : Approximation
    lin : Linearization
    damping : Damping
    factors : pytree
        What `Approximation.factor` made; None if each request shall make it.
    """

    made_by: ClassVar[str] = "ngd.fisher.by_name('kfac').prepare(lin, damping)"
    approximation: Any
    lin: Linearization
    damping: Damping
    factors: Any = None

    def made_factors(self) -> Any:
        """``factors``, computed here if they are None. For use inside jitted functions."""
        if self.factors is not None:
            return self.factors
        return self.approximation.factor(self.lin, self.damping)

    @checked
    def natural_gradient(self, cotangent: Float[Array, "N C"]) -> PyTree[Array]:
        """As `Approximation.natural_gradient`, with the same errors."""
        lin, what = self.lin, "natural gradient"
        if jnp.shape(cotangent) != lin.outputs.shape:
            raise InputError(
                f"cotangent has shape {jnp.shape(cotangent)}; the outputs have {lin.outputs.shape}"
            )
        check_range("cotangent", cotangent, lin.outputs.dtype)
        found = _natural_gradient(self, jnp.asarray(cotangent, lin.outputs.dtype))
        self.approximation._check_result(what, found, lin, self.damping, cotangent)
        self._check_digits(what, found, lambda limit: limit.natural_gradient(cotangent))
        return found

    @checked
    def function_space_map(self, at: Linearization | None = None) -> Float[Array, "MC NC"]:
        """As `Approximation.function_space_map`, with the same errors."""
        lin, what = self.lin, "function-space map"
        at = lin if at is None else at
        if [y.layout for y in at.layers] != [y.layout for y in lin.layers]:
            raise InputError("`at` linearises a network with other layers than `lin`")
        at = at.in_coordinates_of(lin)
        found = _function_space_map(self, at)
        self.approximation._check_result(what, found, (lin, at), self.damping)
        self._check_digits(what, found, lambda limit: limit.function_space_map(at))
        return found

    def layer_maps(self) -> tuple[Float[Array, "NC NC"], ...]:
        """As `Approximation.layer_maps`, with the same errors."""
        if not self.approximation.by_layers:
            raise InputError(
                f"{self.approximation.name!r} couples the layers: its function-space map is no sum of maps of one "
                "layer each"
            )
        what, found = "layers' maps", _layer_maps(self)
        self.approximation._check_result(what, found, self.lin, self.damping)
        self._check_digits(what, found, lambda limit: limit.layer_maps())
        return found

    def _check_digits(self, what: str, found, limit: Callable) -> None:
        def there():
            return limit(self.approximation._unfactored(self.lin, 0.0))

        self.approximation._check_digits(what, found, self.lin, self.damping, there)


def train_and_test_maps(
    approximation: Approximation, lin: Linearization, damping, at: Linearization | None
) -> tuple[Array, Array | None]:
    """Maps on the training set and to ``at``, factored once. The second is None without ``at``."""
    if at is None:
        return approximation.function_space_map(lin, damping), None
    prepared = approximation.prepare(lin, damping)
    return prepared.function_space_map(), prepared.function_space_map(at)


def require_approximation(approximation) -> None:
    """Raise `InputError` unless it is an `Approximation`."""
    require_type("approximation", approximation, Approximation, Approximation.made_by)


def _is_plain(approximation: Approximation) -> bool:
    """Whether it uses the true Fisher under MSE (Lambda = I)."""
    kind = getattr(approximation, "kind", TrueFisher())
    return isinstance(kind, TrueFisher) and losses.by_name(kind.loss).unit_fisher


@jax.jit
def _distance(tree, other=None):
    """Euclidean distance over all leaves together."""
    difference = tree if other is None else jax.tree.map(jnp.subtract, tree, other)
    return norm(difference)


@jax.jit
def _largest_trace(lin):
    """Upper bound on the trace of the kernel ``J J^T / N``; exact for dense layers."""
    each = [
        jnp.sum(jnp.sum(y.inputs**2, (1, 2)) * jnp.sum(y.sensitivities**2, (1, 2, 3)))
        for y in lin.layers
    ]
    return sum(each) / lin.num_samples


@jax.jit
@full_precision
def _factor(approximation, lin, damping):
    return approximation.factor(lin, damping)


@jax.jit
def _natural_gradient(prepared: Prepared, cotangent):
    approximation, lin = prepared.approximation, prepared.lin
    if prepared.factors is None:
        return approximation.precondition_once(lin, cotangent, prepared.damping)
    return approximation.precondition(lin, cotangent, prepared.factors)


@jax.jit
@full_precision
def _function_space_map(prepared: Prepared, at):
    factors = prepared.made_factors()
    return prepared.approximation.preconditioned_map(prepared.lin, factors, at)


@jax.jit
@full_precision
def _layer_maps(prepared: Prepared):
    factors, lin = prepared.made_factors(), prepared.lin
    return tuple(prepared.approximation.layer_terms(lin, factors, lin))


def approximation(cls):
    """Class decorator: make a frozen dataclass approximation a pytree whose only leaf is ``kind``.

    Options are checked by the annotations of their fields (`ngd_theory.arguments.checked`).
    """
    data = [f.name for f in fields(cls) if f.name == "kind"]
    return pytree(*data)(checked_fields(cls))
