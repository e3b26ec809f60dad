"""Loops over many small dense problems, on each platform in the way that is fast and safe there.

On a CPU one problem at a time: two batched LAPACK calls that XLA runs side by side can wait for each
other's threads for ever (jaxlib 0.10.2, two cores), and a loop of single calls is faster besides. On
accelerators in batches of bounded memory.
"""

from collections.abc import Callable
from math import prod

import jax


def map_items(function: Callable, items, batch: int):
    """``function`` over the leading axis of the pytree ``items``, results stacked."""
    size = jax.tree.leaves(items)[0].shape[0]
    return jax.lax.platform_dependent(
        items,
        cpu=lambda xs: jax.lax.map(function, xs),
        default=lambda xs: jax.lax.map(function, xs, batch_size=min(batch, size)),
    )


def sum_items(function: Callable, items, zero, batch: int):
    """The sum of ``function`` over the leading axis of the pytree ``items``, from ``zero`` on."""
    size = jax.tree.leaves(items)[0].shape[0]
    batch = min(batch, size)
    whole = size - size % batch

    def one_by_one(zero, xs):
        return jax.lax.scan(lambda total, x: (total + function(x), None), zero, xs)[0]

    def in_batches(zero, xs):
        def add(total, chunk):
            return total + jax.vmap(function)(chunk).sum(0), None

        chunks = jax.tree.map(lambda x: x[:whole].reshape(-1, batch, *x.shape[1:]), xs)
        total, _ = jax.lax.scan(add, zero, chunks)
        return total if whole == size else add(total, jax.tree.map(lambda x: x[whole:], xs))[0]

    return jax.lax.platform_dependent(zero, items, cpu=one_by_one, default=in_batches)


def batch_size(*item_shape: int, itemsize: int, budget: int = 2**26) -> int:
    """How many arrays of ``item_shape`` fit in ``budget`` bytes, at least one."""
    return max(1, budget // (itemsize * prod(item_shape)))
