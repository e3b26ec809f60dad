"""Public infinite-width kernels of a network.

Our own recursion can be differentiated once by each input, in both modes, wherever the kernel can. Networks of ReLUs
have no derivative in two places:

- The NTK and ``sensitivities`` have a kink where the inputs of a layer are parallel or antiparallel; with biases, where
  two samples are equal. There the first derivative is the mean of both sides, as a central difference gives it. The
  mixed derivative is infinite and becomes NaN. `nngp` has both derivatives.
- Without biases every kernel has a corner where a sample is 0. Its derivatives by that sample are NaN.

With ``x2=None`` the diagonal pairs each sample with itself, and has no kink. If a matrix has a kink elsewhere, second
derivatives spread its NaN: in reverse mode to all derivatives by the two samples, in forward mode to all of the entry.
"""

import abc
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from ngd_theory.arguments import check_finite, checked, is_finite
from ngd_theory.errors import InputError, NotPredictedError
from ngd_theory.kernels.infinite import bridge
from ngd_theory.kernels.infinite.moments import Size
from ngd_theory.kernels.infinite.quadrature import LADDER, QuadratureMoments
from ngd_theory.kernels.infinite.recursion import (
    LayerKernels,
    Layers,
    Stage,
    depth,
    diagonal,
    input_sizes,
    looped,
    recurse,
    stages,
)
from ngd_theory.kernels.infinite.sources import resolve
from ngd_theory.kernels.infinite.tiles import assemble
from ngd_theory.networks import Network

#: Bytes that the work on one tile may take, without the result.
MEMORY_BUDGET = 2**28
#: Largest relative error of a quadrature that is accepted in float64.
QUADRATURE_ERROR = 1e-10


@checked
def layer_kernels(
    net: Network,
    x1: Float[Array, "N *S"],
    x2: Float[Array, "M *S"] | None = None,
    *,
    memory_budget: int = MEMORY_BUDGET,
) -> LayerKernels:
    """Input and sensitivity kernels of every layer, by our own recursion.

    Parameters
    ----------
    net : Network
        A multi-layer perceptron or `ngd_theory.networks.resnet` of vectors; its widths do not matter.
    x1, x2 : (N, *input_shape), (N', *input_shape)
        ``x2 = None`` means ``x1``, at half the work.
    memory_budget : int
        Bytes one tile of pairs may take.

    Returns
    -------
    LayerKernels
        Two (L, N, N') arrays; `LayerKernels.layerwise_ntk` is their product.

    Raises
    ------
    NotPredictedError
        For another network, or an activation whose quadrature does not converge.
    InputError
        For inputs of the wrong shape, or whose kernels are out of the range of their type.
    """
    resolve("closed-form", net)
    inputs, sensitivities = jnp.split(_evaluate(net, _Both, x1, x2, memory_budget), 2)
    return LayerKernels(inputs, sensitivities)


@checked
def layerwise_ntk(
    net: Network,
    x1: Float[Array, "N *S"],
    x2: Float[Array, "M *S"] | None = None,
    *,
    source: str = "auto",
    memory_budget: int = MEMORY_BUDGET,
) -> Float[Array, "L N M"]:
    """Every layer's share ``Theta_l`` of the infinite-width NTK, per output.

    Unnormalised, the limit of ``J_l J_l'^T`` for one output; of C outputs it is ``Theta_l (x) I_C``.

    Parameters
    ----------
    net : Network
    x1, x2 : (N, *input_shape), (N', *input_shape)
        ``x2 = None`` means ``x1``.
    source : {"auto", "closed-form", "neural-tangents"}
        See `source_table`.
    memory_budget : int
        Bytes one tile of pairs may take (closed form).

    Returns
    -------
    (L, N, N') array

    Raises
    ------
    NotPredictedError, InputError
        As `layer_kernels`.
    NeuralTangentsError
        If neural-tangents is needed and cannot be imported.
    """
    if resolve(source, net) == "neural-tangents":
        return _in_range(bridge.layerwise_ntk(net, *_checked(net, x1, x2)))
    return _evaluate(net, _Layerwise, x1, x2, memory_budget)


