"""Bridge to neural-tangents: networks as stax triples, parameters in both directions, and kernels."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
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
from ngd_theory.networks.layers import Dense, Layer
from ngd_theory.networks.normalization import EPSILON, no_norm
from ngd_theory.networks.recurrent import Recurrence
from ngd_theory.networks.resnet import Residual
from ngd_theory.networks.transformer import Encoder

#: Nodes per dimension of neural-tangents' two-dimensional quadrature; its memory is N N' times their square.
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
        For a layer, map or forward function that has no counterpart.
    NeuralTangentsError
        If neural-tangents cannot be imported.
    """
    return _serial(_layers(net, quadrature_degree))


@checked
def params_to_stax(net: Network, params) -> list[tuple]:
    """Convert parameters of ``net`` to those of `to_stax`; both give the same outputs.

    Raises
    ------
    InputError
        For parameters that are not those of ``net``.
    """
    net.check(params, jax.ShapeDtypeStruct((1, *net.input_shape), jnp.float32))
    stax = to_stax(net)
    like, structure = jax.tree.flatten(
        jax.eval_shape(lambda key: stax.init_fn(key, (1, *net.input_shape))[1], jax.random.key(0))
    )
    arrays = [
        mine[name] for layer, mine in zip(net.affine, params, strict=True) for name in layer.shapes
    ]
    # Its biases have one axis for the samples and one for each spatial axis.
    shaped = [array.reshape(there.shape) for array, there in zip(arrays, like, strict=True)]
    return jax.tree.unflatten(structure, shaped)


@checked
def params_from_stax(net: Network, stax_params: Sequence) -> tuple[dict[str, Array], ...]:
    """Inverse of `params_to_stax`: convert parameters drawn by ``init_fn`` to those of ``net``.

    Raises
    ------
    InputError
        For parameters that are not those of such a network.
    """
    names = [(i, name) for i, layer in enumerate(net.affine) for name in layer.shapes]
    arrays = jax.tree.leaves(stax_params)
    if len(arrays) != len(names):
        raise InputError(
            f"stax parameters of {len(arrays)} arrays for a network of {net.depth} layers, which have {len(names)}"
        )
    out: tuple[dict[str, Array], ...] = tuple({} for _ in net.affine)
    for (index, name), array in zip(names, arrays, strict=True):
        out[index][name] = array.reshape(-1) if name == "bias" else array
    for layer, found in zip(net.affine, out, strict=True):
        shapes = {name: jnp.shape(value) for name, value in found.items()}
        if shapes != layer.shapes:
            raise InputError(f"stax parameters of shapes {shapes} for a layer with {layer.shapes}")
    return out


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
    # The whole network each time: all its layers decide what a kernel of images must hold.
    sums = jnp.stack(
        [
            _serial([*blocks[:index], [_frozen_below()], *blocks[index:]]).kernel_fn(x1, x2, "ntk")
            for index in range(len(blocks))
        ]
    )
    return sums.at[:-1].add(-sums[1:])


def describe(activation: Activation) -> str:
    """What neural-tangents would use for an activation, without importing it."""
    if _is_analytic(activation):
        return f"stax.{ANALYTIC[activation.name][0]}"
    return f"stax.ElementwiseNumerical, degree {QUADRATURE_DEGREE}"


def _is_analytic(activation: Activation) -> bool:
    return activation.name in ANALYTIC and ACTIVATIONS.get(activation.name) == activation


def _serial(blocks: list[list]) -> Stax:
    return Stax(*neural_tangents().stax.serial(*(layer for block in blocks for layer in block)))


def _layers(net: Network, degree: int) -> list[list[Any]]:
    """For every affine layer, its stax layers in a list of their own: so all before a layer can be frozen."""
    if isinstance(net.function, Residual):
        return _residual(net, net.function, degree)
    if not net.is_chain:
        kind = type(net.function)
        raise NotPredictedError(
            f"there is no infinite-width kernel of this network here: {_NO_LIMIT.get(kind, _OWN_FUNCTION)}"
        )
    return [
        [_affine(b.affine, index), *(_map(f, index, degree) for f in b.after)]
        for index, b in enumerate(net.blocks, start=1)
    ]


#: Forward function -> why neither source has a kernel of it.
_NO_LIMIT: dict[type, str] = {
    Encoder: "scores of attention over the root of their units stay random at any width, and the softmax of random "
    "scores has no closed form (neural-tangents divides by the units themselves)",
    Recurrence: "neural-tangents has no weights that are tied over steps",
}
_OWN_FUNCTION = "it has a forward function of its own"


def _residual(net: Network, function: Residual, degree: int) -> list[list[Any]]:
    stax = neural_tangents().stax
    first, *blocks, last = net.affine
    hidden = [*_norm(function.norm), _map(function.phi, 1, degree)]
    pool = [stax.GlobalAvgPool()] if function.convolutional else []

    def block(index: int, layer: Layer) -> list[Any]:
        branch = stax.serial(*hidden, _affine(layer, index, function.scale))
        return [stax.FanOut(2), stax.parallel(stax.Identity(), branch), _sum()]

    return [
        [_affine(first, 1)],
        *(block(index, layer) for index, layer in enumerate(blocks, start=2)),
        [*hidden, *pool, _affine(last, net.depth)],
    ]


def _sum() -> tuple:
    """``stax.FanInSum`` without its warning about dependent branches: here each has weights of its own."""
    init_fn, apply_fn, kernel_fn = neural_tangents().stax.FanInSum()

    @wraps(kernel_fn)
    def quiet(*args, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return kernel_fn(*args, **options)

    return init_fn, apply_fn, quiet


def _norm(norm: Callable) -> list[tuple]:
    """Our normalisation with the kernel of neural-tangents' own: means over units are 0 in the limit."""
    if norm is no_norm:
        return []
    init_fn, _, kernel_fn = neural_tangents().stax.LayerNorm(eps=EPSILON)
    return [(init_fn, lambda params, x, **_: norm(x), kernel_fn)]


def _frozen_below() -> tuple:
    """A stax layer that sets the NTK of the layers before it to zero, and changes nothing else."""
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


def _affine(layer: Any, index: int, scale: float = 1.0):
    if type(layer) not in _AFFINE:
        raise NotPredictedError(
            f"layer {index} is a {type(layer).__name__}; the bridge to neural-tangents knows "
            + " and ".join(kind.__name__ for kind in _AFFINE)
        )
    # neural-tangents takes None, not 0, for a layer without bias parameters.
    scales = {
        "W_std": scale * layer.weight_std,
        "b_std": scale * layer.bias_std if layer.layout.has_bias else None,
        "parameterization": "ntk",
    }
    return _AFFINE[type(layer)](neural_tangents().stax, layer, scales, index)


def _convolution(stax, layer: Convolution, scales: dict, index: int):
    plain = replace(layer, dilation=1, groups=1)
    if layer.dimensions != 2 or layer != plain or not isinstance(layer.padding, str):
        raise NotPredictedError(
            f"layer {index}: the bridge to neural-tangents knows convolutions over images, without dilation, groups or "
            "padding in numbers"
        )
    kernel, stride = (
        v if isinstance(v, tuple) else (v, v) for v in (layer.kernel_size, layer.stride)
    )
    return stax.Conv(layer.units, kernel, stride, layer.padding.upper(), **scales)


#: Our layer -> neural-tangents' ``(stax, layer, scales, index) -> layer``.
_AFFINE = {
    Dense: lambda stax, layer, scales, _: stax.Dense(layer.units, **scales),
    Convolution: _convolution,
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
