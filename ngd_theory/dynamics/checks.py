"""Checks shared by prediction and training."""

import math

import jax.numpy as jnp
import numpy as np

from ngd_theory.arguments import check_finite, check_range, is_known, is_real
from ngd_theory.environment import available_memory
from ngd_theory.errors import InputError, shown
from ngd_theory.losses import Loss

#: Copies of the outputs of all steps that memory must hold: as computed, and put together.
_COPIES = 2


def check_schedule(step_size, num_steps, outputs, *others) -> None:
    """Check the step size and the number of steps.

    Parameters
    ----------
    step_size, num_steps
    outputs, *others : array or None
        The arrays that every step records; only shape and type are used.

    Raises
    ------
    InputError
        Unless the step size, if known, is positive and finite in the type of the outputs, ``num_steps >= 0``, and
        memory is free for the outputs of all steps.
    """
    known = is_known(step_size)
    if np.ndim(step_size) or (known and not (math.isfinite(step_size) and step_size > 0)):
        raise InputError(f"step_size is {step_size}; it must be one positive, finite number")
    check_range("step_size", step_size, jnp.result_type(outputs), positive=True)
    if num_steps < 0:
        raise InputError(f"num_steps is {num_steps}; it must be a whole number of at least 0")
    recorded = [array for array in (outputs, *others) if array is not None]
    of_a_step = _COPIES * sum(array.size * array.dtype.itemsize for array in recorded)
    # Steps are counted in 32 bits.
    room, free = 2**31 - 2, available_memory()
    if free is not None:
        room = min(room, free // of_a_step - 1)
    if num_steps > room:
        raise InputError(
            f"num_steps is {shown(num_steps)}; there is memory for the outputs of {max(room, 0)} steps: take fewer "
            "steps, fewer samples, or single steps of your own (natural_gradient)"
        )


def check_targets(loss: Loss, targets, outputs):
    """``targets`` in the type of the outputs; only shape and type of the outputs are used.

    Raises
    ------
    InputError
        For another shape, or numbers that are not real. If the values are known, also for a NaN or infinity, or a row
        that is invalid for the loss.
    """
    if not is_real(targets):
        raise InputError(f"targets are {shown(targets)}; they must be an array of real numbers")
    dtype = jnp.result_type(outputs)
    check_finite("targets", targets)
    check_range("targets", targets, dtype)
    loss.check(outputs, targets)
    return jnp.asarray(targets, dtype)
