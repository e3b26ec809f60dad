"""The one interface of every Fisher approximation."""

import abc
from dataclasses import fields
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ngd_theory.errors import InputError, require_type
from ngd_theory.fisher.damping import Damping, as_damping
from ngd_theory.networks import LayerSize, Linearization
from ngd_theory.precision import full_precision
from ngd_theory.pytrees import pytree


class Approximation(abc.ABC):
    """A preconditioner G of the gradient: ``theta <- theta - eta (G + rho I)^-1 grad``.

    A new approximation is a frozen dataclass with a ``name`` that is decorated with `approximation`
    and defines `precondition`; `preconditioned_map` has a default that costs NC natural gradients.
    It is a JAX pytree, so that it can be an argument of a jitted function.
    """

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
            For a cotangent of the wrong shape, a negative damping, or the linearisation of a function without layers
            where G needs them.
        """
        self._check_layers(lin)
        if jnp.shape(cotangent) != lin.outputs.shape:
            raise InputError(
                f"cotangent has shape {jnp.shape(cotangent)}; the outputs have {lin.outputs.shape}"
            )
        return _natural_gradient(self, lin, jnp.asarray(cotangent), as_damping(damping))

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
        """
        self._check_layers(lin)
        at = lin if at is None else at
        if [y.layout for y in at.layers] != [y.layout for y in lin.layers]:
            raise InputError("`at` linearises a network with other layers than `lin`")
        return _function_space_map(self, lin, as_damping(damping), at)

    def _check_layers(self, lin: Linearization) -> None:
        if self.needs_layers and lin.grouping is not None:
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
    require_type("approximation", approximation, Approximation, "ngd.fisher.by_name('kfac'), say")


@jax.jit
def _natural_gradient(approximation, lin, cotangent, damping):
    return approximation.precondition(lin, cotangent, damping)


@jax.jit
@full_precision
def _function_space_map(approximation, lin, damping, at):
    return approximation.preconditioned_map(lin, damping, at)


def approximation(cls):
    """Class decorator: make a frozen dataclass approximation a pytree whose only leaf is ``kind``."""
    names = [f.name for f in fields(cls)]
    data = [name for name in names if name == "kind"]
    return pytree(*data)(cls)
