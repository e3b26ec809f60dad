"""Normalisation over the units of each position, without parameters (`ScaleShift` has these)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: Added to the mean square, so that a zero vector stays zero.
EPSILON = 1e-6


def layer_norm(h: Float[Array, "*_ M"]) -> Float[Array, "*_ M"]:
    """Mean 0 and mean square 1 over the last axis (Ba et al. 2016), without parameters.

    Parameters
    ----------
    h : (..., M)

    Returns
    -------
    (..., M) array
    """
    return rms_norm(h - h.mean(-1, keepdims=True))


def rms_norm(h: Float[Array, "*_ M"]) -> Float[Array, "*_ M"]:
    """Mean square 1 over the last axis (Zhang & Sennrich 2019), without parameters.

    Parameters
    ----------
    h : (..., M)

    Returns
    -------
    (..., M) array
    """
    return h * jax.lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + EPSILON)


def no_norm(h: Float[Array, "*_ M"]) -> Float[Array, "*_ M"]:
    """The input, unchanged."""
    return h


#: Names of normalisations in builders and study files.
NORMS = {"layer": layer_norm, "rms": rms_norm, "none": no_norm}
