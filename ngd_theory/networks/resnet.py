"""Residual networks, dense and convolutional."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError, choose
from ngd_theory.networks import activations
from ngd_theory.networks.activations import Activation
from ngd_theory.networks.checks import require_scales, require_size
from ngd_theory.networks.convolution import Convolution, GlobalAveragePool
from ngd_theory.networks.layers import Dense, Layer
from ngd_theory.networks.network import Network
from ngd_theory.networks.normalization import NORMS
from ngd_theory.networks.parameterization import parameterize


@dataclass(frozen=True)
class Residual:
    """The forward function of `resnet`."""

    phi: Activation
    norm: Callable
    blocks: int
    scale: float
    convolutional: bool

    def __call__(self, layers, x):
        """Outputs (N, C)."""
        h = layers["in"](x)
        for number in range(1, self.blocks + 1):
            h = h + self.scale * layers[f"block_{number}"](self.phi(self.norm(h)))
        h = self.phi(self.norm(h))
        return layers["out"](GlobalAveragePool()(h) if self.convolutional else h)


@checked
def resnet(
    input_shape: int | Sequence[int],
    width: int,
    blocks: int,
    output_dim: int,
    activation: str | Activation = "relu",
    weight_std: float = 2**0.5,
    bias_std: float = 0.0,
    *,
    norm: str = "layer",
    residual_scale: float | None = None,
    kernel_size: int = 3,
    parameterization: str = "ntk",
) -> Network:
    """Build a residual network of ``L = blocks + 2`` affine layers, called "in", "block_1" ... and "out".

    ``h_b = h_{b-1} + s W_b phi(norm(h_{b-1}))``: normalisation before the activation, one affine layer per block,
    nothing on the skip connection. For images all layers except "out" are convolutions of stride 1, and "out" sees the
    mean over positions.

    Parameters
    ----------
    input_shape : int, or (*sizes, C_in)
        Numbers per sample, or the shape of an image.
    width : int
        M.
    blocks : int
        B, at least 1.
    output_dim : int
        C.
    activation : {"relu", "tanh", "erf", "gelu", "identity"}
    weight_std, bias_std : float
        sigma_w > 0 and sigma_b >= 0.
    norm : {"layer", "rms", "none"}
        Normalisation over the channels of each position, without parameters.
    residual_scale : float, optional
        s; ``1/sqrt(B)`` if None, so that the kernels stay finite as B grows.
    kernel_size : int
        Kernel size of the convolutions.
    parameterization : {"ntk", "mup"}
        As in `mlp`; M is the width.

    Raises
    ------
    InputError
        For a size below 1 or an unknown name.

    Examples
    --------
    >>> import jax
    >>> net = resnet(4, 8, blocks=2, output_dim=1)
    >>> net.depth, net.apply(net.init(jax.random.key(0)), jax.numpy.ones((3, 4))).shape
    (4, (3, 1))
    """
    phi = activations.by_name(activation)
    choose(NORMS, norm, "norm")
    given = input_shape if isinstance(input_shape, Sequence) else (input_shape,)
    shape = tuple(require_size(f"input_shape[{i}]", s) for i, s in enumerate(given))
    width, outputs = require_size("width", width), require_size("output_dim", output_dim)
    blocks = require_size("blocks", blocks)
    scales = require_scales(weight_std, bias_std)
    residual_scale = require_residual_scale(residual_scale, blocks)
    images = len(shape) > 1

    def layer(channels: int) -> Layer:
        if not images:
            return Dense(channels, width, *scales)
        return Convolution((*shape[:-1], channels), width, kernel_size, 1, "same", *scales)

    layers = {"in": layer(shape[-1])}
    layers |= {f"block_{number}": layer(width) for number in range(1, blocks + 1)}
    layers["out"] = Dense(width, outputs, *scales)
    function = Residual(phi, NORMS[norm], blocks, residual_scale, images)
    made = Network(shape, tuple(layers.items()), function, phi.name, phi.smooth)
    return parameterize(made, parameterization)


def require_residual_scale(scale: float | None, count: int) -> float:
    """``scale``, or 1/sqrt(count) when None.

    Raises
    ------
    InputError
        Unless it is positive and finite.
    """
    chosen = float(count) ** -0.5 if scale is None else float(scale)
    if not 0 < chosen < float("inf"):
        raise InputError(f"residual_scale is {scale}; it must be positive and finite")
    return chosen
