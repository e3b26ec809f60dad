"""Networks as a chain of blocks."""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import prod
from operator import and_
from typing import ClassVar

import jax
from jaxtyping import Array, Float

from ngd_theory.arguments import checked, is_floating
from ngd_theory.errors import InputError, NotPredictedError, shown
from ngd_theory.networks.between import shape_after
from ngd_theory.networks.block import Block
from ngd_theory.networks.checks import require_floating
from ngd_theory.networks.geometry import Geometry, geometries
from ngd_theory.networks.layers import Affine
from ngd_theory.networks.sizes import LayerSize


@dataclass(frozen=True)
class Network:
    """A feed-forward network in the NTK parameterisation. Static and hashable; parameters apart.

    Attributes
    ----------
    input_shape : tuple of int
        Shape of one sample.
    blocks : tuple of Block
    activation : str
        Name of the hidden activation, for reports.
    """

    made_by: ClassVar[str] = "ngd.networks.mlp(3, [64], 1), say"
    input_shape: tuple[int, ...]
    blocks: tuple[Block, ...] = field(repr=False)
    activation: str = "identity"

    @property
    def depth(self) -> int:
        """L, the number of affine layers."""
        return len(self.blocks)

    @cached_property
    def output_dim(self) -> int:
        """C, the number of outputs."""
        last = self.blocks[-1]
        return prod(shape_after(last.after, last.affine.output_shape))

    @cached_property
    def layer_sizes(self) -> tuple[LayerSize, ...]:
        """Sizes of the affine layers, first to last.

        Counted from shapes; maps other than activations are looked at at a few random points. Where the theory knows no
        ranks after them, the sizes say why (`LayerSize.unknown`), and raise `NotPredictedError` when asked for a rank.
        """
        layers = [block.affine for block in self.blocks]
        layouts = [layer.layout for layer in layers]
        unknown = None
        try:
            geometry, linear = geometries(self.input_shape, self.blocks)
        except NotPredictedError as error:
            unknown, linear = str(error), [False] * self.depth
            geometry = [_without_maps(layer) for layer in layers]
        # Linear images and sensitivities have no more dimensions than what they pass through. Patches overlap: no bound
        # is known for those of a linear image.
        images = accumulate([prod(self.input_shape), *(g.seen for g in geometry)], min)
        numbers = [g.live_units * g.windows for g in geometry]
        passed = list(
            accumulate(map(min, (prod(y.output_shape) for y in layers[::-1]), numbers[::-1]), min)
        )
        linear_before = list(accumulate([True, *linear[:-1]], and_))
        linear_after = list(accumulate(linear[::-1], and_))
        biased = any(layout.has_bias for layout in layouts)
        next(images)
        return tuple(
            LayerSize(
                positions=layer.positions,
                num_inputs=layout.num_inputs,
                num_units=layer.units,
                active_fraction=block.active_fraction,
                output_dim=self.output_dim,
                geometry=counts,
                linear_input_rank=(
                    image + layout.has_bias if before and layer.positions == 1 else None
                ),
                linear_sensitivity_rank=outputs if after else None,
                linear_image_rank=image + biased if linear_after[-1] else None,
                unknown=unknown,
            )
            for block, layer, layout, counts, image, outputs, before, after in zip(
                self.blocks,
                layers,
                layouts,
                geometry,
                images,
                passed[::-1],
                linear_before,
                linear_after[::-1],
                strict=True,
            )
        )

    @property
    def smooth(self) -> bool:
        """Whether no map of the network is known to have a kink; one of your own says so with ``smooth=True``."""
        return all(block.smooth for block in self.blocks)

    @cached_property
    def num_parameters(self) -> int:
        """Number of scalar parameters."""
        layouts = [block.affine.layout for block in self.blocks]
        return sum(y.num_inputs * y.num_units for y in layouts)

    @checked
    def init(self, key, dtype=None) -> tuple[dict[str, Array], ...]:
        """Draw parameters, every entry from N(0, 1).

        Parameters
        ----------
        key : jax.random key
        dtype : floating dtype, optional
            JAX's default float when None.

        Returns
        -------
        tuple of dict
            One a layer: ``{"weight": (fan_in, M)[, "bias": (M,)]}``, HWIO weights for convolutions.

        Raises
        ------
        InputError
            For what is no key, or no floating dtype.
        """
        dtype = require_floating(dtype)
        keys = jax.random.split(key, self.depth)
        return tuple(b.affine.init(k, dtype) for b, k in zip(self.blocks, keys, strict=True))

    def apply(self, params, x: Float[Array, "N *S"]) -> Float[Array, "N C"]:
        """Network outputs f(x)."""
        self.check(params, x)
        return self.forward(params, x, None)[0]

    def forward(self, params, x, shifts) -> tuple[Array, list[Array]]:
        """Outputs and hidden inputs of every affine layer, with pre-activations shifted by ``shifts``.

        The derivative of the outputs by ``shifts[l]`` is the sensitivity of layer l.
        """
        hidden = []
        h = x
        for index, (block, layer_params) in enumerate(zip(self.blocks, params, strict=True)):
            hidden.append(h)
            h = block.affine(layer_params, h)
            if shifts is not None:
                h = h + shifts[index]
            for function in block.after:
                h = function(h)
        return h, hidden

    def check(self, params, x) -> None:
        """Raise `InputError` unless ``params`` and ``x`` are floating arrays of this network's shapes.

        Parameters are a tuple of dicts, as `init` makes them: lists would be another pytree.
        """
        if not is_floating(x):
            raise InputError(
                f"x is {shown(x)}; it must be a floating array: jax.numpy.asarray(x, float)"
            )
        shape = x.shape
        if len(shape) != 1 + len(self.input_shape) or shape[1:] != self.input_shape:
            wanted = ", ".join(map(str, self.input_shape))
            raise InputError(f"inputs have shape {shape}; this network takes (N, {wanted})")
        if shape[0] == 0:
            raise InputError(f"inputs have shape {shape}: there is no sample")
        self.check_tree("parameters", params)

    def check_tree(self, name: str, tree) -> None:
        """Raise `InputError` unless ``tree`` (plural ``name``) is like the parameters: floating, a tuple of dicts."""
        if type(tree) is not tuple:
            raise InputError(
                f"{name} are {shown(tree)}; they must be a tuple, one dict a layer, as network.init(key) gives it"
            )
        if len(tree) != self.depth:
            raise InputError(f"{name} of {len(tree)} layers for a network of {self.depth}")
        for index, (block, given) in enumerate(zip(self.blocks, tree, strict=True), start=1):
            where = f"{name} of layer {index}"
            if type(given) is not dict:
                raise InputError(
                    f'{where} are {shown(given)}; they must be a dict {{"weight": ...}}, as network.init(key) makes it'
                )
            for key, value in given.items():
                if not is_floating(value):
                    raise InputError(
                        f"{key!r} in the {where} is {shown(value)}; it must be a floating array"
                    )
            wanted = block.affine.layout.shapes
            found = {key: value.shape for key, value in given.items()}
            if found != wanted:
                raise InputError(f"{where} have shapes {found}, not {wanted}")


def _without_maps(layer: Affine) -> Geometry:
    """Counts of a layer that nothing follows."""
    t, inputs = layer.positions, layer.layout.num_inputs
    return Geometry(t, layer.units, t, t, inputs, inputs)
