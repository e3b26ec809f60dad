"""Damping, and the choice it makes between a Cholesky solve and the limit rho -> 0."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ngd_theory.arguments import check_range, is_known, is_number
from ngd_theory.errors import InputError, shown
from ngd_theory.pytrees import pytree


@pytree("value")
@dataclass(frozen=True)
class Damping:
    """A damping rho >= 0; zero means the limit rho -> 0 (pseudo-inverse).

    Attributes
    ----------
    value : scalar array
    zero : bool or None
        Whether rho is zero; None if only the run knows (a traced or array value).
    """

    made_by: ClassVar[str] = "ngd.fisher.as_damping(1e-3)"
    value: Array | np.ndarray
    zero: bool | None

    def map(self, function: Callable) -> "Damping":
        """The damping ``function(rho)``. The function must map zero to zero."""
        return Damping(function(self.value), self.zero)

    def select(self, positive: Callable, limit: Callable, *args):
        """``positive(rho, *args)`` where rho > 0, ``limit(rho, *args)`` where rho = 0.

        If rho is known to be zero before the run, ``limit`` gets None: there is then no derivative by rho.
        """
        if self.zero is None:
            # Under vmap both are computed, and derivatives need a finite value of the one that is not used.
            return jax.lax.cond(
                self.value > 0,
                lambda rho, *a: positive(jnp.where(rho > 0, rho, 1), *a),
                limit,
                self.value,
                *args,
            )
        return limit(None, *args) if self.zero else positive(self.value, *args)


def as_damping(damping, dtype=None) -> Damping:
    """Make a `Damping` from a number, an array or a `Damping`.

    With a Python or NumPy number, its value decides which solve is compiled. With a JAX array, one program serves all
    values.

    Parameters
    ----------
    damping : float, scalar array or Damping
    dtype : floating type, optional
        Type of the solve, in whose range the damping must be; JAX's default float when None.

    Raises
    ------
    InputError
        For a negative, infinite, complex or non-scalar damping, or one beyond the range of ``dtype``. A value inside
        jit, vmap or grad is not known, and is not checked.
    """
    value = damping.value if isinstance(damping, Damping) else damping
    if not is_known(value) and is_number(value):
        return damping if isinstance(damping, Damping) else Damping(value, zero=None)
    if not is_number(value):
        raise InputError(f"damping is {shown(value)}; it must be one finite number >= 0")
    # False for NaN.
    if not 0 <= float(value) < np.inf:
        raise InputError(f"damping is {value}; it must be one finite number >= 0")
    dtype = jnp.result_type(float) if dtype is None else dtype
    check_range("damping", value, dtype)
    if isinstance(damping, Damping):
        return damping
    if isinstance(damping, jax.Array):
        return Damping(damping, zero=None)
    # In the precision of the run: in float32 a tiny number is zero.
    rho = np.asarray(float(value), dtype)
    return Damping(jnp.asarray(rho), zero=bool(rho < jnp.finfo(dtype).tiny))
