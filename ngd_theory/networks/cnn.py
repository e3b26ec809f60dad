"""Convolutional networks."""

from collections.abc import Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError, choose
from ngd_theory.networks import activations
from ngd_theory.networks.activations import Activation
from ngd_theory.networks.block import Block
from ngd_theory.networks.chain import chain
from ngd_theory.networks.checks import require_scales, require_size
from ngd_theory.networks.convolution import (
    PADDINGS,
    AveragePool,
    Convolution,
    Flatten,
    GlobalAveragePool,
)
from ngd_theory.networks.layers import Dense
from ngd_theory.networks.network import Network
from ngd_theory.networks.parameterization import parameterize

#: Readout -> the map from the last image to the inputs of the dense output layer.
READOUTS = MappingProxyType({"flatten": Flatten(), "pool": GlobalAveragePool()})


@checked
def cnn(
    input_shape: Sequence[int],
    channels: Sequence[int],
    output_dim: int,
    kernel_size: int | Sequence[int] = 3,
    stride: int | Sequence[int] = 1,
    padding: str = "same",
    activation: str | Activation = "relu",
    readout: str = "flatten",
    weight_std: float = 2**0.5,
    bias_std: float = 0.0,
    *,
    pool: int | Sequence[int] = 1,
    parameterization: str = "ntk",
) -> Network:
    """Build a convolutional network of ``L = len(channels) + 1`` affine layers; the last one is dense.

    Every convolution is followed by the activation and then by average pooling. Weights are HWIO, with
    entries N(0, 1). Each layer multiplies by ``weight_std / sqrt(fan_in)``; the fan-in is ``k^2 C_in`` for a
    convolution and the number of inputs for the dense layer.

    Parameters
    ----------
    input_shape : (H, W, C_in)
    channels : sequence of int
        M_1 .. M_{L-1}.
    output_dim : int
        C.
    kernel_size, stride : int, or one int per convolution
        Kernels are square; rows and columns have the same stride.
    padding : {"same", "valid", "circular"}
        Zeros, no padding, or wrap-around (the image as a torus).
    activation : {"relu", "tanh", "erf", "gelu", "identity"}
    readout : {"flatten", "pool"}
        The dense layer sees all positions, or their mean.
    weight_std, bias_std : float
        sigma_w > 0 and sigma_b >= 0. ``bias_std == 0`` leaves the biases out.
    pool : int, or one int per convolution
        Window of the average pooling after a convolution; 1 for none. Edges that do not fill a window are dropped.
    parameterization : {"ntk", "mup"}
        As in `mlp`; M is the number of channels before the output layer, not multiplied by positions.

    Raises
    ------
    InputError
        For a size below 1, an image too small for a kernel or a window, or an unknown name.

    Examples
    --------
    >>> import jax
    >>> net = cnn((8, 8, 3), [16, 16], 10, pool=2)
    >>> net.apply(net.init(jax.random.key(0)), jax.numpy.ones((4, 8, 8, 3))).shape
    (4, 10)
    """
    phi = activations.by_name(activation)
    choose(PADDINGS, padding, "padding")
    final = choose(READOUTS, readout, "readout")
    if np.ndim(input_shape) != 1 or len(input_shape) != 3:
        raise InputError(f"input_shape is {input_shape}; it must be (height, width, channels)")
    if np.ndim(channels) != 1 or len(channels) == 0:
        raise InputError(
            f"channels is {channels}; it must have one number a convolution (networks.mlp makes networks without)"
        )
    height, width, depth = (require_size(f"input_shape[{i}]", s) for i, s in enumerate(input_shape))
    units = [require_size(f"channels[{i}]", m) for i, m in enumerate(channels)]
    outputs = require_size("output_dim", output_dim)
    scales = require_scales(weight_std, bias_std)
    kernels, strides, pools = (
        _of_each(name, value, len(units))
        for name, value in (("kernel_size", kernel_size), ("stride", stride), ("pool", pool))
    )
    shape, blocks = (height, width, depth), []
    for index, (m, k, s, w) in enumerate(zip(units, kernels, strides, pools, strict=True), start=1):
        try:
            layer = Convolution(shape, m, k, s, padding, *scales)
        except InputError as e:
            raise InputError(f"convolution {index}: {e}") from None
        height, width, _ = layer.output_shape
        if min(height, width) < w:
            raise InputError(
                f"pool after convolution {index} is {w} for an image of {height} x {width}; use a smaller one"
            )
        after = (phi, *([AveragePool(w)] if w > 1 else []))
        shape = (height // w, width // w, m)
        if index == len(units):
            after = (*after, final)
        blocks.append(Block(layer, after, phi.active_fraction, phi.name == "identity"))
    _, fan_in = jax.eval_shape(final, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).shape
    blocks.append(Block(Dense(fan_in, outputs, *scales)))
    made = chain(tuple(int(s) for s in input_shape), tuple(blocks), phi.name)
    return parameterize(made, parameterization)


def _of_each(name: str, value: int | Sequence[int], count: int) -> list[int]:
    """One whole number per convolution."""
    if not isinstance(value, Sequence | np.ndarray):
        return [require_size(name, value)] * count
    if len(value) != count:
        raise InputError(f"{name} has {len(value)} values for {count} convolutions")
    return [require_size(f"{name}[{i}]", v) for i, v in enumerate(value)]
