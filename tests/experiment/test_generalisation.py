"""Converged risk of a network from its Jacobian, in parameter space; and why none has less."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from ngd_theory.experiment import Experiment, Settings, load_data, measure
from ngd_theory.experiment.columns import COLUMNS
from ngd_theory.experiment.generalisation import Population

N, UNLABELLED, FRESH, DAMPING = 5, 40, 40, 1e-6
SETTINGS = Settings(
    dataset="gaussian",
    approximations=("identity", "exact"),
    num_train=N,
    num_test=UNLABELLED + FRESH,
    input_dim=4,
    width=6,
    depth=2,
    activation="tanh",
    damping=DAMPING,
)


def jacobian_of(experiment):
    """(N + N', P), by autodiff alone."""
    flat, unflatten = jax.flatten_util.ravel_pytree(experiment.params)
    x = jnp.concatenate([experiment.x, experiment.x_test])
    found = jax.jacrev(lambda p: experiment.network.apply(unflatten(p), x)[:, 0])(flat)
    return np.asarray(found)


@pytest.fixture(scope="module")
def experiment():
    return Experiment.begin(SETTINGS, load_data(SETTINGS))


@pytest.fixture(scope="module")
def jacobians(experiment):
    j = jacobian_of(experiment)
    # More pool than parameters, more parameters than labels.
    assert N < j.shape[1] == 30 < N + UNLABELLED
    return np.split(j, [N, N + UNLABELLED])


def converged(train, at, metric):
    """Outputs at other inputs by labels: the theta of least ``theta^T metric theta`` that fits them."""
    bent = np.linalg.solve(metric, train.T)
    return at @ bent @ np.linalg.inv(train @ bent)


def parts(train, at, weights, covariance):
    """Variance over labels and bias over targets of parameters with this covariance."""
    missed = at - weights @ train
    return np.sum(weights**2) / len(at), np.trace(missed @ covariance @ missed.T) / len(at)


def pool_fisher(jacobians):
    pool = np.concatenate(jacobians[:2])
    return pool.T @ pool / len(pool) + DAMPING * np.eye(pool.shape[1])


def test_the_parts_are_those_of_least_norm_solutions_in_parameter_space(experiment, jacobians):
    train, unlabelled, fresh = jacobians
    fisher, identity = pool_fisher(jacobians), np.eye(train.shape[1])
    found = measure(experiment, "exact", ["generalisation"]).generalisation
    assert found is not None
    size = N + UNLABELLED
    for part, at, metric in (
        (found.own, unlabelled, identity),
        (found.descent, unlabelled, identity),
        (found.population, unlabelled, fisher),
        (found.fresh, fresh, fisher),
        (found.fresh_descent, fresh, identity),
    ):
        weights = converged(train, at, metric)
        variance, aligned = parts(train, at, weights, identity)
        _, misaligned = parts(train, at, weights, np.linalg.inv(fisher) / size)
        # K of the training set at a small damping is alpha I to rho/lambda only.
        np.testing.assert_allclose([part.variance, part.aligned], [variance, aligned], rtol=1e-6)
        assert part.fit == pytest.approx(1, rel=1e-9)
        if part.misaligned is None:
            assert at is fresh
        else:
            assert part.misaligned == pytest.approx(misaligned, rel=1e-5)


def test_no_way_to_fit_the_labels_has_less_variance_at_the_pool_than_its_fisher(jacobians):
    """And none less bias of targets that come from a prior than the preconditioner that is its covariance."""
    train, unlabelled, _ = jacobians
    pool, fisher, identity = np.concatenate([train, unlabelled]), pool_fisher(jacobians), np.eye(30)
    bare = fisher - DAMPING * identity
    inverse = np.linalg.inv(fisher)
    rng = np.random.default_rng(0)

    def inverse_of(metric):
        bent = np.linalg.solve(metric, train.T)
        return bent @ np.linalg.inv(train @ bent)

    # B takes labels to parameters and fits them: train B = I. Others differ by what the training inputs do not see.
    unseen = identity - np.linalg.pinv(train) @ train
    for metric, covariance, part in (
        (bare, identity, 0),
        (identity, identity, 1),
        (fisher, inverse, 1),
    ):
        best = inverse_of(metric)
        least = parts(train, pool, pool @ best, covariance)[part]
        for size in (1e-3, 0.1, 1.0):
            other = best + size * unseen @ rng.normal(size=best.shape)
            np.testing.assert_allclose(train @ other, np.eye(N), atol=1e-9)
            assert parts(train, pool, pool @ other, covariance)[part] > least
    # Each is the least of its own part alone.
    descent, natural = (
        parts(train, pool, pool @ inverse_of(m), identity) for m in (identity, bare)
    )
    assert natural[0] < 0.9 * descent[0]
    assert descent[1] < 0.9 * natural[1]


def test_columns_are_ratios_to_gradient_descent_and_to_the_best_rival(experiment):
    evidence = {
        n: measure(experiment, n, ["generalisation"]) for n in ("identity", "exact", "kfac")
    }

    def column(name, approximation):
        return COLUMNS[name].value(evidence[approximation], evidence)

    of = {name: e.generalisation for name, e in evidence.items()}
    for name in COLUMNS:
        if name.endswith("over_descent"):
            assert column(name, "identity") == pytest.approx(1, rel=1e-9)
    expected = of["kfac"].population.variance / of["identity"].population.variance
    assert column("population_variance_over_descent", "kfac") == pytest.approx(expected)
    expected = of["kfac"].fresh.aligned / of["identity"].fresh.aligned
    assert column("fresh_bias_over_descent", "kfac") == pytest.approx(expected)
    least = min(of[name].population.variance for name in ("identity", "kfac"))
    expected = of["exact"].population.variance / least
    assert column("population_variance_over_rivals", "exact") == pytest.approx(expected)
    assert expected < 1 < column("population_variance_over_rivals", "kfac")
    alone = {"exact": evidence["exact"]}
    assert COLUMNS["population_variance_over_rivals"].value(evidence["exact"], alone) is None


def test_the_pool_is_the_training_inputs_then_the_first_half_of_the_test_inputs(experiment):
    found = experiment.population
    assert isinstance(found, Population)
    assert [lin.num_samples for lin in (found.pool, found.unlabelled, found.fresh)] == [45, 40, 40]
    np.testing.assert_allclose(found.pool.outputs[:N], experiment.lin.outputs, rtol=1e-12)
    tests = jnp.concatenate([found.unlabelled.outputs, found.fresh.outputs])
    np.testing.assert_allclose(tests, experiment.at.outputs, rtol=1e-12)


def test_the_training_sets_own_fisher_comes_to_gradient_descent_and_others_do_not(experiment):
    own = {n: measure(experiment, n, ["generalisation"]) for n in ("exact", "block-diagonal")}
    exact, other = (COLUMNS["bias_over_descent"].value(e, own) for e in own.values())
    assert exact == pytest.approx(1, rel=1e-6)
    assert other > 1.001
