"""The one interface of every Fisher approximation."""

import abc
from collections.abc import Callable
from dataclasses import fields
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

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
from ngd_theory.fisher.kinds import TrueFisher
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

    A new approximation is a frozen dataclass with a ``name`` that is decorated with `approximation`
    and defines `precondition`; `preconditioned_map` has a default that costs NC natural gradients.
    It is a JAX pytree, so that it can be an argument of a jitted function.
    """

    made_by: ClassVar[str] = "ngd.fisher.by_name('kfac'), say"
    name: ClassVar[str]
    #: Whether K becomes isotropic only as the width grows, not at any width that meets the conditions.
    asymptotic: ClassVar[bool] = False
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
        self._check_layers(lin)
        if jnp.shape(cotangent) != lin.outputs.shape:
            raise InputError(
                f"cotangent has shape {jnp.shape(cotangent)}; the outputs have {lin.outputs.shape}"
            )
        check_range("cotangent", cotangent, lin.outputs.dtype)
        rho = as_damping(damping, lin.outputs.dtype)
        found = _natural_gradient(self, lin, jnp.asarray(cotangent), rho)
        self._check_result("natural gradient", found, lin, rho, cotangent)
        self._check_digits(
            "natural gradient", found, lin, rho, lambda: self.natural_gradient(lin, cotangent, 0.0)
        )
        return found

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
        self._check_layers(lin)
        at = lin if at is None else at
        if [y.layout for y in at.layers] != [y.layout for y in lin.layers]:
            raise InputError("`at` linearises a network with other layers than `lin`")
        at = at.in_coordinates_of(lin)
        rho = as_damping(damping, lin.outputs.dtype)
        found = _function_space_map(self, lin, rho, at)
        self._check_result("function-space map", found, (lin, at), rho)
        self._check_digits(
            "function-space map", found, lin, rho, lambda: self.function_space_map(lin, 0.0, at)
        )
        return found

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

    def _check_layers(self, lin: Linearization) -> None:
        require_type("lin", lin, Linearization, Linearization.made_by)
        if self.needs_layers and not lin.has_layers:
            raise InputError(
                f"{self.name!r} is made of the inputs and units of affine layers, and this linearisation has groups of "
                "parameters only (linearize_function): build the network by ngd.networks.mlp or cnn, or take exact, "
                "block-diagonal, block-tridiagonal or entry-wise"
            )

    @abc.abstractmethod
    def precondition(
        self, lin: Linearization, cotangent: Float[Array, "N C"], damping: Damping
    ) -> PyTree[Array]:
        """Compute `natural_gradient`; arguments are already checked."""

    def preconditioned_map(
        self, lin: Linearization, damping: Damping, at: Linearization
    ) -> Float[Array, "MC NC"]:
        """Compute `function_space_map`: here column by column from `precondition`."""
        n, c = lin.outputs.shape
        basis = jnp.eye(n * c, dtype=lin.outputs.dtype).reshape(n * c, n, c)
        columns = jax.lax.map(lambda e: at.jvp(self.precondition(lin, e, damping)).ravel(), basis)
        return columns.T

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
        self._check_layers(lin)
        if not self.by_layers:
            raise InputError(
                f"{self.name!r} couples the layers: its function-space map is no sum of maps of one layer each"
            )
        return tuple(
            self.function_space_map(Linearization(lin.outputs, (layer,)), damping)
            for layer in lin.layers
        )

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

    def isotropy_constant(self, sizes: tuple[LayerSize, ...], num_samples: int) -> float | None:
        """``alpha = tr K / (NC)`` as rho -> 0 and the width grows; None where there is none."""
        shares = self.layer_constants(sizes, num_samples)
        return None if shares is None else float(sum(shares))


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
def _natural_gradient(approximation, lin, cotangent, damping):
    return approximation.precondition(lin, cotangent, damping)


@jax.jit
@full_precision
def _function_space_map(approximation, lin, damping, at):
    return approximation.preconditioned_map(lin, damping, at)


def approximation(cls):
    """Class decorator: make a frozen dataclass approximation a pytree whose only leaf is ``kind``.

    Options are checked by the annotations of their fields (`ngd_theory.arguments.checked`).
    """
    data = [f.name for f in fields(cls) if f.name == "kind"]
    return pytree(*data)(checked_fields(cls))
