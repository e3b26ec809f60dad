"""Norms, powers and geometric sums that are accurate whenever the result is in the range of its type."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def norm(tree: Any) -> Float[Array, ""]:
    """Euclidean norm of all leaves of a tree together; its derivative is 0 at 0.

    Scaled by the largest entry: squares of 1e-25 and 1e25 are out of float32's range.
    """
    leaves = jax.tree.leaves(tree)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0) for leaf in leaves]))
    scale = _scale(largest)
    return scale * _root(sum(jnp.sum((leaf / scale) ** 2) for leaf in leaves))


def row_norms(x: Float[Array, "N M"]) -> Float[Array, " N"]:
    """`norm` of every row."""
    scale = _scale(jnp.max(jnp.abs(x), axis=1))
    return scale * _root(jnp.sum((x / scale[:, None]) ** 2, axis=1))


def _scale(largest):
    # The result does not depend on the scale, so the scale may be a constant to derivatives. It is clipped so that
    # 1/scale is in range.
    limits = jnp.finfo(largest.dtype)
    return jax.lax.stop_gradient(jnp.clip(largest, 4 * limits.tiny, limits.max / 16))


def _root(x):
    # Not x > 0: a NaN stays one.
    return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))


def power(base: Float[Array, "..."], exponent: Int[Array, "..."]) -> Float[Array, "..."]:
    """``base**exponent`` with broadcasting, for whole exponents >= 0. Its derivative by the base exists at 0."""
    shape = jnp.broadcast_shapes(base.shape, exponent.shape)
    return _power(jnp.broadcast_to(base, shape), jnp.broadcast_to(exponent, shape))


@jax.custom_jvp
def _power(base, exponent):
    return jax.lax.pow(base, exponent)


@_power.defjvp
def _(primals, tangents):
    # JAX's own rule gives 0 times infinity for the second derivative at 0.
    base, exponent = primals
    slope = exponent.astype(base.dtype) * _power(base, jnp.maximum(exponent - 1, 0))
    return _power(base, exponent), slope * tangents[0]


def geometric_sum(rate: Float[Array, "..."], terms: Int[Array, "..."]) -> Float[Array, "..."]:
    """``sum_{s < t} (1 - x)^s``, which is ``(1 - (1 - x)^t)/x`` and t at x = 0, with its derivative by x.

    Parameters
    ----------
    rate : array
        x.
    terms : array of whole numbers >= 0
        t; it broadcasts with ``rate``.
    """
    t = terms.astype(rate.dtype)
    # 1 - (1 - x)^t cancels unless x is large. Derivatives of the quotient by x cancel where x t is small.
    large, small = rate >= 0.5, jnp.abs(rate) * jnp.maximum(t, 1) < 0.1
    x = jnp.where(large | small, 0.25, rate)
    smooth = -jnp.expm1(t * jnp.log1p(-x)) / x
    direct = (1 - power(1 - rate, terms)) / jnp.where(large, rate, 1)
    x, series = jnp.where(small, rate, 0), jnp.ones_like(rate * t)
    for k in range(10, 0, -1):
        series = 1 - (t - k) / (k + 1) * x * series
    return jnp.where(small, t * series, jnp.where(large, direct, smooth))
