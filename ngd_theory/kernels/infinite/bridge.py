"""Bridge to neural-tangents: our network as a stax triple, parameters both ways, and its kernels."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.errors import InputError, NotPredictedError
from ngd_theory.kernels._neural_tangents import neural_tangents
from ngd_theory.networks import ACTIVATIONS, Network
from ngd_theory.networks.activations import Activation
from ngd_theory.networks.layers import Dense

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


def params_to_stax(net: Network, params) -> list[tuple]:
    """Parameters of ``net`` as those of `to_stax`, such that both give the same outputs."""
    _check_layers(net, params)
    out: list[tuple] = []
    for block, layer in zip(net.blocks, params, strict=True):
        bias = layer["bias"][None, :] if block.affine.layout.has_bias else None
        out.append((layer["weight"], bias))
        out.extend(() for _ in block.after)
    return out


def params_from_stax(net: Network, stax_params) -> tuple[dict[str, Array], ...]:
    """Inverse of `params_to_stax`: parameters drawn by ``init_fn`` as those of ``net``."""
    arrays = [p for p in stax_params if len(p) == 2]
    _check_layers(net, arrays)
    out = []
    for block, (weight, bias) in zip(net.blocks, arrays, strict=True):
        layer = {"weight": weight}
        if block.affine.layout.has_bias:
            layer["bias"] = bias[0]
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

    ``S_l``, the NTK of the network whose first l-1 layers are frozen, comes from the last L-l+1 layers
    applied to the NNGP kernel of the others with its NTK set to zero; ``Theta_l = S_l - S_{l+1}``.
    """
    blocks = _layers(net, quadrature_degree)
    stax = neural_tangents().stax
    below = stax.Identity()[2](x1, x2)
    sums = []
    for index, layers in enumerate(blocks):
        frozen = below.replace(ntk=jnp.zeros_like(below.nngp))
        sums.append(_serial(blocks[index:]).kernel_fn(frozen).ntk)
        below = _serial([layers]).kernel_fn(below)
    stacked = jnp.stack(sums)
    return stacked.at[:-1].add(-stacked[1:])


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
        [_affine(b.affine, index), *(_activation(f, index, degree) for f in b.after)]
        for index, b in enumerate(net.blocks, start=1)
    ]


def _affine(layer, index: int):
    if type(layer) is not Dense:
        raise NotPredictedError(
            f"layer {index} is a {type(layer).__name__}; the bridge to neural-tangents knows Dense layers"
        )
    # neural-tangents takes None, not 0, for a layer without bias parameters.
    return neural_tangents().stax.Dense(
        layer.units,
        W_std=layer.weight_std,
        b_std=layer.bias_std if layer.layout.has_bias else None,
        parameterization="ntk",
    )


def _activation(function, index: int, degree: int):
    if not isinstance(function, Activation):
        raise NotPredictedError(
            f"the map after layer {index} is no activation; the bridge to neural-tangents knows no other"
        )
    stax = neural_tangents().stax
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
