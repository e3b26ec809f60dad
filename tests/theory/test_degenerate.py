"""Data and weights that break a premise: a constant is as predicted, or a condition says why it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd

linearize = jax.jit(ngd.networks.linearize, static_argnums=0)

N, M0, WIDTH = 4, 6, 128
NETWORK = ngd.networks.mlp(M0, [WIDTH, WIDTH], 1)
BIASED = ngd.networks.mlp(M0, [WIDTH, WIDTH], 1, "tanh", bias_std=0.3)
TWO = ngd.networks.mlp(M0, [512, 512], 2)


def gaussian(n=N, dim=M0):
    return np.random.default_rng(0).normal(size=(n, dim))


def zeroed(layer, rows=slice(None), columns=slice(None)):
    """Parameters with zeros in a part of one layer's weight."""

    def change(params):
        params = [dict(p) for p in params]
        params[layer]["weight"] = params[layer]["weight"].at[rows, columns].set(0.0)
        return tuple(params)

    return change


def dead(params):
    """No unit of layer 2 is active at the first sample."""
    params = [dict(p) for p in params]
    h = jnp.maximum(gaussian()[:1] @ params[0]["weight"], 0)
    u = h @ params[1]["weight"]
    shift = h.T @ (jnp.abs(u) + u) / jnp.sum(h**2)
    params[1]["weight"] = params[1]["weight"] - 1.5 * shift
    return tuple(params)


def equal_outputs(params):
    """Both outputs are the same function."""
    last = params[-1]["weight"]
    return (*params[:-1], {"weight": last.at[:, 1].set(last[:, 0])})


def kept(params):
    return params


def with_row(x, row, value):
    x[row] = value
    return x


