"""Which samples each step of mini-batch training sees."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ngd_theory.arguments import checked, is_known
from ngd_theory.errors import InputError, choose, shown


def _epochs(key, num_samples: int, size: int, num_steps: int):
    """Each sample once an epoch; what does not fill a batch is left out of that epoch."""
    a_epoch = num_samples // size
    keys = jax.random.split(key, -(-num_steps // a_epoch))
    order = jax.vmap(lambda k: jax.random.permutation(k, num_samples))(keys)
    return order[:, : a_epoch * size].reshape(-1, size)[:num_steps]


def _independent(key, num_samples: int, size: int, num_steps: int):
    """A new subset at every step, all equally likely."""
    keys = jax.random.split(key, num_steps)
    return jax.vmap(lambda k: jax.random.permutation(k, num_samples)[:size])(keys)


#: Name -> how batches are drawn, ``(key, N, B, T) -> (T, B)``.
ORDERS = {"epochs": _epochs, "independent": _independent}


@checked
def draw_batches(
    key, num_samples: int, size: int, num_steps: int, order: str = "epochs"
) -> Int[Array, "T B"]:
    """Draw the batches of ``num_steps`` steps.

    Parameters
    ----------
    key : jax.random key
    num_samples : int
        N.
    size : int
        B, from 1 to N. No sample is twice in a batch.
    num_steps : int
        T.
    order : {"epochs", "independent"}
        Every sample once before any comes again (what does not fill a batch is left out of that epoch), or a new
        subset at every step.

    Returns
    -------
    (T, B) array
        Numbers of samples.

    Raises
    ------
    InputError
        For an unknown order or sizes out of range.
    """
    choose(ORDERS, order, "order")
    if not 1 <= size <= num_samples:
        raise InputError(f"size is {size}; a batch has from 1 to all {num_samples} samples")
    if num_steps < 0:
        raise InputError(f"num_steps is {num_steps}; it must be a whole number of at least 0")
    if num_steps == 0:
        return jnp.zeros((0, size), int)
    return ORDERS[order](key, num_samples, size, num_steps)


def check_batches(batches, num_samples: int, num_steps: int) -> Array | None:
    """``batches`` as an array (T, B), or None.

    Raises
    ------
    InputError
        Unless they are whole numbers below N, T batches of one size at least 1. Inside jit, vmap and grad only the
        shape is checked.
    """
    if batches is None:
        return None
    shape = jnp.shape(batches)
    if not jnp.issubdtype(jnp.result_type(batches), jnp.integer):
        raise InputError(f"batches are {shown(batches)}; they must be whole numbers: of samples")
    if len(shape) != 2 or shape[0] != num_steps or shape[1] == 0:
        raise InputError(
            f"batches have shape {shape}; {num_steps} steps take ({num_steps}, B): draw_batches(key, {num_samples}, B, "
            f"{num_steps})"
        )
    if is_known(batches) and num_steps:
        least, most = int(np.min(batches)), int(np.max(batches))
        if not 0 <= least <= most < num_samples:
            raise InputError(
                f"batches have numbers from {least} to {most}; samples have numbers from 0 to {num_samples - 1}"
            )
    return jnp.asarray(batches)