@checked
def ntk(
    net: Network,
    x1: Float[Array, "N *S"],
    x2: Float[Array, "M *S"] | None = None,
    *,
    source: str = "auto",
    memory_budget: int = MEMORY_BUDGET,
) -> Float[Array, "N M"]:
    """The infinite-width NTK, per output: the sum of `layerwise_ntk`, without keeping its layers.

    Parameters
    ----------
    net : Network
    x1, x2 : (N, *input_shape), (N', *input_shape)
        ``x2 = None`` means ``x1``.
    source : {"auto", "closed-form", "neural-tangents"}
        See `source_table`.
    memory_budget : int
        Bytes one tile of pairs may take (closed form).

    Returns
    -------
    (N, N') array

    Raises
    ------
    NotPredictedError, InputError, NeuralTangentsError
        As `layerwise_ntk`.
    """
    if resolve(source, net) == "neural-tangents":
        return _in_range(bridge.kernel(net, *_checked(net, x1, x2), "ntk"))
    return _evaluate(net, _Sum, x1, x2, memory_budget)[0]


@checked
def nngp(
    net: Network,
    x1: Float[Array, "N *S"],
    x2: Float[Array, "M *S"] | None = None,
    *,
    source: str = "auto",
    memory_budget: int = MEMORY_BUDGET,
) -> Float[Array, "N M"]:
    """Covariance of an output over initialisations (NNGP), ``Q_L``.

    Parameters
    ----------
    net : Network
    x1, x2 : (N, *input_shape), (N', *input_shape)
        ``x2 = None`` means ``x1``.
    source : {"auto", "closed-form", "neural-tangents"}
        See `source_table`.
    memory_budget : int
        Bytes one tile of pairs may take (closed form).

    Returns
    -------
    (N, N') array

    Raises
    ------
    NotPredictedError, InputError, NeuralTangentsError
        As `layerwise_ntk`.
    """
    if resolve(source, net) == "neural-tangents":
        return _in_range(bridge.kernel(net, *_checked(net, x1, x2), "nngp"))
    return _evaluate(net, _Outputs, x1, x2, memory_budget)[0]


@dataclass(frozen=True)
class _Tile(abc.ABC):
    """A function of two tiles of samples, each ``(x, Size of (t, L))``."""

    chain: tuple[Stage, ...]
    with_slopes: ClassVar[bool] = True

    @property
    def count(self) -> int:
        """How many kernels it makes."""
        return 1

    def __call__(self, rows, columns):
        (x1, s1), (x2, s2) = rows, columns
        s1, s2 = (jax.tree.map(jnp.transpose, s) for s in (s1, s2))
        # If one tile has all samples, `_with_diagonal` computes each sample with itself.
        apart = ~jnp.eye(len(x1), dtype=bool) if columns is rows else None
        layers = recurse(self.chain, x1, x2, s1, s2, apart, with_slopes=self.with_slopes)
        return self.select(layers)

    @abc.abstractmethod
    def select(self, layers: Layers) -> Float[Array, "K ..."]:
        """Select the wanted kernels."""


class _Both(_Tile):
    @property
    def count(self):
        return 2 * depth(self.chain)

    def select(self, layers):
        return jnp.concatenate([layers.inputs, layers.sensitivities(self.chain)])


class _Layerwise(_Tile):
    @property
    def count(self):
        return depth(self.chain)

    def select(self, layers):
        return layers.inputs * layers.sensitivities(self.chain)


class _Sum(_Tile):
    def select(self, layers):
        return layers.ntk[None]


class _Outputs(_Tile):
    with_slopes = False

    def select(self, layers):
        return layers.inputs[-1][None]


