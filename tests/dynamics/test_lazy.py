"""The lazy family: the rescaled network of Chizat, Oyallon & Bach, and orders that a wrong map does not have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory.dynamics import predict, predict_from_maps, train
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
    x_test = 0.5 * x[:3]
    how = (ngd.fisher.Identity(), eta, STEPS, 0.0, x_test)
    found = train(net, params, x, y, *how, laziness=share)
    np.testing.assert_allclose(found.outputs, np.stack(expected), rtol=1e-9, atol=1e-11)
    last = [*jax.tree.leaves(moved(phi))]
    for ours, theirs in zip(jax.tree.leaves(found.params), last, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    way = sum(
        jnp.sum((a - b) ** 2) for a, b in zip(*map(jax.tree.leaves, (phi, params)), strict=True)
    )
    assert float(found.parameter_distances[-1]) == pytest.approx(float(way) ** 0.5, rel=1e-9)
    np.testing.assert_allclose(found.losses[0], loss(params))
    np.testing.assert_allclose(found.losses[-1], loss(phi), rtol=1e-9)
    f_test = net.apply(params, x_test)
    expected = f_test + (net.apply(moved(phi), x_test) - f_test) / share
    np.testing.assert_allclose(found.test_outputs[-1], expected, rtol=1e-9)


def test_at_one_it_is_training_itself_to_the_last_digit(problem):
    net, params, x, y, _ = problem
    how = (ngd.fisher.Exact(), 0.5, STEPS, 1e-3, x[:2])
    plain, one = train(net, params, x, y, *how), train(net, params, x, y, *how, laziness=1)
    for ours, theirs in zip(jax.tree.leaves(plain), jax.tree.leaves(one), strict=True):
        np.testing.assert_array_equal(ours, theirs)


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
        found.append(float(jnp.linalg.norm(run.outputs - predicted)))
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


@pytest.fixture(scope="module")
def classes():
    """Three classes of a narrow smooth network."""
    net = ngd.networks.mlp(12, [32, 32], 3, "tanh")
    params, x = net.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (N, 12))
    return net, params, x, jnp.eye(3)[jnp.arange(N) % 3], ngd.networks.linearize(net, params, x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["identity", "exact", "block-diagonal"])
def test_under_cross_entropy_the_gap_to_the_recursion_is_of_first_order_too(classes, name):
    net, params, x, y, lin = classes
    kind = {} if name == "identity" else {"kind": ngd.fisher.TrueFisher("cross-entropy")}
    approximation = ngd.fisher.by_name(name, **kind)
    how = (0.3, STEPS, 1e-2)
    predicted = predict(approximation, lin, y, *how, loss="cross-entropy").outputs
    gaps = []
    for share in (FAR, NEAR):
        run = train(net, params, x, y, approximation, *how, loss="cross-entropy", laziness=share)
        gaps.append(float(jnp.linalg.norm(run.outputs - predicted)))
    assert np.log(gaps[0] / gaps[1]) / np.log(FAR / NEAR) == pytest.approx(1, abs=0.02)


def test_exact_gauss_newton_follows_the_loss_gradient_in_function_space(classes):
    """As rho -> 0 the step of the outputs is ``-eta pinv(Lambda) (p - y)``, whatever the NTK ("error whitening")."""
    _, _, _, y, lin = classes
    exact = ngd.fisher.Exact(kind=ngd.fisher.TrueFisher("cross-entropy"))
    found = predict(exact, lin, y, 0.3, 1, 1e-9, loss="cross-entropy").outputs
    p = np.asarray(jax.nn.softmax(lin.outputs))
    for n in range(N):
        whitened = np.linalg.pinv(np.diag(p[n]) - np.outer(p[n], p[n])) @ (p[n] - np.asarray(y[n]))
        step = np.asarray(found[1, n] - found[0, n])
        # What softmax does not see is no part of the statement.
        seen = step - step.mean()
        np.testing.assert_allclose(seen, -0.3 * whitened, rtol=1e-4)
