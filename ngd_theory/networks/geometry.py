"""Count the positions, units and inputs of a layer that matter when weights are shared; no weight is needed.

The counts come from each layer's `patches` of an image of pixel numbers, and from what the maps after it feed
(`between`). So a new type of layer or pooling needs no change here. A mask of None means all ones. If all channels are
treated alike, only one is counted, so that wide layers take no memory.
"""

from dataclasses import dataclass, replace
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

from ngd_theory.errors import NotPredictedError
from ngd_theory.networks.activations import Activation
from ngd_theory.networks.between import DRAWS, FEW, Between, between
from ngd_theory.networks.block import Block
from ngd_theory.networks.layers import Affine

#: Max pooling over 36 positions leaves some unused at a sample even with 2,000 channels; over 4, none with 24.
MOST_TO_CHOOSE = 9


@dataclass(frozen=True)
class Geometry:
    """Counts of one layer.

    Attributes
    ----------
    live_positions : int
        Positions that the outputs depend on. Pooling can drop an edge, and a stride can skip some.
    live_units : int
        Units that the outputs depend on: M, unless the maps after the layer leave some out.
    windows : int
        Groups of live positions whose sensitivities differ only by the activation's slope, such as a pooling window.
    distinct_positions : int
        Positions whose patches differ.
    distinct_inputs : int
        Inputs that are neither padding at every position nor copies of another input. The bias counts as one.
    seen : int
        Numbers in the image before the layer that some live position sees.
    """

    live_positions: int
    live_units: int
    windows: int
    distinct_positions: int
    distinct_inputs: int
    seen: int


def geometries(
    input_shape: tuple[int, ...], blocks: tuple[Block, ...]
) -> tuple[list[Geometry], list[bool]]:
    """The `Geometry` of every layer, first to last, and whether the maps after it are linear.

    Raises
    ------
    NotPredictedError
        If the theory does not know the ranks after one of the maps; the message names the layer.
    """
    thin = _thin(blocks)
    if thin is not None:
        found, linear = _count((*input_shape[:-1], 1), thin)
        pairs = zip(found, blocks, strict=True)
        return [_of_all_channels(counts, block.affine) for counts, block in pairs], linear
    return _count(input_shape, blocks)


def _thin(blocks: tuple[Block, ...]) -> tuple[Block, ...] | None:
    """The blocks with one channel each; None if a layer or a map may not treat all channels alike."""
    maps = [function for block in blocks for function in block.after]
    alike = all(isinstance(f, Activation) or getattr(f, "each_channel", False) for f in maps)
    layers = [block.affine.thin for block in blocks]
    if (
        not alike
        or any(layer is None for layer in layers)
        or all(b.affine.sees_all for b in blocks)
    ):
        return None
    return tuple(replace(b, affine=y) for b, y in zip(blocks, layers, strict=True) if y is not None)


def _of_all_channels(counts: Geometry, layer: Affine) -> Geometry:
    if layer.sees_all:
        return counts
    biases, channels = int(layer.layout.has_bias), layer.layout.weight_shape[-2]
    return replace(
        counts,
        live_units=layer.units,
        distinct_inputs=(counts.distinct_inputs - biases) * channels + biases,
        seen=counts.seen * channels,
    )


def _count(
    input_shape: tuple[int, ...], blocks: tuple[Block, ...]
) -> tuple[list[Geometry], list[bool]]:
    index, block = 0, blocks[0]
    try:
        # Results are kept, because deep networks repeat their blocks.
        maps, looked, shapes = [], {}, [input_shape]
        for index in range(len(blocks)):
            block = blocks[index]
            if block not in looked:
                looked[block] = between(block.after, block.affine.output_shape)
                _check_claims(block, looked[block])
            maps.append(looked[block])
            shapes.append(looked[block].shape or block.affine.output_shape)
        if not maps[-1].linear:
            raise NotPredictedError(
                "the outputs are not linear in the last layer's pre-activations"
            )
        found, counted, wanted = [], {}, None
        for index in reversed(range(len(blocks))):
            block = blocks[index]
            known = counted.get((block, shapes[index])) if wanted is None else None
            geometry, before = known or _geometry(block, maps[index], shapes[index], wanted)
            if wanted is None:
                counted[block, shapes[index]] = geometry, before
            found.append(geometry)
            wanted = before
    except NotPredictedError as error:
        raise NotPredictedError(_UNKNOWN.format(index + 1, _names(block), error)) from None
    return found[::-1], [each.linear for each in maps]


