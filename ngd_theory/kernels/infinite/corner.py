"""The kernel of a ReLU network without biases has no derivative at the sample 0.

It is a cone there: ``|x| |x'|`` times a function of the angle. The recursion's formulas would still give a derivative,
but a wrong one. To make it NaN, the recursion adds zeros whose derivatives are NaN to a covariance.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.kernels.infinite.moments import Size, outer


def corner(
    x1: Float[Array, "N M0"], a: Size, x2: Float[Array, "M M0"], b: Size
) -> Float[Array, "N M"]:
    """Zeros whose first and mixed derivatives are NaN where a kernel has none, and zero elsewhere.

    The kernel of 0 and any sample is 0. So for two samples without variance, only the mixed derivative does not exist.
    """
    rows, columns = _undefined(x1, a), _undefined(x2, b)
    no_rows, no_columns = (a.deviation == 0)[:, None], (b.deviation == 0)[None, :]
    # The factors ``1 + 0`` carry the NaN into mixed derivatives.
    left = jnp.where(no_columns, 0, outer(rows, 1 + _moved(x2)))
    right = jnp.where(no_rows, 0, outer(1 + _moved(x1), columns))
    return left + right + jnp.where(no_rows & no_columns, _flat(x1, a, x2, b), 0)


def _moved(x) -> Array:
    """One zero per sample, with derivative 1 by every entry."""
    return jnp.sum(x - jax.lax.stop_gradient(x), axis=1)


def _undefined(x, size: Size):
    """One zero per sample.

    If the sample has no variance, the derivative along a direction is NaN unless the direction is 0, in both modes.
    """
    zero = (size.deviation == 0)[:, None]
    most = jnp.where(zero, jnp.finfo(x.dtype).max, 0)
    least = jnp.where(zero, 0, 1).astype(x.dtype)
    # Every number except 0 overflows, and infinity times 0 is NaN. The order is symmetric for both modes.
    change = x - jax.lax.stop_gradient(x)
    return jnp.sum(most * (most * (least * (most * (most * change)))), axis=1)


@jax.custom_jvp
def _flat(x1, a: Size, x2, b: Size):
    """Zeros (N, M) with derivative 0. The mixed derivative is NaN where a sample has no variance."""
    return outer(_bent(x1, a), _bent(x2, b))


@_flat.defjvp
def _flat_jvp(primals, tangents):
    (x1, a, x2, b), (t1, _, t2, _) = primals, tangents
    change = outer(jnp.sum(t1, axis=1), _bent(x2, b)) + outer(_bent(x1, a), jnp.sum(t2, axis=1))
    return _flat(*primals), change


@jax.custom_jvp
def _bent(x, size: Size):
    """One zero per sample, with derivative NaN if the sample has no variance."""
    return jnp.zeros_like(size.deviation)


@_bent.defjvp
def _bent_jvp(primals, tangents):
    slope = jnp.where(primals[1].deviation == 0, jnp.nan, 0)
    return _bent(*primals), slope * jnp.sum(tangents[0], axis=1)
