"""Momentum of a natural-gradient step: heavy ball, and SPRING."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.arguments import checked, checked_fields, is_known, is_number
from ngd_theory.errors import InputError, shown
from ngd_theory.pytrees import pytree


@pytree("decay", "correction")
@checked_fields
@dataclass(frozen=True)
class Momentum:
    """``d <- mu d + (G + rho)^-1 J^T (residual - c J d)/N``, then ``theta <- theta - eta d``; d starts at 0.

    J, G and the residual are those of the step's batch. Without c it is the heavy ball (Polyak 1964). With
    ``c = mu/alpha`` it is SPRING (Goldshlager, Abrahamsen & Lin 2024, where alpha = 1): it keeps only the part of the
    last direction that does not move the outputs on the current batch.

    Attributes
    ----------
    decay : float
        mu, from 0 to 1.
    correction : float, optional
        c >= 0.
    """

    made_by: ClassVar[str] = "ngd.dynamics.Momentum(0.9) or ngd.dynamics.spring(0.9)"
    decay: float | Array
    correction: float | Array | None = None

    def __post_init__(self):
        _require("decay", self.decay, 1.0, "from 0 to 1")
        if self.correction is not None:
            _require("correction", self.correction, _LARGEST, "finite and at least 0")

    def along(self, eigenvalues):
        """``mu - c lambda``: the factor of the last direction along eigenvectors of K, on the full batch."""
        correction = 0.0 if self.correction is None else self.correction
        return self.decay - correction * eigenvalues


_LARGEST = float(np.finfo(float).max)


def _require(name: str, value, most: float, words: str) -> None:
    # A NaN fails.
    if not is_number(value) or (is_known(value) and not 0 <= float(value) <= most):
        raise InputError(f"{name} is {shown(value)}; it must be one number, {words}")


@checked
def spring(decay: float | Array, constant: float | Array = 1.0) -> Momentum:
    """SPRING's momentum for an approximation with ``K = alpha I`` on a batch.

    Parameters
    ----------
    decay : float
        mu, from 0 to 1.
    constant : float
        alpha; 1 for exact. A step then leaves ``1 - eta alpha`` of the batch's residual, whatever mu is.

    Raises
    ------
    InputError
        For numbers out of range.
    """
    _require("constant", constant, _LARGEST, "positive and finite")
    if is_known(constant) and constant == 0:
        raise InputError("constant is 0; it must be one number, positive and finite")
    return Momentum(decay, decay / constant)


def as_momentum(momentum: float | Array | Momentum, dtype) -> Momentum | None:
    """Convert a number to heavy ball, in the type of the outputs; None if it is known to be no momentum."""
    found = momentum if isinstance(momentum, Momentum) else Momentum(momentum)
    if all(is_known(number) and number == 0 for number in jax.tree.leaves(found)):
        return None
    return jax.tree.map(lambda number: jnp.asarray(number, dtype), found)


def next_direction(approximation, lin, residual, damping, direction, momentum: Momentum | None):
    """Direction d of a step on ``lin``, from the last direction; without momentum it is the natural gradient."""
    if momentum is None:
        return approximation.natural_gradient(lin, residual, damping)
    if momentum.correction is not None:
        residual = residual - momentum.correction * lin.jvp(direction)
    gradient = approximation.natural_gradient(lin, residual, damping)
    return jax.tree.map(lambda d, g: momentum.decay * d + g, direction, gradient)


@checked
def spectral_radius(
    eigenvalues: Float[Array, " n"],
    step_size: float | Array,
    momentum: float | Array | Momentum = 0.0,
) -> Float[Array, " n"]:
    """Long-run factor per step of the residual along each eigenvector of K, on the full batch.

    It is the larger modulus of the two roots of ``z^2 - (1 + m - x) z + m``, which come from the 2 x 2 recursion of
    residual and direction. Here ``x = eta lambda`` and ``m = mu - c lambda``.

    Parameters
    ----------
    eigenvalues : (n,)
        lambda, the eigenvalues of K.
    step_size : float
        eta.
    momentum : float or Momentum

    Returns
    -------
    (n,) array
        Below 1 where training converges; ``abs(1 - eta lambda)`` without momentum.

    Raises
    ------
    InputError
        For a step size that is not positive and finite, or a momentum out of range.
    """
    _require("step_size", step_size, _LARGEST, "positive and finite")
    how = as_momentum(momentum, eigenvalues.dtype)
    m = jnp.zeros_like(eigenvalues) if how is None else how.along(eigenvalues)
    trace = 1 + m - step_size * eigenvalues
    root = jnp.sqrt((trace**2 - 4 * m).astype(jnp.result_type(eigenvalues, jnp.complex64)))
    return jnp.maximum(jnp.abs(trace + root), jnp.abs(trace - root)) / 2
