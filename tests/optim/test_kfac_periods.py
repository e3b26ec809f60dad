"""K-FAC's seldom statistics, its least damping, its clipped step, and its steps on convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import relative_error

from ngd_theory import losses, networks, optim
from ngd_theory.errors import InputError
from ngd_theory.fisher.kronecker import kronecker_fisher
from ngd_theory.networks import backpropagate, cnn, scaled_init, standard_parameterization
from ngd_theory.optim.problems import problem

SMALL = networks.mlp(3, [], 2, bias_std=0.5)
CONVOLUTIONS = standard_parameterization(
    cnn((6, 6, 1), [3, 4], 3, 3, activation="tanh", bias_std=1.0, pool=[2, 1])
)


def data(network, classes, seed=0, count=12):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(count, *network.input_shape)))
    return x, jax.nn.one_hot(jnp.arange(count) % classes, classes)


def run(network, loss, steps, **options):
    """States before and after every step, with the parameters before it."""
    x, y = data(network, network.output_dim)
    params = scaled_init(network, jax.random.key(0))
    optimizer = optim.kfac(network, loss, **options)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(lambda p: loss.value(network.apply(p, x), y))(params)
        updates, state = optimizer.update(grads, state, params, x=x, y=y)
        return optax.apply_updates(params, updates), state, value, grads

    states, values, found = [optimizer.init(params)], [], []
    for _ in range(steps):
        found.append(params)
        params, state, value, grads = step(params, states[-1])
        states.append(state)
        values.append(float(value))
    return states, values, found, grads


def test_statistics_are_taken_at_the_first_three_steps_and_their_period():
    states, _, params, _ = run(SMALL, losses.MSE, 9, statistics_period=4, damping=1.0)
    factors = [np.asarray(s.factors.sensitivities[0][0]) for s in states]
    changed = [k for k in range(1, 10) if not np.array_equal(factors[k], factors[k - 1])]
    assert changed == [1, 2, 3, 4, 8]
    # Each is an equal part of the average while they are young: the fifth has a fifth.
    x, _ = data(SMALL, 2)
    key = jax.random.split(jax.random.wrap_key_data(states[7].key))[1]
    keys = jax.random.split(key, 1)

    def score(outputs):
        return jax.vmap(losses.MSE.sample_score, (0, None), 1)(keys, outputs)

    fresh = kronecker_fisher(backpropagate(SMALL, params[7], x, score)[1], 0).sensitivities[0][0]
    assert relative_error(factors[8], 0.8 * factors[7] + 0.2 * np.asarray(fresh)) < 1e-12


@pytest.mark.parametrize("options", [{}, {"factor_damping_period": 2}], ids=["refresh", "search"])
def test_factors_that_cannot_be_factorised_leave_the_last_inverse_and_are_counted(options):
    x, y = data(SMALL, 2)
    optimizer = optim.kfac(SMALL, losses.MSE, damping=1.0, decay=0.99, **options)
    params = scaled_init(SMALL, jax.random.key(0))
    grads = jax.grad(lambda p: losses.MSE.value(SMALL.apply(p, x), y))(params)
    update = jax.jit(lambda state: optimizer.update(grads, state, params, x=x, y=y))
    _, before = update(optimizer.init(params))
    broken = jax.tree.map(lambda f: f - 1e6 * jnp.eye(len(f)), before.factors)
    updates, after = update(before._replace(factors=broken))
    assert int(before.stale) == 0 and int(after.stale) == 1 and int(after.skipped) == 0
    jax.tree.map(np.testing.assert_array_equal, after.inverse, before.inverse)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(updates))


def test_lambda_does_not_fall_below_its_least():
    options = {"damping": 1.0, "damping_period": 1}
    free, _, _, _ = run(SMALL, losses.MSE, 6, **options)
    kept, _, _, _ = run(SMALL, losses.MSE, 6, min_damping=0.9, **options)
    assert float(free[-1].damping) < 0.9
    assert float(kept[-1].damping) == pytest.approx(0.9)


def test_a_fixed_step_is_shortened_to_its_largest_change():
    options = {"damping": 1.0, "step_size": 0.5, "momentum": 0.0, "adapt_damping": False}
    (_, free), _, _, grads = run(SMALL, losses.MSE, 1, **options)
    # The update is -0.5 d: alpha^2 |d . grad| is half of its product with the gradient.
    change = -0.5 * float(
        sum(
            jnp.vdot(u, g)
            for u, g in zip(*map(jax.tree.leaves, (free.previous, grads)), strict=True)
        )
    )
    for bound in (4 * change, change / 4):
        (_, after), _, _, _ = run(SMALL, losses.MSE, 1, largest_change=bound, **options)
        expected = 0.5 * min(1.0, (bound / change) ** 0.5)
        assert float(after.step_size) == pytest.approx(expected, rel=1e-10)


def test_convolutions_train_and_have_kfcs_statistics():
    states, values, params, _ = run(CONVOLUTIONS, losses.CROSS_ENTROPY, 15, damping=0.1)
    assert values[-1] < 0.2 * values[0]
    assert int(states[-1].skipped) == 0
    # The first statistics: A sums over samples and positions, B is a mean over both.
    x, _ = data(CONVOLUTIONS, 3)
    keys = jax.random.split(jax.random.split(jax.random.wrap_key_data(states[0].key))[1], 1)

    def score(outputs):
        return jax.vmap(losses.CROSS_ENTROPY.sample_score, (0, None), 1)(keys, outputs)

    _, layers = backpropagate(CONVOLUTIONS, params[0], x, score)
    for index, layer in enumerate(layers):
        n, _, t, _ = layer.sensitivities.shape
        a, delta = np.asarray(layer.inputs), np.asarray(layer.sensitivities)
        expected = (
            np.einsum("ntp,ntq->pq", a, a) / n,
            np.einsum("nktm,nktl->ml", delta, delta) / (n * t),
        )
        for found, wanted in zip(states[1].factors.block(index, index), expected, strict=True):
            assert relative_error(found, wanted) < 1e-12


def test_the_tridiagonal_inverse_refuses_convolutions():
    with pytest.raises(InputError, match="convolution"):
        run(CONVOLUTIONS, losses.CROSS_ENTROPY, 1, structure="block-tridiagonal")


def test_the_standard_parameterisation_has_no_factors():
    assert [b.affine.scale for b in CONVOLUTIONS.blocks] == pytest.approx([1, 1, 1])
    params = scaled_init(CONVOLUTIONS, jax.random.key(0), gain=2.0)
    wide = standard_parameterization(networks.mlp(400, [300], 1, bias_std=1.0))
    drawn = scaled_init(wide, jax.random.key(0), gain=2.0)
    assert float(jnp.std(drawn[0]["weight"])) == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    assert not any(np.any(layer["bias"]) for layer in (*params, *drawn))
    with pytest.raises(InputError, match="gain is 0"):
        scaled_init(wide, jax.random.key(0), gain=0.0)


@pytest.mark.parametrize(
    "name", ["mnist-cnn"]
)  # the autoencoders are those of the training studies' tests
def test_problems_have_rows_that_fit_their_networks(name):
    chosen = problem(name)
    x, y = chosen.load(20, None)
    params = chosen.init(chosen.network, jax.random.key(0), None, "float32")
    outputs = chosen.network.apply(params, jnp.asarray(x[:5], "float32"))
    assert outputs.shape == y[:5].shape
    assert np.isfinite(chosen.error(outputs, jnp.asarray(y[:5], "float32")))


def test_an_unknown_problem_is_refused():
    with pytest.raises(InputError, match="mnist-cnn"):
        problem("mnist-conv")
