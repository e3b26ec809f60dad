"""Networks as a chain of blocks: an affine layer, then parameter-free maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.errors import InputError, require_type
from ngd_theory.networks.geometry import geometries
from ngd_theory.networks.layers import Affine
from ngd_theory.networks.sizes import LayerSize


@dataclass(frozen=True)
class Block:
    """An affine layer followed by parameter-free maps of its pre-activation.

    Attributes
    ----------
    affine : Affine
        Such as `ngd_theory.networks.layers.Dense`.
    after : tuple of entry-wise or pooling functions
    active_fraction : float
        gamma of the layer's units.
    linear : bool
        Whether ``after`` is linear.
    """

    affine: Affine
    after: tuple[Callable, ...] = ()
    active_fraction: float = 1.0
    linear: bool = True


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

    input_shape: tuple[int, ...]
    blocks: tuple[Block, ...] = field(repr=False)
    activation: str = "identity"

    @property
    def depth(self) -> int:
        """L, the number of affine layers."""
        return len(self.blocks)

    @property
    def output_dim(self) -> int:
        """C, the number of outputs."""
        return self.layer_sizes[-1].num_units

    @property
    def layer_sizes(self) -> tuple[LayerSize, ...]:
        """Sizes of the affine layers, first to last."""
        sizes = []
        linear = all(block.linear for block in self.blocks)
        biased = any(block.affine.layout.has_bias for block in self.blocks)
        # Dimensions that the whole of one sample's hidden image is a linear function onto; None past a nonlinearity.
        linear_rank: int | None = prod(self.input_shape)
        for index, (block, geometry) in enumerate(
            zip(self.blocks, geometries(self.input_shape, self.blocks), strict=True)
        ):
            layer, layout = block.affine, block.affine.layout
            if linear_rank is not None:
                linear_rank = min(linear_rank, geometry.seen)
            # Patches overlap: no bound is known for those of a linear image.
            later = self.blocks[index:]
            sizes.append(
                LayerSize(
                    positions=layer.positions,
                    num_inputs=layout.num_inputs,
                    num_units=layout.num_units,
                    active_fraction=block.active_fraction,
                    geometry=geometry,
                    linear_input_rank=(
                        linear_rank + layout.has_bias
                        if linear_rank is not None and layer.positions == 1
                        else None
                    ),
                    linear_sensitivity_rank=(
                        min(prod(b.affine.output_shape) for b in later)
                        if all(b.linear for b in later)
                        else None
                    ),
                    linear_image_rank=linear_rank + biased if linear and linear_rank else None,
                )
            )
            if not block.linear:
                linear_rank = None
        return tuple(sizes)

    @property
    def num_parameters(self) -> int:
        """Number of scalar parameters."""
        return sum(s.num_inputs * s.num_units for s in self.layer_sizes)

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
        """
        dtype = jnp.zeros(()).dtype if dtype is None else dtype
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
        """Raise `InputError` unless ``params`` and ``x`` have this network's shapes."""
        if not hasattr(x, "shape"):
            raise InputError(f"inputs are a {type(x).__name__}, not an array: jax.numpy.asarray(x)")
        require_type(
            "params", params, Sequence, "one dict a layer, as network.init(key) makes them"
        )
        shape = jnp.shape(x)
        if len(shape) != 1 + len(self.input_shape) or shape[1:] != self.input_shape:
            wanted = ", ".join(map(str, self.input_shape))
            raise InputError(f"inputs have shape {shape}; this network takes (N, {wanted})")
        if shape[0] == 0:
            raise InputError(f"inputs have shape {shape}: there is no sample")
        if len(params) != self.depth:
            raise InputError(f"parameters of {len(params)} layers for a network of {self.depth}")
        for index, (block, given) in enumerate(zip(self.blocks, params, strict=True), start=1):
            wanted = block.affine.layout.shapes
            found = {name: jnp.shape(value) for name, value in given.items()}
            if found != wanted:
                raise InputError(f"parameters of layer {index} have shapes {found}, not {wanted}")
