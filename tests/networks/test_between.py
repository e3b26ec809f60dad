"""Maps between layers: the ranks after them are those of an SVD, or none is stated."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory.errors import InputError, NotPredictedError
from ngd_theory.networks import between, chain
from ngd_theory.networks.activations import Activation
from ngd_theory.networks.block import Block
from ngd_theory.networks.convolution import AveragePool, Convolution, Flatten, GlobalAveragePool
from ngd_theory.networks.layers import Dense

RELU, TANH = ngd.networks.ACTIVATIONS["relu"], ngd.networks.ACTIVATIONS["tanh"]


def max_pool(h):
    return jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def max_pool_of_all(h):
    return h.max((1, 2))


def layer_norm(h):
    centred = h - h.mean(-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)


def centre(h):
    return h - h.mean(-1, keepdims=True)


def sort(h):
    return jnp.sort(h, axis=-1)


def maxout(h):
    return h.reshape(len(h), -1, 2).max(-1)


def softmax(h):
    return jax.nn.softmax(h, -1)


def both_signs(h):
    return jnp.concatenate([jax.nn.relu(h), jax.nn.relu(-h)], -1)


def twice(h):
    return jnp.concatenate([h, h], -1)


def residual(h):
    return h + jnp.tanh(h)


def first_half(h):
    return jnp.tanh(h[..., : h.shape[-1] // 2])


def every_other_image(h):
    return h[:, ::2, ::2]


def flipped(h):
    return h[:, ::-1, ::-1, ::-1]


def shuffled(h):
    return h[..., np.random.default_rng(0).permutation(h.shape[-1])]


def with_mirror_image(h):
    return h + h[:, ::-1]


def overlapping(h):
    return (h[:, 1:] + h[:, :-1]) / 2


def softmax_of_positions(h):
    return jax.nn.softmax(h, 1)


def constant(h):
    return jnp.ones_like(h)


def steps(h):
    return jnp.sign(h)


def padded(h):
    return jnp.pad(h, ((0, 0), (0, 3)))


def shifted(h):
    return h + 1


def of_the_batch(h):
    return h - h.mean(0)


def logarithm(h):
    return jnp.log(h)


@jax.custom_vjp
def straight_through(h):
    return jnp.sign(h)


straight_through.defvjp(lambda h: (jnp.sign(h), None), lambda _, g: (g,))


def triangle(h):
    """Other positions of other units."""
    return h * jnp.tril(jnp.ones(h.shape[1:3]))[..., : h.shape[-1]]


def dense(after, gamma=1.0, linear=False, width=12, last=()):
    first = Dense(5, width, 1.3, 0.4)
    fan_in = jax.eval_shape(
        lambda h: _all(after, h), jax.ShapeDtypeStruct((1, width), float)
    ).shape[-1]
    blocks = (
        Block(first, after, gamma, linear),
        Block(Dense(fan_in, 2, 1.3, 0.4), last, 1.0, not last),
    )
    return chain((5,), blocks, "tanh")


def convolutional(after, gamma=1.0, linear=False, units=24, second=True):
    """Two convolutions and a dense layer, the maps after the first."""
    first = Convolution((6, 6, 2), units, 3, 1, "same", 1.3, 0.0)
    blocks = [Block(first, after, gamma, linear)]
    shape = _shape(after, first.output_shape)
    if second and len(shape) == 3:
        layer = Convolution(shape, 20, 2, 1, "valid", 1.3, 0.3)
        blocks.append(Block(layer, (TANH, Flatten()), 1.0, False))
        shape = _shape((Flatten(),), layer.output_shape)
    elif len(shape) == 3:
        blocks[0] = Block(first, (*after, Flatten()), gamma, linear)
        shape = _shape((Flatten(),), shape)
    return chain((6, 6, 2), (*blocks, Block(Dense(shape[-1], 2, 1.3, 0.3))), "tanh")


def _all(after, h):
    for function in after:
        h = function(h)
    return h


def _shape(after, shape):
    given = jax.ShapeDtypeStruct((1, *shape), float)
    return jax.eval_shape(lambda h: _all(after, h), given).shape[1:]


#: Maps behind which the theory knows the ranks, and numbers of samples on both sides of every bound.
KNOWN = {
    "max pooling": (convolutional((RELU, max_pool), 0.5), (1, 2)),
    "max pooling, no activation": (convolutional((max_pool,)), (1, 2)),
    "max pooling before it": (convolutional((max_pool, TANH)), (1, 2)),
    "an edge dropped": (convolutional((TANH, AveragePool(4)), second=False), (1, 3)),
    "strided slice": (convolutional((TANH, every_other_image)), (1, 2, 40)),
    "flips": (convolutional((TANH, flipped)), (1, 2)),
    "global average": (convolutional((TANH, GlobalAveragePool()), units=40), (1, 2)),
    "half of the units": (dense((first_half,)), (2, 5, 9)),
    "half of the channels": (convolutional((first_half,)), (1, 2)),
    "residual": (dense((residual,)), (3, 9)),
    "absolute value": (dense((jnp.abs,)), (3, 9, 30)),
    "shuffled": (dense((TANH, shuffled)), (3, 9)),
    "linear": (dense((shuffled,), linear=True), (3, 9)),
    "linear, half": (dense((lambda h: h[:, :3],), linear=True), (3, 9)),
    "linear, strided": (convolutional((every_other_image,), linear=True, second=False), (1, 3)),
    "global average of the outputs": (
        chain(
            (4, 4, 3),
            (Block(Convolution((4, 4, 3), 3, 2, 1, "same", 1.3, 0.0), (GlobalAveragePool(),)),),
        ),
        (1, 3),
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_ranks_behind_a_map_are_those_of_an_svd(name):
    net, counts = KNOWN[name]
    for n in counts:
        x = jnp.asarray(np.random.default_rng(n).normal(size=(n, *net.input_shape)))
        lin = jax.jit(ngd.networks.linearize, static_argnums=0)(net, net.init(jax.random.key(0)), x)
        assert net.output_dim == lin.output_dim
        for size, layer in zip(net.layer_sizes, lin.layers, strict=True):
            a = np.asarray(layer.inputs).reshape(-1, size.num_inputs)
            delta = np.asarray(layer.sensitivities).reshape(-1, size.num_units)
            assert size.unknown is None
            assert np.linalg.matrix_rank(a) == size.input_rank(n)
            assert np.linalg.matrix_rank(delta) == size.sensitivity_rank(n, net.output_dim)


@pytest.mark.parametrize(
    "name", ["max pooling", "half of the units", "residual", "global average of the outputs"]
)
def test_traces_of_maps_are_the_constants(name):
    net, n = KNOWN[name][0], 2
    x = jnp.asarray(np.random.default_rng(0).normal(size=(n, *net.input_shape)))
    lin = jax.jit(ngd.networks.linearize, static_argnums=0)(net, net.init(jax.random.key(0)), x)
    # Off full rank, K-FAC's is what its ranks give but for how leverages differ; unit-wise sums random units.
    tolerances = {"exact": 1e-6, "block-diagonal": 1e-6, "kfac": 0.15, "unit-wise": 0.15}
    for method, tolerance in tolerances.items():
        approximation = ngd.fisher.by_name(method)
        k = np.asarray(approximation.function_space_map(lin, 0.0))
        predicted = ngd.theory.isotropy_constant(approximation, net, n)
        assert np.trace(k) / len(k) == pytest.approx(predicted, rel=tolerance), method


def test_conditions_of_a_network_without_known_ranks_are_measured():
    net, x = UNKNOWN["layer normalisation"][0], np.random.default_rng(0).normal(size=(3, 5))
    lin = ngd.networks.linearize(net, net.init(jax.random.key(0)), jnp.asarray(x))
    for method in APPROXIMATIONS:
        approximation = ngd.fisher.by_name(method)
        conditions = ngd.theory.check_conditions(approximation, net, lin)
        k = np.asarray(approximation.function_space_map(lin, 0.0))
        alpha = np.trace(k) / len(k)
        dispersion = np.linalg.norm(k / alpha - np.eye(len(k))) / np.sqrt(len(k))
        assert dispersion < 1e-3 or not all(c.holds for c in conditions), method
    many = {c.name: c for c in conditions}["many-units"]
    assert not many.holds
    assert "measured" in many.why


@pytest.mark.parametrize("name", ngd.networks.ACTIVATIONS)
def test_what_is_said_of_the_packages_activations_is_seen(name):
    phi = ngd.networks.ACTIVATIONS[name]
    said = between.between((phi,), (1000,))
    seen = between.between((dataclasses.replace(phi, name="another"),), (1000,))
    assert (said.shape, said.feeds, said.linear) == (seen.shape, seen.feeds, seen.linear)
    assert seen.active == pytest.approx(said.active, abs=0.05)


def test_maps_that_cannot_be_hashed_are_refused():
    @dataclasses.dataclass
    class Twice:
        factor: float = 2.0

        def __call__(self, h):
            return self.factor * h

    with pytest.raises(InputError, match=r"a Twice, which cannot be hashed: .* a frozen dataclass"):
        between.between((Twice(),), (8,))
    # The control: with a hash it is looked at.
    Twice.__hash__ = lambda self: hash(self.factor)
    assert between.between((Twice(),), (8,)).linear


def test_sizes_can_be_counted_inside_jit():
    found = []

    def count(x):
        net = convolutional((TANH, every_other_image))
        found.extend(s.input_rank(2) for s in net.layer_sizes)
        return x

    jax.jit(count)(jnp.ones(2))
    assert found == [s.input_rank(2) for s in KNOWN["strided slice"][0].layer_sizes]


def test_looking_needs_no_forward_derivative_and_no_switch_of_jax():
    @jax.custom_vjp
    def squashed(h):
        return jnp.tanh(h)

    squashed.defvjp(lambda h: (jnp.tanh(h), h), lambda h, g: (g / jnp.cosh(h) ** 2,))
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        sizes = dense((squashed,)).layer_sizes
    with (
        jax.enable_x64(False) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64(False)
    ):
        single = dense((squashed, shuffled)).layer_sizes
    assert [s.unknown for s in (*sizes, *single)] == [None] * 4


UNKNOWN = {
    "layer normalisation": (dense((RELU, layer_norm), 0.5), "reach several numbers"),
    "centred": (dense((centre,), linear=True), "reach several numbers"),
    "softmax": (dense((softmax,)), "reach several numbers"),
    "an activation that is none": (dense((Activation("odd", softmax, 1.0),)), "reach several"),
    "an activation that sorts": (dense((Activation("odd", sort, 1.0),)), "as sorting does"),
    "an activation that pools": (dense((Activation("odd", maxout, 1.0),)), "mixes units"),
    "sorted": (dense((TANH, sort)), "as sorting does"),
    "largest of two units": (dense((maxout,)), "mixes units"),
    "both signs": (dense((both_signs,)), "different numbers at different inputs"),
    "copies": (dense((twice,), linear=True), "reach several numbers"),
    "mirror image": (convolutional((TANH, with_mirror_image)), "reach several numbers"),
    "overlapping windows": (convolutional((TANH, overlapping)), "overlapping windows"),
    "softmax of positions": (convolutional((softmax_of_positions,)), "reach several numbers"),
    "maximum of all": (convolutional((TANH, max_pool_of_all)), "chooses one of 36 positions"),
    "constant": (dense((constant,)), "no number after its map depends on a unit"),
    "steps": (dense((steps,)), "no number after its map"),
    "padded": (dense((TANH, padded)), "3 numbers after its map depend on no unit"),
    "shifted": (dense((shifted,)), "adds constants"),
    "a gradient of its own": (dense((straight_through,)), "a gradient of its own"),
    "batch statistics": (dense((of_the_batch,), linear=True), "samples see each other"),
    "not finite": (dense((logarithm,)), "not finite"),
    "other positions": (convolutional((TANH, triangle), units=6), "depend on no unit"),
    "outputs with a map": (dense((TANH,), last=(TANH,)), "outputs are not linear"),
    "said to be linear": (dense((jnp.tanh,), linear=True), "linear=False"),
    "said not to be linear": (dense((shuffled,), linear=False), "linear=True"),
    "said to be always active": (dense((RELU,), 1.0), "active_fraction=1.0"),
    "said to be active by half": (dense((jnp.tanh,), 0.5), "active_fraction=0.5"),
}
APPROXIMATIONS = (
    "exact",
    "block-diagonal",
    "block-tridiagonal",
    "kfac",
    "kfac-tridiagonal",
    "unit-wise",
)


@pytest.mark.parametrize("name", UNKNOWN)
def test_no_constant_is_stated_behind_other_maps(name):
    net, words = UNKNOWN[name]
    number = net.depth if name == "outputs with a map" else 1
    for approximation in map(ngd.fisher.by_name, APPROXIMATIONS):
        if approximation.name == "kfac-tridiagonal" and net.layer_sizes[0].positions > 1:
            assert ngd.theory.isotropy_constant(approximation, net, 3) is None
            continue
        for ask in (ngd.theory.isotropy_constant, ngd.theory.optimal_step_size):
            with pytest.raises(
                NotPredictedError, match=rf"layer {number} is followed by .*{words}"
            ):
                ask(approximation, net, 3)
    with pytest.raises(NotPredictedError, match="largest_monotone_step_size"):
        ngd.theory.unit_wise_dispersion(net)
    # Sizes are there all the same: training, memory and sharding need them.
    assert net.num_parameters == sum(s.num_inputs * s.num_units for s in net.layer_sizes)
    assert net.output_dim == 2
    assert ngd.theory.step_memory(ngd.fisher.KFAC(), net, 3).total > 0
