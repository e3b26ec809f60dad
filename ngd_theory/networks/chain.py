"""A chain of blocks: a forward function whose ranks the theory counts before any parameter is drawn."""

from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from operator import and_

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError, NotPredictedError
from ngd_theory.networks.block import Block
from ngd_theory.networks.calls import Layers
from ngd_theory.networks.geometry import geometries
from ngd_theory.networks.layers import Affine, Layer
from ngd_theory.networks.network import Network
from ngd_theory.networks.sizes import LayerSize


@dataclass(frozen=True)
class Chain:
    """The forward function of blocks in a row, each an affine layer and maps without parameters.

    Attributes
    ----------
    blocks : tuple of Block
    """

    blocks: tuple[Block, ...]

    def __call__(self, layers: Layers, x):
        """Outputs; the layers are called "1" to "L"."""
        h = x
        for number, block in enumerate(self.blocks, start=1):
            h = layers[str(number)](h)
            for function in block.after:
                h = function(h)
        return h

    @property
    def smooth(self) -> bool:
        """Whether all maps are declared to have no kink."""
        return all(block.smooth for block in self.blocks)

    def with_layers(self, layers: tuple[Layer, ...]) -> "Chain":
        """The same maps between other layers."""
        pairs = zip(self.blocks, layers, strict=True)
        return Chain(tuple(replace(block, affine=layer) for block, layer in pairs))

    def layer_sizes(self, network: Network) -> tuple[LayerSize, ...]:
        """Sizes of the layers, first to last; see `Network.layer_sizes`."""
        blocks = self.blocks
        layers = [block.affine for block in blocks]
        try:
            _check_shapes(network, layers)
            geometry, linear = geometries(network.input_shape, blocks)
        except NotPredictedError as error:
            return network.plain_sizes(str(error))
        # Linear images and sensitivities have at most as many dimensions as the sizes that they pass through. Patches
        # overlap, so no bound is known for the patches of a linear image.
        images = accumulate([prod(network.input_shape), *(g.seen for g in geometry)], min)
        numbers = [g.live_units * g.windows for g in geometry]
        passed = list(
            accumulate(map(min, (prod(y.output_shape) for y in layers[::-1]), numbers[::-1]), min)
        )
        linear_before = list(accumulate([True, *linear[:-1]], and_))
        linear_after = list(accumulate(linear[::-1], and_))
        biased = any(layer.layout.has_bias for layer in layers)
        next(images)
        return tuple(
            LayerSize(
                positions=layer.positions,
                num_inputs=layer.layout.num_inputs,
                num_units=layer.units,
                active_fraction=block.active_fraction,
                output_dim=network.output_dim,
                geometry=counts,
                linear_input_rank=(
                    image + layer.layout.has_bias if before and layer.positions == 1 else None
                ),
                linear_sensitivity_rank=outputs if after else None,
                linear_image_rank=image + biased if linear_after[-1] else None,
            )
            for block, layer, counts, image, outputs, before, after in zip(
                blocks,
                layers,
                geometry,
                images,
                passed[::-1],
                linear_before,
                linear_after[::-1],
                strict=True,
            )
        )


@checked
def chain(
    input_shape: tuple[int, ...], blocks: tuple[Block, ...], activation: str = "identity"
) -> Network:
    """Build a network of blocks in a row; the theory predicts its isotropy constants from sizes.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of one sample.
    blocks : tuple of Block
    activation : str
        Name of the hidden activation, for reports.

    Raises
    ------
    InputError
        If there is no block, or shapes do not fit.
    """
    if not blocks:
        raise InputError("blocks is empty; a network has one affine layer at least")
    layers = tuple((str(n), block.affine) for n, block in enumerate(blocks, start=1))
    function = Chain(tuple(blocks))
    return Network(tuple(input_shape), layers, function, activation, smooth=function.smooth)


def _check_shapes(network: Network, layers: list[Affine]) -> None:
    for number, (call, layer) in enumerate(zip(network.calls, layers, strict=True), start=1):
        if call.shape != layer.output_shape:
            raise NotPredictedError(
                f"layer {number} is applied at several positions of its input at once (its pre-activations are "
                f"{call.shape} a sample, not {layer.output_shape}), which sizes do not count"
            )
    for number, layer in enumerate(layers, start=1):
        if len(layer.parts) > 1:
            raise NotPredictedError(f"layer {number} has {len(layer.parts)} groups of channels")
