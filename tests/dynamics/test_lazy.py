"""The lazy family: the rescaled network of Chizat, Oyallon & Bach, and orders that a wrong map does not have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory.dynamics import lazy_targets, predict_from_maps, train
from ngd_theory.errors import InputError

N, STEPS = 8, 3
FAR, NEAR = 1e-2, 1e-4


@pytest.fixture(scope="module")
def problem():
    """A smooth network that is narrow for its samples."""
    net = ngd.networks.mlp(12, [32, 32], 1, "tanh", bias_std=0.3)
    keys = jax.random.split(jax.random.key(0), 3)
    x, y = jax.random.normal(keys[1], (N, 12)), jax.random.normal(keys[2], (N, 1))
    params = net.init(keys[0])
    return net, params, x, y, ngd.networks.linearize(net, params, x)


def test_it_is_training_of_the_rescaled_network(problem):
    """``f_0 + (f(theta_0 + epsilon (phi - theta_0)) - f_0)/epsilon`` towards y, by jax.grad."""
    net, params, x, y, lin = problem
    share, eta = 0.1, 0.3

    def moved(phi):
        return jax.tree.map(lambda a, b: a + share * (b - a), params, phi)

    def rescaled(phi):
        return lin.outputs + (net.apply(moved(phi), x) - lin.outputs) / share

    def loss(phi):
        return jnp.sum((rescaled(phi) - y) ** 2) / (2 * N)

    phi, expected = params, []
    for _ in range(STEPS):
        expected.append(rescaled(phi))
        phi = jax.tree.map(lambda p, g: p - eta * g, phi, jax.grad(loss)(phi))
    expected.append(rescaled(phi))
    found = train(net, params, x, y, ngd.fisher.Identity(), eta, STEPS, 0.0, laziness=share).outputs
    again = lin.outputs + (found - lin.outputs) / share
    np.testing.assert_allclose(again, np.stack(expected), rtol=1e-9, atol=1e-11)


def gaps(problem, name, wrong=1.0):
    """Relative gaps at two distances to a prediction by ``wrong`` times the map."""
    net, params, x, y, lin = problem
    approximation = ngd.fisher.by_name(name)
    k = approximation.function_space_map(lin, 1e-6)
    eta = float(0.5 / np.linalg.eigvalsh(np.asarray((k + k.T) / 2))[-1])
    predicted = predict_from_maps(wrong * k, lin.outputs, y, eta, STEPS).outputs
    found = []
    for share in (FAR, NEAR):
        run = train(net, params, x, y, approximation, eta, STEPS, 1e-6, laziness=share)
        off = run.outputs - lazy_targets(lin.outputs, predicted, share)
        found.append(float(jnp.linalg.norm(off) / share))
    return found


@pytest.mark.parametrize("name", ["identity", "exact", "block-tridiagonal", "kfac"])
def test_the_gap_is_of_first_order_and_that_of_a_wrong_map_of_none(problem, name):
    far, near = gaps(problem, name)
    assert np.log(far / near) / np.log(FAR / NEAR) == pytest.approx(1, abs=0.02)
    far, near = gaps(problem, name, wrong=1.01)
    assert abs(np.log(far / near) / np.log(FAR / NEAR)) < 0.3
    assert near > 20 * gaps(problem, name)[1]


@pytest.mark.parametrize("laziness", [0.0, -0.5, 1.5, np.nan, np.inf])
def test_a_laziness_that_is_no_share_is_refused(problem, laziness):
    net, params, x, y, _ = problem
    with pytest.raises(InputError, match="above 0 and at most 1"):
        train(net, params, x, y, ngd.fisher.Exact(), 0.5, 1, 0.0, laziness=laziness)


def test_another_loss_has_no_lazy_targets():
    net = ngd.networks.mlp(3, [4], 2)
    params, x = net.init(jax.random.key(0)), jnp.ones((2, 3))
    y, exact = jnp.eye(2), ngd.fisher.Exact()
    with pytest.raises(InputError, match="mse only"):
        train(net, params, x, y, exact, 0.5, 1, 0.1, loss="cross-entropy", laziness=0.5)
