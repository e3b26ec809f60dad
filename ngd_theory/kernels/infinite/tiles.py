"""Kernels of many samples, tile by tile, under a memory budget."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from ngd_theory.errors import InputError


def assemble(
    function: Callable,
    layers: int,
    rows,
    columns=None,
    *,
    temporaries: int,
    budget: int,
) -> Float[Array, "K N M"]:
    """A stack of kernels from tiles ``function(rows[i:j], columns[i:j]) -> (K, t, t)``.

    Without ``columns`` the kernels are symmetric: tiles below the diagonal are copied from above it, so
    that at most ``t N / 2`` of the ``N^2 / 2`` pairs below are computed. The result stays on the
    device of the inputs and is written in place.

    Parameters
    ----------
    function : hashable, traceable
    layers : int
        K.
    rows, columns : pytrees of arrays with the samples on the first axis
    temporaries : int
        Arrays of a tile's size that ``function`` holds at a time, its result included.
    budget : int
        Bytes for them.
    """
    leaves = jax.tree.leaves(rows)
    symmetric = columns is None
    columns = rows if symmetric else columns
    n, m = leaves[0].shape[0], jax.tree.leaves(columns)[0].shape[0]
    if any(isinstance(leaf, Tracer) for leaf in (*leaves, *jax.tree.leaves(columns))):
        return function(rows, columns)
    dtype = leaves[0].dtype
    size = int((max(0, budget) / (dtype.itemsize * temporaries)) ** 0.5)
    if size < 1:
        raise InputError(
            f"memory_budget is {budget} bytes; one pair of samples needs {dtype.itemsize * temporaries}"
        )
    if symmetric:
        # Smaller tiles waste less along the diagonal, but below this size calls cost more.
        size = min(size, max(256, -(-n // 8)))
    height, width = min(size, n), min(size, m)
    out = jnp.zeros((layers, n, m), dtype)
    for i in _starts(n, height):
        for j in _starts(m, width):
            if not symmetric or j >= i:
                out = _write(out, rows, columns, i, j, function, (height, width), symmetric)
    return out


def _starts(total: int, size: int) -> list[int]:
    """Where tiles begin; the last one overlaps its neighbour, so that all have one shape."""
    return [*range(0, total - size, size), total - size]


@partial(jax.jit, static_argnums=(5, 6, 7), donate_argnums=0)
def _write(out, rows, columns, i, j, function, shape, symmetric):
    def take(tree, start, size):
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), tree)

    tile = function(take(rows, i, shape[0]), take(columns, j, shape[1]))
    zero = jnp.zeros((), jnp.result_type(i))
    if symmetric:
        out = jax.lax.dynamic_update_slice(out, jnp.swapaxes(tile, 1, 2), (zero, j, i))
    return jax.lax.dynamic_update_slice(out, tile, (zero, i, j))
