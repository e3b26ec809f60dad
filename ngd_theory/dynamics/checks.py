"""Checks shared by prediction and training."""

import math

import jax.numpy as jnp
import numpy as np

from ngd_theory.arguments import check_finite, is_known, is_real
from ngd_theory.errors import InputError, shown
from ngd_theory.losses import Loss


def check_schedule(step_size, num_steps) -> None:
    """Raise `InputError` unless the step size is positive and finite, where it is known, and ``num_steps >= 0``."""
    known = is_known(step_size)
    if np.ndim(step_size) or (known and not (math.isfinite(step_size) and step_size > 0)):
        raise InputError(f"step_size is {step_size}; it must be one positive, finite number")
    if num_steps < 0:
        raise InputError(f"num_steps is {num_steps}; it must be a whole number of at least 0")


def check_targets(loss: Loss, targets, outputs):
    """``targets`` in the type of the outputs, which need a shape only.

    Raises
    ------
    InputError
        For another shape, numbers that are not real, and where they are known a NaN or infinity, or a row that the
        loss has no meaning for.
    """
    if not is_real(targets):
        raise InputError(f"targets are {shown(targets)}; they must be an array of real numbers")
    check_finite("targets", targets)
    loss.check(outputs, targets)
    return jnp.asarray(targets, outputs.dtype)
