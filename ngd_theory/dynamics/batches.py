"""Which samples each step of mini-batch training sees."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ngd_theory import linalg
from ngd_theory.arguments import check_finite, checked, is_known
from ngd_theory.errors import InputError, choose, shown
from ngd_theory.precision import full_precision


def _epochs(key, num_samples: int, size: int, num_steps: int):
    """Each sample once per epoch; samples that do not fill a batch are left out of that epoch."""
    in_epoch = num_samples // size
    keys = jax.random.split(key, -(-num_steps // in_epoch))
    order = jax.vmap(lambda k: jax.random.permutation(k, num_samples))(keys)
    return order[:, : in_epoch * size].reshape(-1, size)[:num_steps]


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
        "epochs": every sample once before any is repeated (samples that do not fill a batch are left out of that
        epoch). "independent": a new subset at every step.

    Returns
    -------
    (T, B) array
        Indices of samples.

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
        Unless they are T batches of one size, at least 1, of whole numbers from 0 to N - 1. Inside jit, vmap and grad
        only the shape and the type are checked.
    """
    if batches is None:
        return None
    shape = jnp.shape(batches)
    if not jnp.issubdtype(jnp.result_type(batches), jnp.integer):
        raise InputError(f"batches are {shown(batches)}; they must be whole numbers (indices)")
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


@checked
def contraction_bound(
    kernel: Float[Array, "NC NC"],
    batches: Int[Array, "S B"],
    step_scale: float | Array = 1.0,
    output_dim: int = 1,
) -> Float[Array, ""]:
    """Upper bound on ``E |z|^2`` after a step with the exact Fisher, divided by ``|z|^2`` before it.

    E is the mean over equally likely batches. As rho -> 0 a step is one of block Kaczmarz: ``z = Theta^(-1/2) r`` loses
    s = ``eta alpha`` times its projection P_S on the range of ``Theta^(1/2) I_S``. So at most the fraction
    ``1 - s(2 - s) lambda_min(E P_S)`` is left (Goldshlager, Hu & Lin 2025, arXiv 2508.21022; docs/theory.md section
    12). For the full batch this is ``(1 - s)^2``, whatever the kernel; for smaller batches it depends on the kernel.

    Parameters
    ----------
    kernel : (NC, NC)
        Theta; its scale does not matter. Index ``n*C + c``. For a singular kernel the bound is 1 up to rounding,
        because the part of z outside its range stays.
    batches : (S, B)
        The batches: all subsets, or a sample of them.
    step_scale : float
        ``eta alpha``, from 0 to 2.
    output_dim : int
        C.

    Returns
    -------
    scalar array
        In [0, 1]. It bounds the squared norm of z, so its root bounds the norm.

    Raises
    ------
    InputError
        For a kernel that is not (NC, NC), batches of other samples, or a step scale out of range.
    """
    rows = kernel.shape[0]
    if kernel.ndim != 2 or rows != kernel.shape[1] or output_dim < 1 or rows % output_dim:
        raise InputError(
            f"kernel has shape {kernel.shape}; it must be (NC, NC), with C = {output_dim} outputs"
        )
    check_finite("kernel", kernel)
    if jnp.ndim(step_scale) or (is_known(step_scale) and not 0 <= float(step_scale) <= 2):
        raise InputError(f"step_scale is {shown(step_scale)}; it must be one number from 0 to 2")
    checked_batches = check_batches(batches, rows // output_dim, len(batches))
    assert checked_batches is not None
    return _contraction_bound(kernel, checked_batches, step_scale, output_dim)


@partial(jax.jit, static_argnames="output_dim")
@full_precision
def _contraction_bound(kernel, batches, step_scale, output_dim):
    root = linalg.symmetric_roots(kernel)[0]
    columns = (batches[:, :, None] * output_dim + jnp.arange(output_dim)).reshape(len(batches), -1)

    def add(total, seen):
        basis, lengths = linalg.singular_columns(root[:, seen])
        # If the kernel is singular or a sample occurs twice, some directions are only rounding.
        there = lengths > len(root) * jnp.finfo(lengths.dtype).eps * lengths[0]
        return total + (basis * there) @ basis.T, None

    total, _ = jax.lax.scan(add, jnp.zeros_like(kernel), columns)
    least = jnp.clip(linalg.eigvalsh(total / len(batches))[0], 0, 1)
    return 1 - step_scale * (2 - step_scale) * least
