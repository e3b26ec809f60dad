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
    """How figures show an approximation: a colour, matplotlib's marker, and a name where it is another."""

    colour: str
    marker: str
    label: str = ""


#: How near the limit a result must be where its damping is below the rounding.
SAME = 1e-2


class Approximation(abc.ABC):
    """A preconditioner G of the gradient: ``theta <- theta - eta (G + rho I)^-1 grad``.

    A new approximation is a frozen dataclass with a ``name`` that is decorated with `approximation`. It defines
    `factor`, what is made once of a linearisation and a damping, and `precondition`, which applies that to one
    cotangent; `layer_terms` has a default that applies it to NC of them. It is a JAX pytree, so that it can be an
    argument of a jitted function.
    """

    made_by: ClassVar[str] = "ngd.fisher.by_name('kfac'), say"
    name: ClassVar[str]
    #: Whether K becomes isotropic only as the width grows, not at any width that meets the conditions.
    asymptotic: ClassVar[bool] = False
    #: Whether its constant is of the trace of K alone, which is no multiple of the identity at any width.
    trace_only: ClassVar[bool] = False
    #: Whether its map off the training set has an infinite-width limit of its own.
    has_limit: ClassVar[bool] = True
    #: Whether K is a sum of maps of one layer each, ``(1/N) J_l G_l^-1 J_l^T``.
    by_layers: ClassVar[bool] = False
    #: Whether G is made of the inputs and units of affine layers, not of parameters and kernels alone.
    needs_layers: ClassVar[bool] = False
    #: Names of the conditions in `ngd_theory.theory.conditions` under which K is isotropic.
    requirements: ClassVar[tuple[str, ...]] = ()
    #: In every figure; a user's own are olive stars.
    look: ClassVar[Look] = Look("#999900", "*")
    #: Losses under which its training is predicted with a derived tolerance.
    predicted_losses: ClassVar[tuple[str, ...]] = ("mse",)
    #: Why it is verified only where it is named; empty where it always is.
    named_only: ClassVar[str] = ""

    @checked
    def natural_gradient(
        self, lin: Linearization, cotangent: Float[Array, "N C"], damping
    ) -> PyTree[Array]:
        """``(G + damping I)^-1 J^T cotangent / N``, like the parameters.

        Parameters
        ----------
        lin : Linearization
        cotangent : (N, C)
            The loss's residual: ``f - y`` for MSE, ``softmax(f) - y`` for cross-entropy.
        damping : float or scalar array
            rho >= 0; 0 is the limit rho -> 0 (pseudo-inverse).

        Returns
        -------
        tuple of dict, a layer's each; or a tree like the parameters of `linearize_function`
            The gradient's 1/N is inside, the step size is not.

        Raises
        ------
        InputError
            For a cotangent of the wrong shape, a damping that is negative or beyond the range of the outputs' type, a
            NaN or infinity in what is given, or the linearisation of a function without layers where G needs them.
        SingularKernelError
            Where the result is not finite though all that is given is: a solve broke down. Values are read outside jit,
            vmap and grad only; inside, the result is then NaN.
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
            Of the same network and parameters at N' inputs; ``lin`` when None.

        Returns
        -------
        (N'*C, N*C) array
            Row index ``n'*C + c``.

        Raises
        ------
        InputError, SingularKernelError
            As `natural_gradient`; for an ``at`` with other layers.
        """
        return self._unfactored(lin, damping).function_space_map(at)

    @checked
    def prepare(self, lin: Linearization, damping) -> "Prepared":
        """Factor at a linearisation and a damping, once for all that is asked there.

        ``prepare(lin, rho).natural_gradient(v)`` is ``natural_gradient(lin, v, rho)``, and so on; what `factor` makes
        is not made again. Worth it where more than one of a natural gradient, a map, and a map to other inputs is
        wanted: `natural_gradient` and `function_space_map` of this class factor at each call.

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
        """As `prepare`, but factored in the program of what is asked: one program each."""
        self.check_layers(lin)
        return Prepared(self, lin, as_damping(damping, lin.outputs.dtype))

    def _check_result(self, what: str, found, lin, damping, cotangent=None) -> None:
        """Say why a result is not finite; no more than one look at it where it is."""
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
        """Below round-off the damped result must equal the limit rho -> 0.

        Where it does not (copies of a sample), it has no correct digit. Checked for the true Fisher under MSE only;
        others need not have a limit.
        """
        if not all(map(is_known, jax.tree.leaves((found, damping.value, lin)))):
            return
        rho, eps = float(damping.value), float(jnp.finfo(lin.outputs.dtype).eps)
        never_isotropic = type(self).damping_bias is Approximation.damping_bias
        # Above sqrt(eps) it is larger than the rounding of any kernel below 1/sqrt(eps).
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
        """Raise `InputError` for what is no linearisation, or shows no layers where G is made of them."""
        require_type("lin", lin, Linearization, Linearization.made_by)
        if self.needs_layers and not lin.has_layers:
            raise InputError(
                f"{self.name!r} is made of the inputs and units of affine layers, and this linearisation has groups of "
                "parameters only (linearize_function): name its layers (ngd.networks.network, or linearize_model for "
                "equinox and flax), or take exact, block-diagonal, block-tridiagonal or entry-wise"
            )

    def of_samples(self, samples: Int[Array, " B"]) -> "Approximation":
        """The approximation of some of the samples: the targets of an empirical Fisher are theirs."""
        kind = getattr(self, "kind", None)
        if not isinstance(kind, EmpiricalFisher):
            return self
        return replace(self, kind=kind.take(samples))  # pyright: ignore[reportArgumentType, reportCallIssue]

    def factor(self, lin: Linearization, damping: Damping) -> Any:
        """What is made once of a linearisation and a damping, for `precondition` and `layer_terms` to apply.

        Arguments are already checked. Any pytree of arrays: factors, an inverse's pieces, whitened rows. By default
        the damping itself, which is to factor anew for each cotangent.
        """
        return damping

    @abc.abstractmethod
    def precondition(
        self, lin: Linearization, cotangent: Float[Array, "N C"], factors: Any
    ) -> PyTree[Array]:
        """Compute `natural_gradient` from what `factor` made; arguments are already checked."""

    def layer_terms(
        self, lin: Linearization, factors: Any, at: Linearization
    ) -> Sequence[Float[Array, "MC NC"]]:
        """What each layer's step adds to `function_space_map`: here column by column from `precondition`.

        ``(1/N) J_l(at) [(G + rho)^-1 J^T]_l``; where G couples no layers, ``(1/N) J_l(at) (G_l + rho)^-1 J_l^T``.
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
        """Compute `function_space_map` from what `factor` made: here the sum of `layer_terms`."""
        terms = self.layer_terms(lin, factors, at)
        return sum(terms[1:], terms[0])

    def factored(self, lin: Linearization, factors: Any) -> Any:
        """What `factor` makes, where a damping is given in its place, as callers of earlier versions do."""
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
            Where G couples layers, so that K is no sum over them.
        """
        return self._unfactored(lin, damping).layer_maps()

    def matched_damping(self, damping: float) -> float:
        """The damping at which this approximation's own inverses are damped by about ``damping``."""
        return damping

    def breakdown(self, lin: Linearization, cotangent: Float[Array, "N C"], damping) -> str | None:
        """Why a natural gradient is not finite, where the approximation itself can tell; reads values."""
        return None

    def workspace(self, sizes: tuple[LayerSize, ...], num_samples: int, itemsize: int) -> int:
        """Numbers that a natural gradient holds beside the linearisation and what has the parameters' shape.

        A model from the leading terms, for `ngd_theory.theory.step_memory`; ``itemsize`` is in bytes.
        """
        return 0

    def damping_bias(self, lin: Linearization, damping: float) -> float | None:
        """Leading-order bound on ``||K(rho) - K(0)||_2 / alpha``, from the spectra at hand.

        None where the approximation is never isotropic. Reads values: not for use inside jit.
        """
        return None

    def solve_condition(self, lin: Linearization, damping: float) -> float | None:
        """Estimate of the mean condition number of the systems solved, where it may be far above the NTK's; else None.

        Reads values: not for use inside jit.
        """
        return None

    def broken_premises(
        self, sizes: tuple[LayerSize, ...], num_samples: int, equal_leverages: bool = False
    ) -> dict[str, str]:
        """Premises of isotropy that sizes alone show to fail: by name in `ngd_theory.fisher.PREMISES`, why.

        ``equal_leverages``: whether the inputs were made to have them (Forster transform).
        """
        return {}

    def layer_constants(
        self, sizes: tuple[LayerSize, ...], num_samples: int
    ) -> tuple[float, ...] | None:
        """Each layer's share ``tr K_l / (NC)`` of the isotropy constant, as rho -> 0 and the width grows.

        None where the theory states none.
        """
        return None

    def measured_constants(
        self, lin: Linearization, sizes: tuple[LayerSize, ...]
    ) -> tuple[float, ...] | None:
        """`layer_constants` of a linearisation at hand, ``sizes`` its measured ones; reads values.

        Where ranks do not tell the trace, what does is taken from ``lin``.
        """
        return self.layer_constants(sizes, lin.num_samples)

    def isotropy_constant(self, sizes: tuple[LayerSize, ...], num_samples: int) -> float | None:
        """``alpha = tr K / (NC)`` as rho -> 0 and the width grows; None where there is none."""
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
        What `Approximation.factor` made; None where it is to be made with what is asked.
    """

    made_by: ClassVar[str] = "ngd.fisher.by_name('kfac').prepare(lin, damping)"
    approximation: Any
    lin: Linearization
    damping: Damping
    factors: Any = None

    def made_factors(self) -> Any:
        """``factors``, made here where they are not there yet; for the inside of jitted functions."""
        if self.factors is not None:
            return self.factors
        return self.approximation.factor(self.lin, self.damping)

    @checked
    def natural_gradient(self, cotangent: Float[Array, "N C"]) -> PyTree[Array]:
        """`Approximation.natural_gradient`, with its errors."""
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
        """`Approximation.function_space_map`, with its errors."""
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
        """`Approximation.layer_maps`, with its errors."""
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
    """Maps on the training set and to ``at``, factored once; None for the second without ``at``."""
    if at is None:
        return approximation.function_space_map(lin, damping), None
    prepared = approximation.prepare(lin, damping)
    return prepared.function_space_map(), prepared.function_space_map(at)


def require_approximation(approximation) -> None:
    """Raise `InputError` unless it is an `Approximation`."""
    require_type("approximation", approximation, Approximation, Approximation.made_by)


def _is_plain(approximation: Approximation) -> bool:
    """Whether it is of the true Fisher under MSE: Lambda = I."""
    kind = getattr(approximation, "kind", TrueFisher())
    return isinstance(kind, TrueFisher) and losses.by_name(kind.loss).unit_fisher


@jax.jit
def _distance(tree, other=None):
    """Euclidean, of all leaves together."""
    difference = tree if other is None else jax.tree.map(jnp.subtract, tree, other)
    return norm(difference)


@jax.jit
def _largest_trace(lin):
    """At least the trace of the kernel ``J J^T / N``, and equal to it for dense layers."""
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
    return prepared.approximation.precondition(prepared.lin, cotangent, prepared.made_factors())


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