_UNKNOWN = (
    "the theory states no ranks for this network, and so no isotropy constant, dispersion or step size: layer {} is "
    "followed by {}, and {}. Measure instead: theory.isotropy and theory.largest_monotone_step_size of the "
    "approximation's function_space_map"
)


def _names(block: Block) -> str:
    names = [getattr(f, "name", None) or getattr(f, "__name__", repr(f)) for f in block.after]
    return ", ".join(map(str, names)) or "no map"


def _check_claims(block: Block, found: Between) -> None:
    sizes = 1 if found.feeds is None else np.bincount(found.feeds[found.feeds >= 0].ravel())
    expected = float(np.mean(1 - (1 - block.active_fraction) ** sizes))
    count = FEW if found.shape is None else prod(found.shape)
    if not abs(found.active - expected) <= 0.02 + 2.5 / (DRAWS * count) ** 0.5:
        raise NotPredictedError(
            f"Block says active_fraction={block.active_fraction}, with which {expected:.2f} of the numbers after its "
            f"map move with u ~ N(0, 1), but {found.active:.2f} do"
        )
    if block.linear != found.linear:
        raise NotPredictedError(
            f"Block says linear={block.linear}, but its map is {'' if found.linear else 'not '}linear: build it "
            f"with linear={found.linear}"
        )


def _geometry(
    block: Block, found: Between, shape: tuple[int, ...], wanted: np.ndarray | None
) -> tuple[Geometry, np.ndarray | None]:
    """Counts of a layer if only the ``wanted`` numbers after its maps matter; which numbers before it then matter."""
    layer, layout = block.affine, block.affine.layout
    live, windows = _pulled_back(block, found, wanted)
    if layer.sees_all:
        before, inputs = None, layout.fan_in
        distinct, seen = 1, inputs
    else:
        positions = slice(None) if live is None else live.any(axis=1)
        patches = _patches(layer, shape)
        before = np.isin(np.arange(1, prod(shape) + 1), patches[positions]).reshape(shape)
        distinct, seen = len(np.unique(patches, axis=0)), int(before.sum())
        inputs = np.unique(patches[:, np.any(patches > 0, axis=0)], axis=1).shape[1]
        before = None if before.all() else before
    return Geometry(
        live_positions=layer.positions if live is None else int(live.any(axis=1).sum()),
        live_units=layer.units if live is None else int(live.any(axis=0).sum()),
        windows=windows,
        distinct_positions=distinct,
        distinct_inputs=inputs + layout.has_bias,
        seen=seen,
    ), before


def _patches(layer, shape: tuple[int, ...]) -> np.ndarray:
    """The pixel numbers (from 1) that each position sees, (T, fan_in); 0 is padding."""
    count = prod(shape)
    dtype = np.float64 if layer.takes_numpy else np.float32
    if count > 2 / np.finfo(dtype).eps:
        raise NotPredictedError(
            f"its {count} inputs are too many to be numbered in {dtype.__name__}"
        )
    numbers = np.arange(1, count + 1, dtype=dtype).reshape(1, *shape)
    with jax.ensure_compile_time_eval():
        return np.asarray(layer.patches(numbers if layer.takes_numpy else jnp.asarray(numbers)))[0]


def _pulled_back(
    block: Block, found: Between, wanted: np.ndarray | None
) -> tuple[np.ndarray | None, int]:
    """Which pre-activations (T, M) the ``wanted`` numbers depend on, and how many wanted numbers one unit feeds."""
    units = block.affine.units
    if found.feeds is None:
        if wanted is None:
            return None, block.affine.positions
        feeds = np.arange(wanted.size).reshape(-1, units)
    else:
        feeds = found.feeds.reshape(-1, units)
    chosen = np.ones(prod(found.shape or ()), bool) if wanted is None else wanted.ravel()
    live = (feeds >= 0) & chosen[feeds]
    sizes = np.bincount(feeds[live], minlength=len(chosen))[chosen]
    if not sizes.all():
        raise NotPredictedError(f"{(sizes == 0).sum()} numbers after its map depend on no unit")
    if found.chooses and sizes.max() > MOST_TO_CHOOSE:
        raise NotPredictedError(
            f"its map chooses one of {sizes.max()} positions, so many that some are not chosen by any unit"
        )
    if block.active_fraction < 1 and np.ptp(sizes) > 0:
        raise NotPredictedError("its map has windows of several sizes")
    counts = [len(np.unique(column[alive])) for column, alive in zip(feeds.T, live.T, strict=True)]
    of_live = live[:, live.any(axis=0)]
    if len(set(counts) - {0}) > 1 or (of_live != of_live[:, :1]).any():
        raise NotPredictedError("its map takes other positions of one unit than of another")
    return live, max(counts)
