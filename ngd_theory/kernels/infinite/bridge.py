"""Bridge to neural-tangents: our network as a stax triple, parameters both ways, and its kernels."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError, NotPredictedError
from ngd_theory.kernels._neural_tangents import neural_tangents
from ngd_theory.networks import ACTIVATIONS, Network
from ngd_theory.networks.activations import Activation
from ngd_theory.networks.convolution import AveragePool, Convolution, Flatten, GlobalAveragePool
from ngd_theory.networks.layers import Affine, Dense

#: Nodes a dimension of neural-tangents' two-dimensional quadrature; its memory is N N' times the square.
QUADRATURE_DEGREE = 64

#: Our activation -> the name and arguments of neural-tangents' layer with an analytic kernel.
ANALYTIC: dict[str, tuple[str, dict]] = {
    "relu": ("Relu", {}),
    "erf": ("Erf", {}),
    "gelu": ("Gelu", {"approximate": False}),
    "identity": ("Identity", {}),
}


class Stax(NamedTuple):
    """A neural-tangents network.

    Attributes
    ----------
    init_fn : ``(key, (-1, *input_shape)) -> (output shape, stax parameters)``
    apply_fn : ``(stax parameters, x) -> (N, C)``
    kernel_fn : ``(x1, x2, get) -> kernels``
    """

    init_fn: Callable
    apply_fn: Callable
    kernel_fn: Callable


@checked
def to_stax(net: Network, *, quadrature_degree: int = QUADRATURE_DEGREE) -> Stax:
    """``net`` as neural-tangents' ``(init_fn, apply_fn, kernel_fn)``, NTK parameterisation.

    Parameters
    ----------
    net : Network
    quadrature_degree : int
        For activations without an analytic kernel there (``stax.ElementwiseNumerical``).

    Raises
    ------
    NotPredictedError
        For a layer or map that has no counterpart.
    NeuralTangentsError
        If neural-tangents cannot be had.
    """
    return _serial(_layers(net, quadrature_degree))


@checked
def params_to_stax(net: Network, params) -> list[tuple]:
    """Parameters of ``net`` as those of `to_stax`, such that both give the same outputs.

    Raises
    ------
    InputError
        For parameters that are not those of ``net``.
    """
    net.check(params, jax.ShapeDtypeStruct((1, *net.input_shape), jnp.float32))
    out: list[tuple] = []
    for block, layer in zip(net.blocks, params, strict=True):
        # One axis for the samples and one a spatial axis.
        spread = (1,) * len(block.affine.output_shape)
        bias = layer["bias"].reshape(*spread, -1) if block.affine.layout.has_bias else None
        out.append((layer["weight"], bias))
        out.extend(() for _ in block.after)
    return out


@checked
def params_from_stax(net: Network, stax_params: Sequence) -> tuple[dict[str, Array], ...]:
    """Inverse of `params_to_stax`: parameters drawn by ``init_fn`` as those of ``net``.

    Raises
    ------
    InputError
        For parameters that are not those of such a network.
    """
    arrays = [p for p in stax_params if isinstance(p, Sequence) and len(p) == 2]
    _check_layers(net, arrays)
    out = []
    for block, (weight, bias) in zip(net.blocks, arrays, strict=True):
        layer = {"weight": weight}
        if block.affine.layout.has_bias:
            layer["bias"] = bias.reshape(-1)
        shapes = {name: jnp.shape(value) for name, value in layer.items()}
        if shapes != block.affine.layout.shapes:
            raise InputError(
                f"stax parameters of shapes {shapes} for a layer with {block.affine.layout.shapes}"
            )
        out.append(layer)
    return tuple(out)


def kernel(net: Network, x1, x2, get: str, *, quadrature_degree: int = QUADRATURE_DEGREE):
    """``"nngp"`` or ``"ntk"`` (N, N') of neural-tangents, per output."""
    return to_stax(net, quadrature_degree=quadrature_degree).kernel_fn(x1, x2, get)


def layerwise_ntk(
    net: Network,
    x1: Float[Array, "N *S"],
    x2: Float[Array, "M *S"] | None = None,
    *,
    quadrature_degree: int = QUADRATURE_DEGREE,
) -> Float[Array, "L N M"]:
    """``Theta_l`` from neural-tangents, which knows only their sum.

    ``S_l``, the NTK of the network whose first l-1 layers are frozen, comes from a layer that sets the NTK of all
    before it to zero; ``Theta_l = S_l - S_{l+1}``.
    """
    blocks = _layers(net, quadrature_degree)
    # Of the whole network each time: neural-tangents decides by all layers what a kernel of images must hold.
    sums = jnp.stack(
        [
            _serial([*blocks[:index], [_frozen_below()], *blocks[index:]]).kernel_fn(x1, x2, "ntk")
            for index in range(len(blocks))
        ]
    )
    return sums.at[:-1].add(-sums[1:])


def describe(activation: Activation) -> str:
    """How neural-tangents would serve an activation; does not import it."""
    if _is_analytic(activation):
        return f"stax.{ANALYTIC[activation.name][0]}"
    return f"stax.ElementwiseNumerical, degree {QUADRATURE_DEGREE}"


def _is_analytic(activation: Activation) -> bool:
    return activation.name in ANALYTIC and ACTIVATIONS.get(activation.name) == activation


def _serial(blocks: list[list]) -> Stax:
    return Stax(*neural_tangents().stax.serial(*(layer for block in blocks for layer in block)))


def _layers(net: Network, degree: int) -> list[list[Any]]:
    return [
        [_affine(b.affine, index), *(_map(f, index, degree) for f in b.after)]
        for index, b in enumerate(net.blocks, start=1)
    ]


def _frozen_below() -> tuple:
    """A stax layer that changes nothing but the NTK of the layers before it, which becomes zero."""
    stax = neural_tangents().stax

    @stax.layer
    @stax.supports_masking(remask_kernel=False)
    def frozen_below():
        return (
            lambda key, shape: (shape, ()),
            lambda params, x, **_: jax.lax.stop_gradient(x),
            lambda kernel, **_: kernel.replace(ntk=jnp.zeros_like(kernel.nngp)),
        )

    return frozen_below()


def _affine(layer: Affine, index: int):
    if type(layer) not in _AFFINE:
        raise NotPredictedError(
            f"layer {index} is a {type(layer).__name__}; the bridge to neural-tangents knows "
            + " and ".join(kind.__name__ for kind in _AFFINE)
        )
    # neural-tangents takes None, not 0, for a layer without bias parameters.
    scales = {
        "W_std": layer.weight_std,
        "b_std": layer.bias_std if layer.layout.has_bias else None,
        "parameterization": "ntk",
    }
    return _AFFINE[type(layer)](neural_tangents().stax, layer, scales)


#: Our layer -> neural-tangents' ``(stax, layer, scales) -> layer``.
_AFFINE = {
    Dense: lambda stax, layer, scales: stax.Dense(layer.units, **scales),
    Convolution: lambda stax, layer, scales: stax.Conv(
        layer.units,
        (layer.kernel_size,) * 2,
        (layer.stride,) * 2,
        layer.padding.upper(),
        **scales,
    ),
}
#: Our parameter-free map -> neural-tangents', ``(stax, map) -> layer``.
_MAPS = {
    AveragePool: lambda stax, pool: stax.AvgPool((pool.window,) * 2, (pool.window,) * 2, "VALID"),
    GlobalAveragePool: lambda stax, _: stax.GlobalAvgPool(),
    Flatten: lambda stax, _: stax.Flatten(),
}


def _map(function, index: int, degree: int):
    stax = neural_tangents().stax
    if type(function) in _MAPS:
        return _MAPS[type(function)](stax, function)
    if not isinstance(function, Activation):
        raise NotPredictedError(
            f"the map after layer {index} is no activation, pooling or flattening; the bridge to neural-tangents "
            "knows no other"
        )
    if _is_analytic(function):
        name, options = ANALYTIC[function.name]
        return getattr(stax, name)(**options)
    with warnings.catch_warnings():
        # It warns that its accuracy depends on the degree.
        warnings.simplefilter("ignore", UserWarning)
        return stax.ElementwiseNumerical(function, deg=degree)


def _check_layers(net: Network, params) -> None:
    if len(params) != net.depth:
        raise InputError(f"parameters of {len(params)} layers for a network of {net.depth}")