def _evaluate(net, kind: type[_Tile], x1, x2, budget):
    x1, x2 = _checked(net, x1, x2)
    points = [x for x in (x1, x2) if x is not None]
    chain = _converged(stages(net), points)
    rows, *others = [(x, jax.tree.map(jnp.transpose, _sizes(chain, x))) for x in points]
    tile = kind(chain)
    temporaries = tile.count + 3 * depth(chain) + 8
    kernels = assemble(tile, tile.count, rows, *others, temporaries=temporaries, budget=budget)
    return _in_range(kernels if others else _with_diagonal(kernels, tile, x1))


def _in_range(kernels):
    if not is_finite(kernels):
        raise InputError(
            f"a kernel of these inputs is out of the range of {kernels.dtype}: scale the inputs or weight_std down, or "
            "use float64"
        )
    return kernels


def _checked(net, x1, x2):
    arrays = [_array(net, x) for x in (x1, x2) if x is not None]
    dtype = jnp.result_type(*arrays)
    arrays = [a.astype(dtype) for a in arrays]
    return arrays[0], (arrays[1] if len(arrays) == 2 else None)


def _array(net, x):
    # Checked in its own type: JAX's may be narrower.
    check_finite("an array of inputs", x)
    x = jnp.asarray(x)
    if x.ndim != 1 + len(net.input_shape) or x.shape[1:] != net.input_shape:
        wanted = ", ".join(map(str, net.input_shape))
        raise InputError(f"inputs have shape {x.shape}; this network takes (N, {wanted})")
    if x.shape[0] == 0:
        raise InputError(f"inputs have shape {x.shape}: there is no sample")
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)


@partial(jax.jit, static_argnums=0)
def _sizes(chain: tuple[Stage, ...], x) -> Size:
    return input_sizes(chain, x)


@partial(jax.jit, static_argnums=1, donate_argnums=0)
def _with_diagonal(kernels, tile: _Tile, x) -> Float[Array, "K N N"]:
    each = jnp.arange(len(x))
    return kernels.at[:, each, each].set(tile.select(diagonal(tile.chain, x)))


def _converged(chain: tuple[Stage, ...], points) -> tuple[Stage, ...]:
    """The chain with quadratures as fine as the variances at ``points`` need.

    Inside a transformation the variances are not known: every quadrature is then the second of the ladder, and it is
    not checked.
    """
    traced = any(isinstance(x, Tracer) for x in points)
    rules = any(isinstance(stage.before, QuadratureMoments) for stage in chain[1:])
    # Only quadratures need the variances; else this saves compiling a program.
    variances = [_sizes(chain, x).variance for x in points] if rules and not traced else []
    out = [chain[0]]
    for layer, stage in enumerate(chain[1:], start=1):
        if isinstance(stage.before, QuadratureMoments):
            if traced:
                fine = _at(stage.before, LADDER[1])
            else:
                fine = _fine(
                    stage.before, jnp.concatenate([v[layer - 1] for v in variances]), layer
                )
            stage = replace(stage, before=fine)
        out.append(stage)
    return tuple(out) if traced else looped(tuple(out))


def _at(moments: QuadratureMoments, step: tuple[int, int]) -> QuadratureMoments:
    return replace(moments, order=step[0], nodes=step[1])


def _fine(moments: QuadratureMoments, k, layer: int) -> QuadratureMoments:
    extremes = jnp.stack([jnp.min(k), jnp.max(k)])
    accepted = max(QUADRATURE_ERROR, 64 * float(jnp.finfo(k.dtype).eps))
    error = float("inf")
    for step in LADDER:
        candidate = _at(moments, step)
        error = float(jnp.max(candidate.missing(extremes)))
        if error <= accepted:
            return candidate
    raise NotPredictedError(
        f"the quadrature of {moments.activation.name!r} after layer {layer} has relative error {error:.1e} "
        f"at pre-activation variance {float(extremes[1]):.3g}: scale the inputs, weight_std or bias_std "
        "down (an activation with a kink needs a closed form in CLOSED_FORMS)"
    )
