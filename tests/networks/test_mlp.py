"""Perceptrons in the NTK parameterisation: values, sizes and the errors of bad arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, problem
from dense import forward_backward

import ngd_theory as ngd
from ngd_theory.errors import InputError


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_are_those_of_the_textbook_forward_pass(case):
    p = problem(case)
    outputs, _, _ = forward_backward(case.activation, case.weight_std, case.bias_std, p.params, p.x)
    np.testing.assert_allclose(p.network.apply(p.params, p.x), outputs, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(p.lin.outputs, outputs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ngd.networks.ACTIVATIONS)
def test_active_fraction_is_the_probability_of_a_nonzero_derivative(name):
    activation = ngd.networks.ACTIVATIONS[name]
    u = jnp.asarray(np.random.default_rng(0).normal(size=20_000))
    slopes = jax.vmap(jax.grad(lambda v: jnp.sum(activation(v))))(u)
    assert np.mean(np.asarray(slopes) != 0) == pytest.approx(activation.active_fraction, abs=0.02)


def test_pre_activations_have_unit_scale_whatever_the_width():
    x = jnp.ones((1, 4))
    for width in (256, 1024):
        network = ngd.networks.mlp(4, [width], width, "identity", weight_std=1.0, bias_std=0.5)
        outputs = network.apply(network.init(jax.random.key(0)), x)
        # Variance of the outputs: (1 + 0.25) + 0.25; their mean square over `width` outputs.
        assert float(jnp.mean(outputs**2)) == pytest.approx(1.5, rel=0.2)


def test_parameters_are_standard_normal_and_a_function_of_the_key():
    network = ngd.networks.mlp(64, [128], 2, bias_std=0.1)
    params = network.init(jax.random.key(0))
    weight = np.asarray(params[0]["weight"])
    assert abs(weight.mean()) < 0.05
    assert weight.std() == pytest.approx(1, abs=0.03)
    again, other = network.init(jax.random.key(0)), network.init(jax.random.key(1))
    np.testing.assert_array_equal(weight, again[0]["weight"])
    assert not np.any(weight == np.asarray(other[0]["weight"]))


def test_parameters_have_the_stated_shapes_and_dtype():
    network = ngd.networks.mlp(4, [5, 6], 3, bias_std=0.1)
    shapes = [jax.tree.map(jnp.shape, layer) for layer in network.init(jax.random.key(0))]
    assert shapes == [
        {"weight": (4, 5), "bias": (5,)},
        {"weight": (5, 6), "bias": (6,)},
        {"weight": (6, 3), "bias": (3,)},
    ]
    assert network.num_parameters == 4 * 5 + 5 + 5 * 6 + 6 + 6 * 3 + 3
    assert (network.depth, network.output_dim) == (3, 3)
    single = network.init(jax.random.key(0), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(single)} == {jnp.dtype("float32")}
    assert "bias" not in ngd.networks.mlp(4, [5], 1).init(jax.random.key(0))[0]


def test_float32_stays_float32():
    network = ngd.networks.mlp(4, [5], 2, bias_std=0.1)
    params = network.init(jax.random.key(0), jnp.float32)
    lin = ngd.networks.linearize(network, params, jnp.ones((3, 4), jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(lin)} == {jnp.dtype("float32")}
    gradient = ngd.fisher.KFAC().natural_gradient(lin, lin.outputs, 1e-3)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}


def test_networks_are_equal_and_hashable_by_what_they_are():
    one, same = ngd.networks.mlp(4, [5], 2), ngd.networks.mlp(4, [5], 2)
    assert one == same
    assert hash(one) == hash(same)
    assert one != ngd.networks.mlp(4, [5], 2, activation="tanh")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_dim": 0}, "input_dim is 0; it must be a whole number of at least 1"),
        ({"hidden_widths": [4, -1]}, r"hidden_widths\[1\] is -1"),
        ({"output_dim": 0}, "output_dim is 0"),
        ({"weight_std": 0.0}, "weight_std is 0.0; it must be positive and finite"),
        ({"weight_std": float("nan")}, "weight_std is nan"),
        ({"bias_std": -0.1}, "bias_std is -0.1; it must be zero or positive"),
        ({"bias_std": float("inf")}, "bias_std is inf"),
        (
            {"activation": "swish"},
            "unknown activation 'swish'; choose one of: relu, tanh, erf, gelu, identity",
        ),
    ],
)
def test_a_bad_argument_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        ngd.networks.mlp(**{"input_dim": 3, "hidden_widths": [4], "output_dim": 1, **arguments})


@pytest.mark.parametrize("call", ["apply", "linearize"])
def test_inputs_and_parameters_that_do_not_fit_are_described(call):
    network = ngd.networks.mlp(3, [4], 1, bias_std=0.1)
    params = network.init(jax.random.key(0))

    def run(params, x):
        if call == "apply":
            return network.apply(params, x)
        return ngd.networks.linearize(network, params, x)

    with pytest.raises(InputError, match=r"shape \(2, 5\); this network takes \(N, 3\)"):
        run(params, jnp.ones((2, 5)))
    with pytest.raises(InputError, match="there is no sample"):
        run(params, jnp.ones((0, 3)))
    with pytest.raises(InputError, match="parameters of 1 layers for a network of 2"):
        run(params[:1], jnp.ones((2, 3)))
    with pytest.raises(InputError, match="parameters of layer 2 have shapes"):
        run((params[0], {"weight": params[1]["weight"]}), jnp.ones((2, 3)))
