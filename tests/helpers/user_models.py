"""Models of flax and equinox as users write them, small, with where each parameter stands among units and inputs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

import ngd_theory as ngd

F64 = {"param_dtype": jnp.float64}


class Block(linen.Module):
    width: int

    @linen.compact
    def __call__(self, h):
        y = linen.LayerNorm(**F64)(h)
        h = h + linen.MultiHeadDotProductAttention(num_heads=2, **F64)(y, y)
        y = linen.gelu(linen.Dense(2 * self.width, **F64)(linen.LayerNorm(**F64)(h)))
        return h + linen.Dense(self.width, **F64)(y)


class ViT(linen.Module):
    """Patches, a position each, one block, the mean over tokens."""

    width: int = 4

    @linen.compact
    def __call__(self, x):
        h = linen.Conv(self.width, (2, 2), strides=(2, 2), padding="VALID", name="patch", **F64)(x)
        h = h.reshape(len(h), -1, self.width)
        h = h + self.param("positions", linen.initializers.normal(1.0), h.shape[1:], float)
        h = Block(self.width, name="block")(h)
        return linen.Dense(2, use_bias=False, name="head", **F64)(h.mean(1))


class CNN(eqx.Module):
    """Convolutions with group normalisation, attention over positions, a readout; of one sample (C, H, W)."""

    first: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    grouped: eqx.nn.Conv2d
    attention: eqx.nn.MultiheadAttention
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.first = eqx.nn.Conv2d(1, 4, 3, padding=1, key=keys[0])
        self.norm = eqx.nn.GroupNorm(2, 4)
        self.grouped = eqx.nn.Conv2d(4, 4, 2, stride=2, groups=2, key=keys[1])
        self.attention = eqx.nn.MultiheadAttention(2, 4, key=keys[2])
        self.head = eqx.nn.Linear(4, 2, key=keys[3])

    def __call__(self, x):
        h = self.grouped(jnp.tanh(self.norm(self.first(x))))
        tokens = h.reshape(4, -1).T
        return self.head((tokens + self.attention(tokens, tokens, tokens)).mean(0))


class Tokens(nnx.Module):
    """An embedding, a dilated convolution, a layer that is called twice, a readout."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(6, 4, rngs=rngs, **F64)
        self.conv = nnx.Conv(4, 5, (2,), kernel_dilation=2, padding="VALID", rngs=rngs, **F64)
        self.norm = nnx.LayerNorm(5, rngs=rngs, **F64)
        self.twice = nnx.Linear(5, 5, rngs=rngs, **F64)
        self.head = nnx.Linear(5, 2, rngs=rngs, **F64)

    def __call__(self, x):
        h = nnx.tanh(self.norm(self.conv(self.embed(x))))
        h = nnx.tanh(self.twice(nnx.tanh(self.twice(h))))
        return self.head(h.mean(1))


class Part(NamedTuple):
    """Leaves of a part, each with what makes a matrix of it, put together along ``axis`` to (P, M)."""

    axis: int
    pieces: list


def dense(*leaves):
    """Kernel (..., units) and bias."""
    return [Part(0, [(leaf, lambda v: v.reshape(-1, v.shape[-1])) for leaf in leaves])]


def heads(*leaves):
    """Kernel (fan_in, heads, size) and bias (heads, size)."""
    kernel, bias = leaves
    makers = (lambda v: v.reshape(len(v), -1)), (lambda v: v.reshape(1, -1))
    return [Part(0, list(zip((kernel, bias), makers, strict=True)))]


def group(*leaves):
    """Parameters of which nothing is known: one input, and each a unit."""
    return [Part(1, [(leaf, lambda v: v.reshape(1, -1)) for leaf in leaves])]


def transposed(*leaves, groups=1):
    """Weight (units, channels, ...) and bias (units, ...), for each group of units."""

    def make(v, g):
        units = np.split(v, groups)[g]
        if units.size == len(units):
            return units.reshape(1, -1)
        return np.moveaxis(units, (1, 0), (-2, -1)).reshape(-1, len(units))

    return [Part(0, [(leaf, partial(make, g=g)) for leaf in leaves]) for g in range(groups)]


