"""Networks with forward functions of their own, small, with data: shared by the tests."""

from dataclasses import dataclass, field
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

import ngd_theory as ngd
from ngd_theory.networks import Convolution, Dense, Embedding, MaxPool, ScaleShift, layer_norm

W = 7
GAIN = (1.2, 0.3)  # sigma_w, sigma_b


def residual(layers, x):
    h = layers["in"](x)
    for name in ("a", "b"):
        h = h + layers[name](jnp.tanh(layer_norm(h)))
    return layers["out"](h)


def with_norms(layers, x):
    h = layers["in"](x)
    for name in ("a", "b"):
        h = h + layers[name](jnp.tanh(layers[f"norm_{name}"](layer_norm(h))))
    return layers["out"](h)


def tied(layers, x):
    """The same layer three times, once at a branch of two positions."""
    h = layers["in"](x)
    h = jnp.tanh(layers["a"](jnp.tanh(layers["a"](h))))
    both = layers["a"](jnp.stack([h, -2 * h], axis=1))
    return layers["out"](jnp.tanh(both).sum(1))


def two_loops(layers, x):
    """A loop in a loop."""

    def outer(layers, h, _):
        def inner(layers, h, _):
            return jnp.tanh(layers["a"](h)), None

        h, _ = layers.scan(inner, h, length=2)
        return h + layers["b"](h), None

    h, _ = layers.scan(outer, layers["in"](x), length=2)
    return layers["out"](h)


@dataclass(frozen=True)
class Convolutional:
    pool: bool = False

    def __call__(self, layers, x):
        h = layers["conv"](x)
        if self.pool:
            h = MaxPool(2)(h)
        h = jnp.tanh(h)
        if "norm" in layers._numbers:
            h = layers["norm"](h)
        return layers["out"](h.reshape(len(h), -1))


def convolution(shape, units, pool=False, norm=False, **options):
    conv = Convolution(shape, units, weight_std=1.2, bias_std=0.3, **options)
    sizes = [s // 2 if pool else s for s in conv.output_shape[:-1]]
    layers = {"conv": conv} | ({"norm": ScaleShift(units)} if norm else {})
    layers["out"] = Dense(int(np.prod(sizes)) * units, 2, *GAIN)
    return ngd.networks.network(Convolutional(pool), layers, shape)


def dense(forward, *names, outputs=2, norms=()):
    layers = {"in": Dense(5, W, *GAIN), **{n: Dense(W, W, *GAIN) for n in names}}
    layers |= {f"norm_{n}": ScaleShift(W) for n in norms}
    layers["out"] = Dense(W, outputs, *GAIN)
    return ngd.networks.network(forward, layers, (5,))


def pool_tokens(layers, x):
    return layers["out"](jnp.tanh(layers["a"](layers["embed"](x))).mean(1))


def embedding():
    layers = {"embed": Embedding(9, W), "a": Dense(W, W, *GAIN), "out": Dense(W, 2, *GAIN)}
    return ngd.networks.network(pool_tokens, layers, (3,), vocabulary=9)


BUILDERS = {
    "residual": lambda: dense(residual, "a", "b"),
    "gamma and beta": lambda: dense(with_norms, "a", "b", norms=("a", "b")),
    "tied": lambda: dense(tied, "a"),
    "loops": lambda: dense(two_loops, "a", "b"),
    "embedding": embedding,
    "resnet": lambda: ngd.networks.resnet(5, W, 2, 1, "tanh", *GAIN),
    "conv resnet": lambda: ngd.networks.resnet((3, 3, 2), 5, 1, 2, "gelu", *GAIN),
    "transformer": lambda: ngd.networks.transformer(3, 4, 6, 1, 2, "tanh", *GAIN, heads=2),
    "causal": lambda: ngd.networks.transformer(
        3, None, 6, 2, 1, "gelu", 1.0, 0.0, vocabulary=8, causal=True, readout="last"
    ),
    "recurrent": lambda: ngd.networks.recurrent(4, 3, W, 2, "tanh", *GAIN),
    "conv1d, dilated": lambda: convolution((7, 3), 4, kernel_size=2, dilation=2),
    "conv2d, groups": lambda: convolution((4, 4, 4), 6, groups=2, stride=2, norm=True),
    "conv2d, oblong": lambda: convolution(
        (4, 5, 2), 3, kernel_size=(2, 3), stride=(1, 2), padding=((0, 1), (2, 0))
    ),
    "conv3d": lambda: convolution((3, 2, 2, 2), 4, kernel_size=2, padding="circular"),
    "max pooling": lambda: convolution((4, 4, 3), 5, pool=True),
}


@dataclass(frozen=True)
class AnyProblem:
    network: object
    params: tuple = field(repr=False)
    x: jax.Array = field(repr=False)
    x_test: jax.Array = field(repr=False)
    lin: object = field(repr=False)
    at: object = field(repr=False)
    jacobians: list = field(repr=False)
    jacobians_at: list = field(repr=False)


def rows_of(network, params, x):
    """Autodiff's Jacobian by the parameters of each part of a layer: dicts of (NC, ...) arrays."""

    @jax.jit
    def jacobian(params, x):
        return jax.jacrev(lambda p: network.apply(p, x).ravel())(params)

    found = jacobian(params, x)
    return found if network.parts is None else network.parts.split(found)


@cache
def any_problem(name, samples=4):
    network = BUILDERS[name]()
    rng = np.random.default_rng(0)
    shape = (samples, *network.input_shape)
    if network.vocabulary:
        x, x_test = (jnp.asarray(rng.integers(0, network.vocabulary, shape)) for _ in range(2))
    else:
        x, x_test = (jnp.asarray(rng.normal(size=shape)) for _ in range(2))
    params = jax.jit(network.init)(jax.random.key(1))
    # So that scales are no ones and shifts no zeros.
    params = jax.tree.map(lambda p: p + 0.3 * jnp.asarray(rng.normal(size=p.shape)), params)
    return AnyProblem(
        network,
        params,
        x,
        x_test,
        ngd.networks.linearize(network, params, x),
        ngd.networks.linearize(network, params, x_test),
        rows_of(network, params, x),
        rows_of(network, params, x_test),
    )
