"""Taps record the input of a layer at each call and shift its output, inside any number of `jax.vmap`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


@dataclass
class Tapped:
    """One call of a layer, as the outermost `jax.vmap` sees it.

    Attributes
    ----------
    layer : int
    depth : int
        How many maps are around it, including the one over the samples.
    given, made : (N, *mapped, ...) arrays, or their shapes
        The layer's input and its output.
    """

    layer: int
    depth: int
    given: Any
    made: Any


class Tap:
    """Receives the output of every layer while a model runs on one sample, under `jax.vmap` over the samples.

    A value inside `jax.vmap` cannot be kept, because the function sees only one sample. The rule of
    `jax.custom_batching.custom_vmap` receives the whole batch, once for each map around the call; the values of the
    last (outermost) map are kept.

    Parameters
    ----------
    sample : array
        The sample, so that every call depends on it.
    calls : list
        The recorded calls are appended here.
    shifts : sequence of arrays, optional
        One per call, like `Tapped.made`.
    depths : sequence of int, optional
        Depth of each call; needed with ``shifts``.
    """

    def __init__(
        self,
        sample,
        calls: list[Tapped | None],
        shifts: Sequence[Array] | None = None,
        depths: Sequence[int] = (),
    ):
        self._sample, self._calls, self._shifts, self._depths = sample, calls, shifts, depths

    def __call__(self, layer: int, given: Array, made: Array) -> Array:
        """``made``, shifted."""
        number = len(self._calls)
        self._calls.append(None)
        return self._mark(number, layer, 1)(given, made, self._sample)

    def _mark(self, number: int, layer: int, depth: int):
        mark = jax.custom_batching.custom_vmap(lambda given, made, sample: made)

        @mark.def_vmap
        def rule(size, mapped, given, made, sample):
            given, made, sample = (
                value if is_mapped else jnp.broadcast_to(value, (size, *jnp.shape(value)))
                for value, is_mapped in zip((given, made, sample), mapped, strict=True)
            )
            self._calls[number] = Tapped(layer, depth, given, made)
            if self._shifts is not None and self._depths[number] == depth:
                return made + self._shifts[number], True
            return self._mark(number, layer, depth + 1)(given, made, sample), True

        return mark