def vit_parts():
    attention = "block/MultiHeadDotProductAttention_0"

    def of(node):
        return f"{node}/kernel", f"{node}/bias"

    parts = []
    for number in (0, 1):
        node = f"block/LayerNorm_{number}"
        parts += group(f"{node}/bias", f"{node}/scale")
    parts += group("positions") + dense(*of("patch"))
    for name in ("query", "key", "value"):
        parts += heads(*of(f"{attention}/{name}"))
    parts += dense(*of(f"{attention}/out"))
    return parts + dense(*of("block/Dense_0")) + dense(*of("block/Dense_1")) + dense("head/kernel")


def cnn_parts():
    def of(node):
        return f"{node}/weight", f"{node}/bias"

    parts = group(*of("norm")) + transposed(*of("first")) + transposed(*of("grouped"), groups=2)
    for name in ("query", "key", "value", "output"):
        parts += transposed(f"attention/{name}_proj/weight")
    return parts + transposed(*of("head"))


def token_parts():
    def of(node):
        return f"{node}/kernel", f"{node}/bias"

    parts = group("norm/bias", "norm/scale") + dense("embed/embedding")
    for name in ("conv", "twice", "head"):
        parts += dense(*of(name))
    return parts


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@dataclass(frozen=True)
class UserProblem:
    """A model with data; ``matrices`` are the numbers of each part's parameters, (P, M), in the order of the leaves."""

    model: object = field(repr=False)
    variables: object = field(repr=False)
    params: object = field(repr=False)
    apply: Callable = field(repr=False)
    x: jax.Array = field(repr=False)
    x_test: jax.Array = field(repr=False)
    parts: list = field(repr=False)

    @cached_property
    def lin(self):
        return ngd.networks.linearize_model(self.model, self.x, self.variables)

    @cached_property
    def at(self):
        return ngd.networks.linearize_model(self.model, self.x_test, self.variables)

    def _jacobian(self, x):
        jacobian = jax.jit(jax.jacrev(lambda p: self.apply(p, x).ravel()))(self.params)
        return np.concatenate(
            [np.reshape(j, (len(j), -1)) for j in jax.tree.leaves(jacobian)], axis=1
        )

    @cached_property
    def jacobian(self):
        return self._jacobian(self.x)

    @cached_property
    def jacobian_at(self):
        return self._jacobian(self.x_test)

    @cached_property
    def matrices(self):
        paths, _ = jax.tree_util.tree_flatten_with_path(self.params)
        numbers, start = {}, 0
        for path, leaf in paths:
            name = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
            numbers[name] = np.arange(start, start + leaf.size).reshape(leaf.shape)
            start += leaf.size
        found = [
            np.concatenate([arrange(numbers[name]) for name, arrange in part.pieces], part.axis)
            for part in self.parts
        ]
        assert sorted(np.concatenate([m.ravel() for m in found])) == list(range(start))
        return found


def moved(tree, seed=5):
    """Parameters a little away from where they begin: no bias is zero, no scale one."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda v: v + 0.3 * jnp.asarray(rng.normal(size=v.shape)), tree)


def vit():
    x, x_test = (jax.random.normal(jax.random.key(i), (3, 4, 4, 1)) for i in (0, 1))
    model = ViT()
    params = moved(jax.jit(model.init)(jax.random.key(2), x)["params"])
    return UserProblem(
        model,
        {"params": params},
        params,
        lambda p, x: model.apply({"params": p}, x),
        x,
        x_test,
        vit_parts(),
    )


def cnn():
    x, x_test = (jax.random.normal(jax.random.key(i), (3, 1, 4, 4)) for i in (0, 1))
    arrays, static = eqx.partition(CNN(jax.random.key(2)), eqx.is_inexact_array)
    params = moved(arrays)
    return UserProblem(
        eqx.combine(params, static),
        None,
        params,
        lambda p, x: jax.vmap(eqx.combine(p, static))(x),
        x,
        x_test,
        cnn_parts(),
    )


def tokens():
    x, x_test = (jax.random.randint(jax.random.key(i), (3, 5), 0, 6) for i in (0, 1))
    graph, params, rest = nnx.split(Tokens(nnx.Rngs(2)), nnx.Param, ...)
    params = moved(params)
    return UserProblem(
        nnx.merge(graph, params, rest),
        None,
        params,
        lambda p, x: nnx.merge(graph, p, rest)(x),
        x,
        x_test,
        token_parts(),
    )


BUILDERS = {"linen ViT": vit, "equinox CNN": cnn, "nnx tokens": tokens}


@cache
def user_problem(name):
    return BUILDERS[name]()
