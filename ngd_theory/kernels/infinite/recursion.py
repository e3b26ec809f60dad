"""The recursion over layers that makes infinite-width kernels (docs/theory.md section 5)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.kernels.infinite.corner import corner
from ngd_theory.kernels.infinite.moments import (
    IdentityMoments,
    Moments,
    Pair,
    ReluMoments,
    Size,
    both,
    outer,
)
from ngd_theory.kernels.infinite.sources import moments_of
from ngd_theory.networks import Network
from ngd_theory.networks.activations import Activation
from ngd_theory.networks.layers import Dense
from ngd_theory.networks.normalization import EPSILON, no_norm
from ngd_theory.networks.resnet import Residual
from ngd_theory.numerics import row_norms
from ngd_theory.pytrees import pytree


@dataclass(frozen=True)
class Stage:
    """An affine layer and the moments of the activation before it; static.

    Attributes
    ----------
    weight_std, bias_std : float
        sigma_w and sigma_b of the layer.
    before : Moments
        Of the activation between the previous layer and this one; of the identity before the first layer.
    norm : bool
        Whether the activation sees normalised pre-activations. In the limit their mean over units is 0, so both
        normalisations are the same: ``u / sqrt(E[u^2] + EPSILON)``.
    skip : float, optional
        s: the layer's outputs, times s, are added to the pre-activations before it. None: they replace them.
    repeat : int
        Number of such layers in a row; see `looped`.
    """

    weight_std: float
    bias_std: float
    before: Moments
    norm: bool = False
    skip: float | None = None
    repeat: int = 1

    def normalised(self, size: Size) -> tuple[Size, Array]:
        """Size of what the activation sees, and the factor of the pre-activations in it, (N,) each."""
        if not self.norm:
            return size, jnp.ones_like(size.deviation)
        factor = 1 / jnp.sqrt(size.variance + EPSILON)
        return Size(size.variance * factor**2, size.deviation * factor), factor

    def joined(self, before, own):
        """Variances (or slopes) after a layer: its ``own``; with a skip, ``s^2 own`` plus those ``before`` it."""
        return own if self.skip is None else before + self.skip**2 * own

    @property
    def share(self) -> float:
        """Squared factor of the layer's outputs in the sum with the skip connection: s^2, or 1 without one."""
        return 1.0 if self.skip is None else self.skip**2


def stages(net: Network) -> tuple[Stage, ...]:
    """The stages of a network for which `sources.has_recursion` holds."""
    if isinstance(net.function, Residual):
        return _residual_stages(net, net.function)
    before: list[Moments] = [IdentityMoments()]
    for block in net.blocks[:-1]:
        activations = [f for f in block.after if isinstance(f, Activation)]
        before.append(moments_of(activations[0]) if activations else IdentityMoments())
    return tuple(
        Stage(b.affine.weight_std, b.affine.bias_std, m)
        for b, m in zip(net.blocks, before, strict=True)
    )


def _residual_stages(net: Network, function: Residual) -> tuple[Stage, ...]:
    phi, norm = moments_of(function.phi), function.norm is not no_norm
    layers = cast(tuple[Dense, ...], net.affine)
    first, *blocks, last = [(layer.weight_std, layer.bias_std) for layer in layers]
    return (
        Stage(*first, IdentityMoments()),
        *(Stage(*scales, phi, norm, function.scale) for scales in blocks),
        Stage(*last, phi, norm),
    )


class Layers(NamedTuple):
    """Results of the recursion over layers, first to last, for pairs (N, M) or samples (N,).

    Attributes
    ----------
    inputs : (L, ...)
        ``A_l``.
    slopes : (L - 1, ...)
        Factor by which layer l+1 multiplies ``E[delta . delta']`` backwards: ``sigma_w^2 E[phi'(u) phi'(u')]``, with
        the term of the skip connection.
    ntk : (...)
        ``sum_l Theta_l``, added up from below: the product of all slopes above a layer may be out of range.
    """

    inputs: Array
    slopes: Array
    ntk: Array

    def sensitivities(self, chain: tuple[Stage, ...]) -> Float[Array, "L ..."]:
        """``B_l``, a product over the layers above."""
        last = jnp.ones_like(self.ntk)

        def step(above, slope):
            return slope * above, slope * above

        below = jax.lax.scan(step, last, self.slopes, reverse=True)[1]
        shares = np.repeat([stage.share for stage in chain], [stage.repeat for stage in chain])
        shares = jnp.asarray(shares, last.dtype).reshape(-1, *(1,) * last.ndim)
        return shares * jnp.concatenate([below, last[None]])


