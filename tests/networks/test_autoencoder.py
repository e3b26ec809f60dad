"""Autoencoders in the standard parameterisation, and sparse initial parameters."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory.errors import InputError
from ngd_theory.networks import AUTOENCODERS, autoencoder, sparse_init

# One small network for all: its programs are compiled once.
SMALL = autoencoder(60, (8,))
KEY = jax.random.key(0)


def widths(network):
    return [network.input_shape[0], *(size.num_units for size in network.layer_sizes)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("curves", [784, 400, 200, 100, 50, 25, 6, 25, 50, 100, 200, 400, 784]),
        ("mnist", [784, 1000, 500, 250, 30, 250, 500, 1000, 784]),
        ("faces", [625, 2000, 1000, 500, 30, 500, 1000, 2000, 625]),
    ],
)
def test_the_decoder_mirrors_the_encoder(name, expected):
    network = autoencoder(*AUTOENCODERS[name])
    assert widths(network) == expected
    assert network.output_dim == expected[0] and network.activation == "tanh"
    # One bias a unit, and inputs with one more entry for it.
    assert [size.num_inputs for size in network.layer_sizes] == [p + 1 for p in expected[:-1]]


@pytest.mark.parametrize("code_activation", ["identity", "relu"])
@pytest.mark.parametrize("encoder", [(5, 3, 2), (4,)])
def test_outputs_are_those_of_plain_affine_layers(encoder, code_activation):
    functions = {"identity": lambda u: u, "relu": lambda u: np.maximum(u, 0), "tanh": np.tanh}
    network = autoencoder(7, encoder, code_activation=code_activation)
    rng = np.random.default_rng(0)
    shapes = [block.affine.layout.shapes for block in network.blocks]
    params = tuple({k: jnp.asarray(rng.normal(size=v)) for k, v in s.items()} for s in shapes)
    x = rng.normal(size=(6, 7))
    h = x
    for index, layer in enumerate(params):
        last, code = index == len(params) - 1, index == len(encoder) - 1
        name = "identity" if last else code_activation if code else "tanh"
        h = functions[name](h @ np.asarray(layer["weight"]) + np.asarray(layer["bias"]))
    np.testing.assert_allclose(network.apply(params, jnp.asarray(x)), h, rtol=1e-12, atol=1e-12)


def test_layer_inputs_are_the_hidden_values_and_a_one():
    h = np.random.default_rng(0).normal(size=(6, 7))
    inputs = autoencoder(7, (4,)).blocks[0].affine.inputs(jnp.asarray(h))
    np.testing.assert_array_equal(inputs[:, 0], np.hstack([h, np.ones((6, 1))]))


def test_blocks_know_which_units_are_linear_and_how_many_are_active():
    blocks = autoencoder(7, (5, 3, 2), "relu").blocks
    assert [block.linear for block in blocks] == [False, False, True, False, False, True]
    assert [block.active_fraction for block in blocks] == [0.5, 0.5, 1.0, 0.5, 0.5, 1.0]
    assert blocks[-1].after == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_dim": 0}, "input_dim is 0; it must be a whole number of at least 1"),
        ({"encoder_widths": ()}, "encoder_widths is empty"),
        ({"encoder_widths": (4, -1)}, r"encoder_widths\[1\] is -1"),
        ({"activation": "swish"}, "unknown activation 'swish'"),
        ({"code_activation": "swish"}, "unknown activation 'swish'"),
    ],
)
def test_a_bad_argument_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        autoencoder(**{"input_dim": 6, "encoder_widths": (4, 2), **arguments})


def test_every_unit_listens_to_fifteen_inputs_or_all_there_are():
    params = sparse_init(SMALL, KEY)
    SMALL.check(params, jnp.zeros((1, 60)))
    connections = [np.count_nonzero(layer["weight"], axis=0) for layer in params]
    np.testing.assert_array_equal(connections[0], 15)
    np.testing.assert_array_equal(connections[1], 8)
    assert not any(np.any(layer["bias"]) for layer in params)
    # Drawn for each unit anew, over all the inputs: 120 places over 60.
    places = np.asarray(params[0]["weight"]) != 0
    assert len(np.unique(places, axis=1).T) == 8
    assert places.any(axis=1).sum() > 45
    few = sparse_init(SMALL, KEY, num_connections=3)
    assert {int(n) for layer in few for n in np.count_nonzero(layer["weight"], axis=0)} == {3}


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_scale_is_that_of_the_effective_weights(scale):
    for network in (SMALL, ngd.networks.mlp(60, [8], 60, weight_std=0.7)):
        params = sparse_init(network, KEY, scale=scale)
        for block, layer in zip(network.blocks, params, strict=True):
            weight = np.asarray(layer["weight"])
            factor = block.affine.weight_std / block.affine.fan_in**0.5
            effective = factor * weight[weight != 0]
            # Of n normal numbers the deviation is within 3 / sqrt(2 n) nearly always.
            tolerance = 3 / (2 * effective.size) ** 0.5
            assert effective.std() == pytest.approx(scale, rel=tolerance)
            assert abs(effective.mean()) < 2 * tolerance * scale


def test_sparse_parameters_have_the_shapes_and_dtype_of_the_networks_own():
    for network in (SMALL, ngd.networks.mlp(30, [20], 1)):
        for dtype in (None, jnp.float32):
            given, own = (
                jax.eval_shape(lambda key, draw=draw, dtype=dtype: draw(key, dtype=dtype), KEY)
                for draw in (partial(sparse_init, network), network.init)
            )
            assert given == own


def test_sparse_parameters_are_a_function_of_the_key_and_can_be_drawn_within_jit():
    params, again, other = (sparse_init(SMALL, jax.random.key(seed)) for seed in (0, 0, 1))
    jitted = jax.jit(lambda key: sparse_init(SMALL, key))(KEY)
    for index, layer in enumerate(params):
        np.testing.assert_array_equal(layer["weight"], again[index]["weight"])
        np.testing.assert_allclose(layer["weight"], jitted[index]["weight"], rtol=1e-12)
        assert not np.array_equal(layer["weight"], other[index]["weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_connections": 0}, "num_connections is 0; it must be at least 1"),
        ({"scale": 0.0}, "scale is 0.0; it must be positive and finite"),
        ({"scale": float("inf")}, "scale is inf"),
    ],
)
def test_a_bad_number_of_sparse_parameters_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        sparse_init(SMALL, KEY, **arguments)
