"""Checks shared by prediction and training."""

import math

import jax.numpy as jnp
import numpy as np

from ngd_theory.errors import InputError
from ngd_theory.networks.sharding import on_host


def check_schedule(step_size, num_steps) -> None:
    """Raise `InputError` unless the step size is positive and finite and ``num_steps >= 0``."""
    if np.ndim(step_size) != 0 or not (math.isfinite(step_size) and step_size > 0):
        raise InputError(f"step_size is {step_size}; it must be one positive, finite number")
    if int(num_steps) != num_steps or num_steps < 0:
        raise InputError(f"num_steps is {num_steps}; it must be a whole number of at least 0")


def check_targets(targets, shape):
    """``targets`` as an array; raise `InputError` unless finite and of the outputs' shape."""
    if jnp.shape(targets) != shape:
        raise InputError(f"targets have shape {jnp.shape(targets)}; the outputs have {shape}")
    check_finite("targets", targets)
    return jnp.asarray(targets)


def check_finite(name, values) -> None:
    """Raise `InputError` naming the first NaN or infinity in ``values``."""
    finite = np.isfinite(on_host(values))
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise InputError(f"{name} has a NaN or infinity at index {where}; clean the data first")