def looped(chain: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The chain with equal layers in a row as one loop: 80 layers compile in 2 seconds instead of 30.

    Not for derivatives: when JAX transposes a loop, it forgets the derivative rules of functions in it, and second
    derivatives are silently wrong.
    """
    runs = [(stage, len(list(alike))) for stage, alike in groupby(chain[1:])]
    return chain[0], *(replace(stage, repeat=count) for stage, count in runs)


def depth(chain: tuple[Stage, ...]) -> int:
    """How many layers a chain has."""
    return sum(stage.repeat for stage in chain)


@pytree("inputs", "sensitivities")
@dataclass(frozen=True)
class LayerKernels:
    """Infinite-width kernels of every affine layer, per output, unnormalised.

    Attributes
    ----------
    inputs : (L, N, N')
        ``A_l = E[a_l . a_l'] = sigma_w^2 E[h h'] + sigma_b^2``: also the NNGP kernel Q_l of the
        layer's outputs. docs/theory.md section 5 counts from 0 and calls it A_{l-1}.
    sensitivities : (L, N, N')
        ``B_l = E[delta_l . delta_l'] = prod_{k >= l} sigma_w^2 Qdot_k``; ``B_L = 1``. In a residual network s^2 times
        ``prod_{k >= l} (1 + s^2 sigma_w^2 Qdot_k)``; a normalisation divides Qdot_k by both root mean squares.
    """

    inputs: Float[Array, "L N M"]
    sensitivities: Float[Array, "L N M"]

    @property
    def layerwise_ntk(self) -> Float[Array, "L N M"]:
        """``Theta_l = A_l o B_l``."""
        return self.inputs * self.sensitivities

    @property
    def ntk(self) -> Float[Array, "N M"]:
        """``sum_l Theta_l``."""
        return jnp.sum(self.layerwise_ntk, axis=0)

    @property
    def nngp(self) -> Float[Array, "N M"]:
        """Covariance of the outputs over initialisations, ``A_L``."""
        return self.inputs[-1]


def input_sizes(chain: tuple[Stage, ...], x: Float[Array, "N M0"]) -> Size:
    """Diagonal of every ``A_l`` and its root, (L, N) each: how large the pre-activations are."""
    return _own(chain, x)[0]


def recurse(
    chain: tuple[Stage, ...],
    x1: Float[Array, "N M0"],
    x2: Float[Array, "M M0"],
    sizes1: Size,
    sizes2: Size,
    apart: Array | None = None,
    *,
    with_slopes: bool = True,
) -> Layers:
    """All layers' kernels of one tile of sample pairs.

    Forward ``A_{l+1} = sigma_w^2 E[phi(u) phi(u')] + sigma_b^2`` under ``N(0, A_l)``; backward
    ``B_l = sigma_w^2 E[phi'(u) phi'(u')] o B_{l+1}`` with the scale of layer l+1.

    Parameters
    ----------
    chain : tuple of Stage
    x1, x2 : (N, M_0), (M, M_0)
    sizes1, sizes2 : Size of (L, N), of (L, M)
        From `input_sizes`.
    apart : (N, M), optional
        False for pairs whose result is not used: their kinks must not reach a derivative as 0 times NaN.
    with_slopes : bool
        If False, ``slopes`` and ``ntk`` have no meaning and no kinks.
    """
    first = _first(chain[0], x1, x2, *_at((sizes1, sizes2), 0))
    if apart is not None:
        first = first._replace(correlation=jnp.where(apart, first.correlation, 0))

    def step(stage: Stage, below, sizes):
        (pair, ntk), (here, above) = below, sizes
        if isinstance(stage.before, ReluMoments):
            pair = pair._replace(covariance=pair.covariance + corner(x1, here[0], x2, here[1]))
        (rows, left), (columns, right) = (stage.normalised(size) for size in here)
        factor = outer(left, right)
        seen = pair._replace(covariance=pair.covariance * factor) if stage.norm else pair
        second, rho, slope = stage.before.pair(rows, seen, columns)
        slope = _weigh(stage, slope if with_slopes else jnp.zeros_like(slope))
        slope = stage.joined(jnp.ones_like(slope), slope * factor if stage.norm else slope)
        own = _weigh(stage, second) + stage.bias_std**2
        c = stage.joined(pair.covariance, own)
        if rho is None or stage.bias_std or stage.skip is not None:
            rho = _correlation(c, *above)
        return (Pair(c, rho), ntk * slope + stage.share * own), (own, slope)

    here, above = (jax.tree.map(lambda s, i=i: s[i:], (sizes1, sizes2)) for i in (0, 1))
    (_, ntk), (inputs, slopes) = _climb(
        chain, step, (first, first.covariance), (jax.tree.map(lambda s: s[:-1], here), above)
    )
    return Layers(jnp.concatenate([first.covariance[None], inputs]), slopes, ntk)


def _first(stage: Stage, x1, x2, a: Size, b: Size) -> Pair:
    """`Pair` of the first layer's pre-activations."""
    y1, y2 = _scaled(stage, x1), _scaled(stage, x2)
    units = [_directions(stage, y, size) for y, size in ((y1, a), (y2, b))]
    rho = _gram(*units)
    if stage.bias_std:
        rho = rho + outer(*(stage.bias_std * _inverse(s.deviation) for s in (a, b)))
    return Pair(_gram(y1, y2) + stage.bias_std**2, jnp.where(both(a, b), rho, 0))


def _directions(stage: Stage, y, size: Size):
    if y.shape[1] == 1 and not stage.bias_std:
        # On a line all angles are 0 or pi and do not change, so a kernel never crosses its kinks.
        return jnp.sign(y)
    return y * _inverse(size.deviation)[:, None]


def _correlation(c, a: Size, b: Size):
    scale = outer(_inverse(a.deviation), _inverse(b.deviation))
    # If a product of variances underflows, so does c; 0 times infinity would be NaN.
    return jnp.where(both(a, b), c * jnp.minimum(scale, jnp.finfo(c.dtype).max), 0)


def _inverse(deviation):
    return 1 / jnp.where(deviation > 0, deviation, 1)


def _gram(a, b):
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def _at(tree, index: int):
    return jax.tree.map(lambda s: s[index], tree)


def diagonal(chain: tuple[Stage, ...], x: Float[Array, "N M0"]) -> Layers:
    """`recurse` of every sample with itself, (N,) each. It is smooth; a pair of equal samples has a kink."""
    return _own(chain, x)[1]


def _own(chain, x) -> tuple[Size, Layers]:
    """Sizes of the pre-activations after every layer, and the layers' kernels."""
    y = _scaled(chain[0], x)
    first = _affine(replace(chain[0], weight_std=1.0), Size(jnp.sum(y**2, axis=1), row_norms(y)))

    def step(stage: Stage, below, _):
        size, ntk = below
        seen, factor = stage.normalised(size)
        hidden, slope = stage.before.own(seen)
        slope = stage.joined(jnp.ones_like(slope), _weigh(stage, slope) * factor**2)
        own = _affine(stage, hidden)
        size = _added(stage, size, own)
        return (size, ntk * slope + stage.share * own.variance), (size, own.variance, slope)

    (_, ntk), (sizes, inputs, slopes) = _climb(chain, step, (first, first.variance))
    sizes, inputs = jax.tree.map(
        lambda a, b: jnp.concatenate([a[None], b]), (first, first.variance), (sizes, inputs)
    )
    return sizes, Layers(inputs, slopes, ntk)


def _added(stage: Stage, before: Size, own: Size) -> Size:
    """Size of the pre-activations after a layer."""
    if stage.skip is None:
        return own
    deviation = row_norms(jnp.stack([before.deviation, stage.skip * own.deviation], axis=1))
    return Size(stage.joined(before.variance, own.variance), deviation)


def _climb(chain: tuple[Stage, ...], step: Callable, state: Any, per_layer: Any = None):
    """``state, out = step(stage, state, per_layer[l - 1])`` over layers l = 2, ..., L."""
    found, start = [], 0
    # Without a second layer, a loop of no turns gives results of the right shapes.
    for stage in chain[1:] or [Stage(1.0, 0.0, IdentityMoments(), repeat=0)]:
        part = jax.tree.map(lambda s, i=start, n=stage.repeat: s[i : i + n], per_layer)
        if stage.repeat == 1:
            state, out = step(stage, state, _at(part, 0))
            out = jax.tree.map(lambda y: y[None], out)
        else:
            state, out = jax.lax.scan(partial(step, stage), state, part, length=stage.repeat)
        found.append(out)
        start += stage.repeat
    return state, jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


def _weigh(stage: Stage, moment):
    # The square of a small weight_std may be out of range.
    return stage.weight_std * (stage.weight_std * moment)


def _affine(stage: Stage, size: Size) -> Size:
    deviation = stage.weight_std * size.deviation
    if stage.bias_std:
        deviation = row_norms(
            jnp.stack([deviation, jnp.full_like(deviation, stage.bias_std)], axis=1)
        )
    return Size(_weigh(stage, size.variance) + stage.bias_std**2, deviation)


def _scaled(stage: Stage, x):
    return x * (stage.weight_std / x.shape[1] ** 0.5)
