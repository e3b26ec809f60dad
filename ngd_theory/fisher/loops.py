"""Loops over many small dense problems, fast and safe on each platform.

A CPU takes one problem at a time: two batched LAPACK calls that XLA runs side by side can wait for each
other's threads for ever (jaxlib 0.10.2, two cores), and a loop of single calls is also faster. Accelerators
take batches of bounded memory.
"""

from collections.abc import Callable
from math import prod

import jax
import jax.numpy as jnp


def map_items(function: Callable, items, batch: int):
    """``function`` over the leading axis of the pytree ``items``, results stacked."""

    def in_batches(xs):
        chunks, rest = _split(xs, batch)
        out = jax.lax.map(jax.vmap(function), chunks)
        out = jax.tree.map(lambda y: jnp.moveaxis(y, 0, 1).reshape(-1, *y.shape[2:]), out)
        if rest is None:
            return out
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), out, jax.vmap(function)(rest))

    return jax.lax.platform_dependent(
        items, cpu=lambda xs: jax.lax.map(function, xs), default=in_batches
    )


def sum_items(function: Callable, items, zero, batch: int):
    """The sum of ``function`` over the leading axis of the pytree ``items``, from ``zero`` on."""

    def one_by_one(zero, xs):
        return jax.lax.scan(lambda total, x: (total + function(x), None), zero, xs)[0]

    def in_batches(zero, xs):
        def add(total, chunk):
            return total + jax.vmap(function)(chunk).sum(0), None

        chunks, rest = _split(xs, batch)
        total, _ = jax.lax.scan(add, zero, chunks)
        return total if rest is None else add(total, rest)[0]

    return jax.lax.platform_dependent(zero, items, cpu=one_by_one, default=in_batches)


def batch_size(*item_shape: int, itemsize: int, budget: int = 2**26) -> int:
    """How many arrays of ``item_shape`` fit in ``budget`` bytes, at least one."""
    return max(1, budget // (itemsize * prod(item_shape)))


def _split(items, batch: int):
    """Chunks (steps, batch, ...), and the remaining items, fewer than ``batch``, or None.

    A chunk takes every steps-th item. So if the items are spread over devices in blocks, each device has its share of
    every chunk (given that the number of devices divides ``batch``, and ``batch`` divides the number of items).
    """
    size = jax.tree.leaves(items)[0].shape[0]
    batch = min(batch, size)
    steps = size // batch
    whole = steps * batch

    def chunks(x):
        return jnp.moveaxis(x[:whole].reshape(-1, steps, *x.shape[1:]), 1, 0)

    rest = None if whole == size else jax.tree.map(lambda x: x[whole:], items)
    return jax.tree.map(chunks, items), rest
