"""Checks that all builders of networks share."""

import jax.numpy as jnp

from ngd_theory.arguments import is_whole
from ngd_theory.errors import InputError, shown


def require_size(name: str, size) -> int:
    """Return ``size`` as an int.

    Raises
    ------
    InputError
        Unless it is a whole number of at least 1.
    """
    if not is_whole(size) or size < 1:
        raise InputError(f"{name} is {shown(size)}; it must be a whole number of at least 1")
    return int(size)


def require_floating(dtype) -> jnp.dtype:
    """Return ``dtype``; JAX's default float when None.

    Raises
    ------
    InputError
        Unless it is a type of real floating numbers.
    """
    if dtype is None:
        return jnp.zeros(()).dtype
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        given = dtype.__name__ if isinstance(dtype, type) else shown(dtype)
        raise InputError(f"dtype is {given}; it must be a floating type, such as jax.numpy.float32")
    return found


def require_scales(weight_std: float, bias_std: float) -> tuple[float, float]:
    """Return both as floats.

    Raises
    ------
    InputError
        Unless sigma_w > 0 and sigma_b >= 0, both finite.
    """
    if not 0 < weight_std < float("inf"):
        raise InputError(f"weight_std is {weight_std}; it must be positive and finite")
    if not 0 <= bias_std < float("inf"):
        raise InputError(f"bias_std is {bias_std}; it must be zero or positive, and finite")
    return float(weight_std), float(bias_std)
