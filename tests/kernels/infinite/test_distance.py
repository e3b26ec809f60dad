"""Every layer's kernel approaches its limit as M^(-1/2)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory.kernels import infinite
from ngd_theory.sweeps import power_law

X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 10)))


def linearization(net, seed):
    return ngd.networks.linearize(net, net.init(jax.random.key(seed)), X)


def test_a_linear_model_is_its_own_limit():
    net = ngd.networks.mlp(10, [], 2, weight_std=1.3, bias_std=0.4)
    assert infinite.layerwise_distance(net, linearization(net, 0), X) < 1e-14


def test_the_distance_is_that_of_the_jacobians_of_every_output():
    net = ngd.networks.mlp(10, [32, 32], 2, "tanh", bias_std=0.3)
    params = net.init(jax.random.key(1))
    found = infinite.layerwise_distance(net, ngd.networks.linearize(net, params, X), X)
    limit = infinite.layerwise_ntk(net, X)
    jacobians = jax.jacobian(lambda p: net.apply(p, X).ravel())(params)
    for index, (layer, theta) in enumerate(zip(jacobians, limit, strict=True)):
        rows = np.concatenate([np.asarray(j).reshape(12, -1) for j in layer.values()], axis=1)
        expected = np.kron(theta, np.eye(2))
        distance = np.linalg.norm(rows @ rows.T - expected) / np.linalg.norm(expected)
        assert found[index] == pytest.approx(distance, rel=1e-8)


@pytest.mark.slow
def test_every_layer_approaches_its_limit_at_least_as_the_power_of_minus_four_tenths():
    widths, seeds = (64, 256, 1024), range(16)
    nets = {m: ngd.networks.mlp(10, [m, m], 1) for m in widths}
    measure = {
        m: jax.jit(lambda lin, net=net: infinite.layerwise_distance(net, lin, X))
        for m, net in nets.items()
    }
    points = [(m, s, measure[m](linearization(nets[m], s))) for m in widths for s in seeds]
    x, seed, distances = zip(*points, strict=True)
    for layer in range(3):
        exponent = power_law(x, [d[layer] for d in distances], seed)
        assert exponent.high <= -0.4, (layer, exponent)
        assert exponent.value >= -0.65, (layer, exponent)


def test_the_distance_does_not_depend_on_the_scale_of_kernels_whose_squares_underflow():
    net = ngd.networks.mlp(10, [16], 1, "relu", bias_std=0.0)
    params = net.init(jax.random.key(0), "float32")
    found = []
    for scale in (1.0, 1e-14):
        x = jnp.asarray(X * scale, "float32")
        found.append(infinite.layerwise_distance(net, ngd.networks.linearize(net, params, x), x))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
