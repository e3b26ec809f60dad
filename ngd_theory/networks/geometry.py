"""What of a layer's positions and inputs counts: the sharing of weights, without any weight.

All of it is read off what each layer's `patches` makes of an image of pixel numbers and what the maps after it
do to a mask, so that a new layer type or pooling needs nothing here.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ngd_theory.networks.activations import Activation

if TYPE_CHECKING:
    from ngd_theory.networks.network import Block


@dataclass(frozen=True)
class Geometry:
    """Counts of one layer; all are T, or 1, for the plainest.

    Attributes
    ----------
    live_positions : int
        Positions that the outputs depend on: pooling drops an edge, a stride passes over some.
    windows : int
        Groups of live positions whose sensitivities differ by the activation's slope alone, such as a pooling window.
    distinct_positions : int
        Positions that see something different.
    distinct_inputs : int
        Inputs of the layer that are not padding at every position, and no copies of others; the bias is one.
    seen : int
        Numbers of the image before the layer that a live position sees.
    """

    live_positions: int
    windows: int
    distinct_positions: int
    distinct_inputs: int
    seen: int


@lru_cache(maxsize=64)
def geometries(input_shape: tuple[int, ...], blocks: "tuple[Block, ...]") -> tuple[Geometry, ...]:
    """The `Geometry` of every layer, first to last."""
    with jax.ensure_compile_time_eval():
        shapes, seen = [], []
        h = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
        for block in blocks:
            # float32 counts to 2^24 without an error, as many as any image has.
            numbers = np.arange(1, prod(h.shape) + 1, dtype=np.float32).reshape(h.shape)
            numbers = numbers if block.affine.takes_numpy else jnp.asarray(numbers)
            seen.append(np.asarray(block.affine.patches(numbers))[0])
            shapes.append(h.shape)
            h = jax.eval_shape(_after(block), _outputs_like(block))
        found = []
        wanted = np.ones(h.shape, bool)
        for block, shape, patches in zip(blocks[::-1], shapes[::-1], seen[::-1], strict=True):
            live = np.any(_reaches(block, wanted).reshape(len(patches), -1), axis=1)
            columns = np.unique(patches[:, np.any(patches > 0, axis=0)], axis=1)
            wanted_before = np.isin(np.arange(1, prod(shape) + 1), patches[live]).reshape(shape)
            found.append(
                Geometry(
                    live_positions=int(live.sum()),
                    windows=int(wanted.sum()) // block.affine.units,
                    distinct_positions=len(np.unique(patches, axis=0)),
                    distinct_inputs=columns.shape[1] + block.affine.layout.has_bias,
                    seen=int(wanted_before.sum()),
                )
            )
            wanted = wanted_before
    return tuple(found[::-1])


def _outputs_like(block: "Block"):
    return jax.ShapeDtypeStruct((1, *block.affine.output_shape), jnp.float32)


def _reaches(block: "Block", wanted: np.ndarray) -> np.ndarray:
    """Which pre-activations the ``wanted`` numbers after the block depend on."""
    if all(isinstance(function, Activation) for function in block.after):
        return wanted
    # Slopes at one are not zero, and masks do not cancel.
    ones = np.ones((1, *block.affine.output_shape), np.float32)
    pulled = jax.jit(_pull_back, static_argnums=0)(_after(block), ones, wanted.astype(np.float32))
    return np.asarray(pulled) != 0


def _pull_back(function, at, cotangent):
    return jax.vjp(function, at)[1](cotangent)[0]


def _after(block: "Block"):
    def apply(h):
        for function in block.after:
            h = function(h)
        return h

    return apply
