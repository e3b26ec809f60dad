"""Damping, and the choice it makes between a Cholesky solve and the limit rho -> 0."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ngd_theory.errors import InputError
from ngd_theory.pytrees import pytree


@pytree("value")
@dataclass(frozen=True)
class Damping:
    """A damping rho >= 0; zero means the limit rho -> 0 (pseudo-inverse).

    Attributes
    ----------
    value : scalar array
    zero : bool or None
        Whether rho is zero; None when only the run knows (a traced or array value).
    """

    value: Array | np.ndarray
    zero: bool | None

    def map(self, function: Callable) -> "Damping":
        """Damping ``function(rho)``, for a function that keeps zero at zero."""
        return Damping(function(self.value), self.zero)

    def select(self, positive: Callable, limit: Callable, *args):
        """``positive(rho, *args)`` where rho > 0, ``limit(*args)`` where rho = 0."""
        if self.zero is None:
            return jax.lax.cond(
                self.value > 0,
                lambda rho, *a: positive(rho, *a),
                lambda rho, *a: limit(*a),
                self.value,
                *args,
            )
        return limit(*args) if self.zero else positive(self.value, *args)


def as_damping(damping) -> Damping:
    """Make a `Damping` of a number, an array or a `Damping`.

    Raises
    ------
    InputError
        For a negative, infinite or non-scalar damping, where its value is known.
    """
    if isinstance(damping, Damping):
        return damping
    if isinstance(damping, int | float | np.generic | np.ndarray):
        if np.ndim(damping) != 0 or not 0 <= (rho := float(damping)) < np.inf:
            raise InputError(f"damping is {damping}; it must be one finite number >= 0")
        # In the precision of the run: in float32 a tiny number is zero.
        value = np.asarray(rho, jnp.result_type(float))
        return Damping(jnp.asarray(value), zero=bool(value == 0))
    if jnp.shape(damping) != ():
        raise InputError(f"damping has shape {jnp.shape(damping)}; it must be a scalar")
    return Damping(damping, zero=None)