def opposite(n=N):
    x = gaussian(n)
    x[n // 2 :] = -x[: n // 2]
    return x


ONE_DIRECTION = np.outer([1.0, -2.0, 0.5, 3.0], gaussian()[0])

#: Network, change of the parameters, inputs.
CASES = {
    "general": (NETWORK, kept, gaussian()),
    "general, biases": (BIASED, kept, gaussian()),
    "general, two outputs": (TWO, kept, gaussian()),
    "zero first weights": (NETWORK, zeroed(0), gaussian()),
    "zero middle weights": (NETWORK, zeroed(1), gaussian()),
    "zero last weights": (NETWORK, zeroed(2), gaussian()),
    "zero first weights, biases": (BIASED, zeroed(0), gaussian()),
    "zero last weights, biases": (BIASED, zeroed(2), gaussian()),
    "most last weights zero": (NETWORK, zeroed(2, slice(2, None)), gaussian()),
    "half of a layer dead": (NETWORK, zeroed(1, columns=slice(64)), gaussian()),
    "dead at one sample": (NETWORK, dead, gaussian()),
    "an output is zero": (TWO, zeroed(2, columns=slice(1)), gaussian()),
    "equal outputs": (TWO, equal_outputs, gaussian()),
    "zero inputs": (NETWORK, kept, np.zeros((N, M0))),
    "zero inputs, biases": (BIASED, kept, np.zeros((N, M0))),
    "one zero input": (NETWORK, kept, with_row(gaussian(), 0, 0.0)),
    "one zero input, biases": (BIASED, kept, with_row(gaussian(), 0, 0.0)),
    "constant features": (NETWORK, kept, np.ones((N, M0))),
    "multiples of one input": (NETWORK, kept, ONE_DIRECTION),
    "opposite inputs": (NETWORK, kept, opposite()),
    "opposite inputs, odd network": (
        ngd.networks.mlp(M0, [WIDTH, WIDTH], 1, "tanh"),
        kept,
        opposite(),
    ),
    "duplicates": (NETWORK, kept, gaussian()[[0, 1, 2, 0]]),
    "two features": (NETWORK, kept, np.pad(gaussian(dim=2), ((0, 0), (0, M0 - 2)))),
    "huge": (NETWORK, kept, 1e180 * gaussian()),
    "tiny": (NETWORK, kept, 1e-180 * gaussian()),
    "more samples than inputs": (NETWORK, kept, gaussian(9)),
    "one sample": (NETWORK, kept, gaussian(1)),
    "one zero sample": (NETWORK, kept, np.zeros((1, M0))),
    "one unit": (ngd.networks.mlp(M0, [1, 1], 1), kept, gaussian()),
    "no hidden layer": (ngd.networks.mlp(M0, [], 1), kept, gaussian()),
    "no hidden layer, zero inputs": (ngd.networks.mlp(M0, [], 1), kept, np.zeros((N, M0))),
    "linear": (ngd.networks.mlp(M0, [32], 1, "identity"), kept, gaussian()),
    "linear, zero last weights": (
        ngd.networks.mlp(M0, [32], 1, "identity"),
        zeroed(1),
        gaussian(),
    ),
    "convolution": (ngd.networks.cnn((4, 4, 1), [40], 1), kept, gaussian(2, 16)),
    "convolution, zero last weights": (
        ngd.networks.cnn((4, 4, 1), [40], 1),
        zeroed(1),
        gaussian(2, 16),
    ),
}
APPROXIMATIONS = (
    "exact",
    "block-diagonal",
    "block-tridiagonal",
    "kfac",
    "kfac-tridiagonal",
    "unit-wise",
)
#: Relative; unit-wise alpha is a sum over random units.
ALPHA = {"unit-wise": 0.2}
DISPERSION = {"unit-wise": 0.3}


@pytest.mark.parametrize("case", CASES)
def test_a_constant_is_as_predicted_or_a_condition_says_why_not(case):
    net, change, x = CASES[case]
    params = change(net.init(jax.random.key(1)))
    lin = linearize(net, params, jnp.asarray(x.reshape(-1, *net.input_shape)))
    outputs = lin.outputs.size
    for name in APPROXIMATIONS:
        approximation = ngd.fisher.by_name(name)
        if name == "kfac-tridiagonal" and net.layer_sizes[0].positions > 1:
            continue
        conditions = ngd.theory.check_conditions(approximation, net, lin)
        broken = [c for c in conditions if c.blocking and not c.holds]
        assert all(c.why for c in conditions)
        assert not any(c.holds for c in conditions if np.isnan(c.measured))
        predicted = ngd.theory.isotropy_constant(approximation, net, lin.num_samples)
        if broken:
            continue
        assert predicted is not None, name
        k = np.asarray(approximation.function_space_map(lin, 0.0))
        alpha = np.trace(k) / outputs
        assert abs(alpha - predicted) <= ALPHA.get(name, 1e-3) * predicted, (name, alpha, predicted)
        deviation = np.linalg.norm(k - alpha * np.eye(outputs)) / (alpha * np.sqrt(outputs))
        assert deviation <= DISPERSION.get(name, 1e-3), (name, deviation)


@pytest.mark.parametrize("case", ["general", "general, biases", "general, two outputs"])
def test_no_condition_fails_in_general_position(case):
    net, change, x = CASES[case]
    lin = linearize(net, change(net.init(jax.random.key(1))), jnp.asarray(x))
    for name in APPROXIMATIONS:
        for c in ngd.theory.check_conditions(ngd.fisher.by_name(name), net, lin):
            assert c.holds, c


@pytest.mark.parametrize("case", sorted(set(CASES) - {"huge"}))
@pytest.mark.parametrize("damping", [0.0, 1e-6])
def test_bounds_on_what_damping_does_are_numbers(case, damping):
    net, change, x = CASES[case]
    lin = linearize(
        net, change(net.init(jax.random.key(1))), jnp.asarray(x.reshape(-1, *net.input_shape))
    )
    for name in APPROXIMATIONS:
        if name == "kfac-tridiagonal" and net.layer_sizes[0].positions > 1:
            continue
        bias = ngd.fisher.by_name(name).damping_bias(lin, damping)
        assert bias is None or bias >= 0, name


@pytest.mark.parametrize("case", CASES)
def test_damped_conditions_are_read_of_any_linearisation(case):
    net, change, x = CASES[case]
    params = change(net.init(jax.random.key(1)))
    lin = linearize(net, params, jnp.asarray(x.reshape(-1, *net.input_shape)))
    conditions = ngd.theory.check_conditions(ngd.fisher.BlockTridiagonal(), net, lin, 1e-6)
    assert not any(c.holds for c in conditions if np.isnan(c.measured))
    undamped = ngd.theory.check_conditions(ngd.fisher.BlockTridiagonal(), net, lin)
    assert {c.name for c in undamped} < {c.name for c in conditions}
