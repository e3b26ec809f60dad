"""Where the kernel of a ReLU network without biases has no derivative: at the sample 0.

It is a cone there, ``|x| |x'|`` times a function of the angle. What the recursion computes with would give a derivative
all the same, and a wrong one. So that it is NaN instead, zeros whose derivatives are NaN are added to a covariance.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.kernels.infinite.moments import Size, outer


def corner(
    x1: Float[Array, "N M0"], a: Size, x2: Float[Array, "M M0"], b: Size
) -> Float[Array, "N M"]:
    """Zeros whose first and mixed derivatives are NaN where a kernel has none, and zero elsewhere.

    The kernel of 0 and any sample is 0: of two samples without variance only the mixed derivative is missing.
    """
    rows, columns = _undefined(x1, a), _undefined(x2, b)
    no_rows, no_columns = (a.deviation == 0)[:, None], (b.deviation == 0)[None, :]
    # The factors of 1 carry the missing to mixed derivatives.
    left = jnp.where(no_columns, 0, outer(rows, 1 + _moved(x2)))
    right = jnp.where(no_rows, 0, outer(1 + _moved(x1), columns))
    return left + right + jnp.where(no_rows & no_columns, _flat(x1, a, x2, b), 0)


def _moved(x) -> Array:
    """Zero a sample, with derivative 1 by every entry."""
    return jnp.sum(x - jax.lax.stop_gradient(x), axis=1)


def _undefined(x, size: Size):
    """Zero a sample.

    Where it has no variance, its derivative along a direction is 0 if the direction is 0, and NaN otherwise; in both
    modes.
    """
    zero = (size.deviation == 0)[:, None]
    most = jnp.where(zero, jnp.finfo(x.dtype).max, 0)
    least = jnp.where(zero, 0, 1).astype(x.dtype)
    # A number but 0 overflows, and infinity times 0 is NaN: the same from the left as from the right.
    change = x - jax.lax.stop_gradient(x)
    return jnp.sum(most * (most * (least * (most * (most * change)))), axis=1)


@jax.custom_jvp
def _flat(x1, a: Size, x2, b: Size):
    """Zeros (N, M), of derivative 0 and, where both samples have no variance, mixed derivative NaN."""
    return outer(_bent(x1, a), _bent(x2, b))


@_flat.defjvp
def _flat_jvp(primals, tangents):
    (x1, a, x2, b), (t1, _, t2, _) = primals, tangents
    change = outer(jnp.sum(t1, axis=1), _bent(x2, b)) + outer(_bent(x1, a), jnp.sum(t2, axis=1))
    return _flat(*primals), change


@jax.custom_jvp
def _bent(x, size: Size):
    """Zero a sample, with derivative NaN where it has no variance."""
    return jnp.zeros_like(size.deviation)


@_bent.defjvp
def _bent_jvp(primals, tangents):
    slope = jnp.where(primals[1].deviation == 0, jnp.nan, 0)
    return _bent(*primals), slope * jnp.sum(tangents[0], axis=1)
