"""Bias, variance and spread are those of the recursion, taken column by column of the labels, and of drawn noise."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import APPROXIMATIONS, BY_NAME, problem, relative_error

import ngd_theory as ngd
from ngd_theory.dynamics import (
    ensemble,
    ensemble_risk,
    predictor,
    prior_risk,
    risk,
    risk_from_maps,
)
from ngd_theory.errors import InputError, NotPredictedError
from ngd_theory.kernels import infinite

CASE = BY_NAME["L2 C3 tanh bias"]
SIGMA, TIMES = 0.3, (0, 1, 2, 7, 40)


def maps(name, damping, p):
    """K and Q of the package; tests/fisher/ compares them with the dense ones."""
    approximation = ngd.fisher.by_name(name)
    found = (approximation.function_space_map(p.lin, damping, at) for at in (p.lin, p.at))
    return [np.asarray(a_map) for a_map in found]


def trained(k, q, f, f_test, y, step_size, num_steps):
    """Outputs on both sets after every step of ``f <- f - eta K (f - y)``, one column a run."""
    path = [(f, f_test)]
    for _ in range(num_steps):
        f, f_test = f - step_size * k @ (f - y), f_test - step_size * q @ (f - y)
        path.append((f, f_test))
    return path


def dense_parts(k, q, f, f_test, y, y_test, sigma, step_size, times):
    """Bias and variance from one run of clean labels, and one more a label that is moved by 1."""
    f, f_test, y, y_test = (np.asarray(a, float).reshape(-1, 1) for a in (f, f_test, y, y_test))
    moved = np.concatenate([y, y + np.eye(len(y))], axis=1)
    start = [np.repeat(a, moved.shape[1], axis=1) for a in (f, f_test)]
    path = trained(k, q, *start, moved, step_size, max(times))
    parts = []
    for t in times:
        for outputs, clean in zip(path[t], (y, y_test), strict=True):
            error, weights = outputs[:, 0] - clean[:, 0], outputs[:, 1:] - outputs[:, :1]
            parts += [np.mean(error**2), sigma**2 * np.sum(weights**2) / len(clean)]
    return np.asarray(parts).reshape(-1, 4).T


def parts_of(found):
    return [found.bias, found.variance, found.test_bias, found.test_variance]


def test_targets(p):
    return np.random.default_rng(5).normal(size=p.at.outputs.shape)


test_targets.__test__ = False


# eta times the largest eigenvalue of K: contracting, sign-flipping, diverging.
@pytest.mark.parametrize("rate", [0.5, 1.7, 2.1])
@pytest.mark.parametrize("damping", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_risk_is_that_of_the_map_from_labels_to_outputs_built_column_by_column(name, damping, rate):
    p = problem(CASE)
    k, q = maps(name, damping, p)
    step_size = rate / np.abs(np.linalg.eigvalsh((k + k.T) / 2)).max()
    clean = test_targets(p)
    found = risk(
        *(ngd.fisher.by_name(name), p.lin, p.targets, SIGMA, step_size, TIMES, damping),
        *(p.at, jnp.asarray(clean)),
    )
    given = p.lin.outputs, p.at.outputs, p.targets, clean
    wanted = dense_parts(k, q, *given, SIGMA, step_size, TIMES)
    for part, expected in zip(parts_of(found), wanted, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-8, atol=1e-12 * np.max(expected))
    np.testing.assert_array_equal(found.spread, 0)
    np.testing.assert_allclose(found.total, found.bias + found.variance)
    np.testing.assert_allclose(found.test_total, found.test_bias + found.test_variance)


@pytest.mark.parametrize("split", ["train", "test"])
def test_risk_is_the_mean_squared_error_over_drawn_noise(split):
    p, draws, t = problem(CASE), 4000, 7
    k, q = maps("kfac", 1e-2, p)
    step_size, clean = 0.9 / np.linalg.eigvalsh(k).max(), test_targets(p)
    found = risk_from_maps(
        *(jnp.asarray(k), p.lin.outputs, p.targets, SIGMA, step_size, [t]),
        *(jnp.asarray(q), p.at.outputs, jnp.asarray(clean)),
    )
    f, f_test, y = (np.asarray(a).reshape(-1, 1) for a in (p.lin.outputs, p.at.outputs, p.targets))
    noisy = y + SIGMA * np.random.default_rng(1).normal(size=(len(y), draws))
    ends = trained(k, q, np.repeat(f, draws, 1), np.repeat(f_test, draws, 1), noisy, step_size, t)
    truth = {"train": y, "test": clean.reshape(-1, 1)}[split]
    errors = np.mean((ends[t][split == "test"] - truth) ** 2, axis=0)
    total = {"train": found.total, "test": found.test_total}[split]
    standard_error = errors.std() / draws**0.5
    assert abs(errors.mean() - float(total[0])) < 4 * standard_error
    # Known-wrong variants: half the square, sigma in place of its square, and the bias alone.
    bias, variance = (float(part[0]) for part in parts_of(found)[2 * (split == "test") :][:2])
    for wrong in (float(total[0]) / 2, bias + variance / SIGMA, bias):
        assert abs(errors.mean() - wrong) > 10 * standard_error


def test_a_variance_of_t_first_steps_is_caught():
    p, t = problem(CASE), 7
    k, q = maps("exact", 0.3, p)
    found = risk_from_maps(
        *(jnp.asarray(k), p.lin.outputs, p.targets, 1.0, 0.5, [1, t]),
        *(jnp.asarray(q), p.at.outputs, jnp.asarray(test_targets(p))),
    )
    naive = np.asarray([1, t]) ** 2 * 0.25 * np.sum(q**2) / len(q)
    assert relative_error(found.test_variance[:1], naive[:1]) < 1e-10
    assert relative_error(found.test_variance[1:], naive[1:]) > 0.05


@pytest.mark.parametrize("damping", [0.0, 1e-2])
@pytest.mark.parametrize("name", ["identity", "exact", "kfac", "entry-wise"])
@pytest.mark.parametrize("case", ["L2 C3 tanh bias", "L1 C1 bias, N>M0"])
def test_infinity_is_where_many_steps_come_to(case, name, damping):
    """The second case has fewer parameters than outputs: K has zero eigenvalues and labels are not fitted."""
    p = problem(BY_NAME[case])
    k, q = maps(name, damping, p)
    eigenvalues = np.linalg.eigvalsh((k + k.T) / 2)
    step_size, clean = 1 / eigenvalues.max(), test_targets(p)
    found = risk(
        *(ngd.fisher.by_name(name), p.lin, p.targets, SIGMA, step_size, [math.inf, 0], damping),
        *(p.at, jnp.asarray(clean)),
    )
    assert list(found.times) == [math.inf, 0]
    # The minimum by least squares; the residual that no step reaches stays.
    pinv = np.linalg.pinv(k, rcond=1e-10)
    weights = q @ pinv
    start = np.asarray(p.residual).ravel()
    error = (np.asarray(p.at.outputs) - clean).ravel() - weights @ start
    left = start - k @ pinv @ start
    wanted = [
        np.mean(left**2),
        SIGMA**2 * np.sum((k @ pinv) ** 2) / len(k),
        np.mean(error**2),
        SIGMA**2 * np.sum(weights**2) / len(q),
    ]
    for part, expected in zip(parts_of(found), wanted, strict=True):
        np.testing.assert_allclose(part[0], expected, rtol=1e-6, atol=1e-12)
    rank = np.sum(eigenvalues > 1e-10 * eigenvalues.max())
    np.testing.assert_allclose(found.variance[0], SIGMA**2 * rank / len(k), rtol=1e-8)


def asymmetric(seed=0, n=6, m=4):
    """K with eigenvalues in (0.5, 1.5) and eigenvectors that are not orthogonal, and some Q."""
    rng = np.random.default_rng(seed)
    vectors = np.eye(n) + 0.3 * rng.normal(size=(n, n))
    k = vectors @ np.diag(rng.uniform(0.5, 1.5, n)) @ np.linalg.inv(vectors)
    f, f_test, y, y_test = (rng.normal(size=(s, 2)) for s in (n // 2, m // 2, n // 2, m // 2))
    return k, rng.normal(size=(m, n)), f, f_test, y, y_test


@pytest.mark.parametrize("jitted", [False, True])
def test_a_map_that_is_not_symmetric_is_taken_as_it_is(jitted):
    k, q, f, f_test, y, y_test = asymmetric()
    times = (0, 1, 5, 30)
    # Times stay Python's under jit.
    function = partial(risk_from_maps, noise=SIGMA, times=(*times, math.inf))
    call = jax.jit(function) if jitted else function
    found = call(
        *map(jnp.asarray, (k, f, y)),
        step_size=0.8,
        q=jnp.asarray(q),
        test_outputs=jnp.asarray(f_test),
        test_targets=jnp.asarray(y_test),
    )
    wanted = dense_parts(k, q, f, f_test, y, y_test, SIGMA, 0.8, times)
    for part, expected in zip(parts_of(found), wanted, strict=True):
        np.testing.assert_allclose(part[:-1], expected, rtol=1e-10, atol=1e-13)
    weights = q @ np.linalg.inv(k)
    expected = SIGMA**2 * np.sum(weights**2) / len(q)
    np.testing.assert_allclose(found.test_variance[-1], expected, rtol=1e-10)
    # Its symmetric part is another map.
    wrong = dense_parts((k + k.T) / 2, q, f, f_test, y, y_test, SIGMA, 0.8, times)
    assert relative_error(found.test_bias[:-1], wrong[2]) > 1e-3


def test_several_initialisations_are_the_mean_of_each():
    p, rng = problem(CASE), np.random.default_rng(3)
    k, q = map(jnp.asarray, maps("identity", 0.0, p))
    step_size = 1.2 / np.linalg.eigvalsh(k).max()
    starts = [jnp.asarray(rng.normal(size=(5, *a.shape))) for a in (p.lin.outputs, p.at.outputs)]
    clean, times = jnp.asarray(test_targets(p)), [0, 3, math.inf]
    how = p.targets, SIGMA, step_size, times, q

    found = risk_from_maps(k, starts[0], *how, starts[1], clean)
    each = [risk_from_maps(k, f, *how, f_test, clean) for f, f_test in zip(*starts, strict=True)]
    np.testing.assert_allclose(
        found.total, np.mean([e.total for e in each], 0), rtol=1e-10, atol=1e-13
    )
    np.testing.assert_allclose(
        found.test_total, np.mean([e.test_total for e in each], 0), rtol=1e-10
    )
    assert np.all(np.asarray(found.test_spread) > 1e-3)
    mean = risk_from_maps(k, starts[0].mean(0), *how, starts[1].mean(0), clean)
    np.testing.assert_allclose(found.test_bias, mean.test_bias, rtol=1e-10)


@pytest.mark.parametrize("name", ["identity", "kfac"])
def test_infinite_width_has_the_mean_and_covariance_of_the_ensemble(name):
    rng = np.random.default_rng(2)
    x, x_test, y, y_test = (
        jnp.asarray(rng.normal(size=s)) for s in ((6, 9), (4, 9), (6, 2), (4, 2))
    )
    net = ngd.networks.mlp(9, [32, 32], 2, "relu", 2**0.5, 0.2)
    found_maps = predictor(ngd.fisher.by_name(name), net, x, x_test)
    step_size, times = float(0.9 / jnp.linalg.eigvalsh(found_maps.train_map)[-1]), [0, 1, 9]
    found = ensemble_risk(found_maps, net, x, x_test, y, y_test, SIGMA, step_size, times)
    paths = ensemble(found_maps, net, x, x_test, y, step_size, times)
    for mean, covariance, clean, bias, spread in (
        (paths.mean, paths.covariance, y, found.bias, found.spread),
        (paths.test_mean, paths.test_covariance, y_test, found.test_bias, found.test_spread),
    ):
        np.testing.assert_allclose(bias, np.mean((mean - clean) ** 2, axis=(1, 2)), 1e-9, 1e-15)
        traces = np.trace(np.asarray(covariance), axis1=1, axis2=2) / len(clean)
        np.testing.assert_allclose(spread, traces, rtol=1e-7, atol=1e-12)
    # The whole map is K (x) I_C: from there variance and bias of outputs that start at 0.
    each = np.eye(2)
    k, q = (np.kron(np.asarray(m), each) for m in (found_maps.train_map, found_maps.test_map))
    nowhere, no_test = np.zeros((6, 2)), np.zeros((4, 2))
    wanted = dense_parts(k, q, nowhere, no_test, y, y_test, SIGMA, step_size, times)
    for part, expected in zip(parts_of(found), wanted, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-9, atol=1e-13)
    prior = np.trace(np.asarray(infinite.nngp(net, x_test))) / 4
    np.testing.assert_allclose(found.test_spread[0], prior, rtol=1e-9)


@pytest.mark.parametrize("symmetric", [True, False])
def test_over_a_prior_of_targets_the_bias_is_the_mean_of_its_draws(symmetric):
    k, q, *_ = asymmetric()
    k, rng = k @ k.T / 2 if symmetric else k, np.random.default_rng(4)
    root = rng.normal(size=(len(k) + len(q), 3))
    step_size, times = 0.5 / np.abs(np.linalg.eigvals(k)).max(), (0, 2, 9)
    prior = jnp.asarray(root @ root.T)
    found = prior_risk(jnp.asarray(k), jnp.asarray(q), prior, SIGMA, step_size, times)
    # A root's columns are draws enough: the bias is quadratic in the targets.
    zero, no_test = np.zeros(len(k)), np.zeros(len(q))
    wanted = sum(
        dense_parts(k, q, zero, no_test, *np.split(y, [len(k)]), SIGMA, step_size, times)
        for y in root.T
    )
    for part, expected, share in zip(parts_of(found), wanted, (1, 1 / 3, 1, 1 / 3), strict=True):
        np.testing.assert_allclose(part, share * expected, rtol=1e-9)
    np.testing.assert_array_equal(found.spread, 0)
    np.testing.assert_array_equal(found.test_spread, 0)
    with pytest.raises(InputError, match="symmetric"):
        lopsided = jnp.asarray(root @ rng.normal(size=(3, len(root))))
        prior_risk(jnp.asarray(k), jnp.asarray(q), lopsided, SIGMA, step_size, times)


def test_derivatives_are_there_where_the_map_is_isotropic():
    rng = np.random.default_rng(0)
    along, q, f, t, f_test, y_test = (
        jnp.asarray(rng.normal(size=s)) for s in ((4, 4), (3, 4), (4, 1), (4, 1), (3, 1), (3, 1))
    )

    def total(s):
        k = 2 * jnp.eye(4) + s * (along + along.T)
        found = risk_from_maps(k, f, t, 0.2, 0.3 + s, [0, 3, math.inf], q, f_test, y_test)
        return jnp.sum(found.total) + jnp.sum(found.test_total)

    value = [float(total(s)) for s in (-2e-3, -1e-3, 1e-3, 2e-3)]
    wanted = (8 * (value[2] - value[1]) - (value[3] - value[0])) / 12e-3
    for mode in (jax.jacfwd, jax.jacrev):
        assert abs(float(mode(total)(0.0)) - wanted) < 1e-6 * abs(wanted)


def test_the_derivative_by_the_step_size_is_that_of_the_risk():
    p = problem(CASE)
    clean = jnp.asarray(test_targets(p))

    def total(step_size):
        how = ngd.fisher.Exact(), p.lin, p.targets, SIGMA, step_size, [4, math.inf], 0.1
        return jnp.sum(risk(*how, p.at, clean).test_total)

    value = [float(total(0.5 + s)) for s in (-2e-3, -1e-3, 1e-3, 2e-3)]
    wanted = (8 * (value[2] - value[1]) - (value[3] - value[0])) / 12e-3
    assert abs(float(jax.grad(total)(0.5)) - wanted) < 1e-6 * abs(wanted)


def test_no_limit_is_said_where_there_is_none():
    k, q, f, f_test, y, y_test = map(jnp.asarray, asymmetric())
    symmetric, test = k @ k.T, dict(q=q, test_outputs=f_test, test_targets=y_test)
    top = float(jnp.linalg.eigvalsh(symmetric)[-1])
    with pytest.raises(InputError, match="does not converge"):
        risk_from_maps(symmetric, f, y, 0.1, 2.01 / top, [math.inf])
    # As many steps as you like below infinity.
    assert np.isfinite(risk_from_maps(symmetric, f, y, 0.1, 2.01 / top, [9]).total).all()
    with pytest.raises(InputError, match="does not converge"):
        risk_from_maps(k, f, y, 0.1, 4.5, [math.inf])
    # A direction that K does not see: the labels are not fitted there, and a Q that sees it goes on for ever.
    flat = symmetric.at[0].set(0).at[:, 0].set(0)
    assert float(risk_from_maps(flat, f, y, 0.1, 1 / top, [math.inf]).bias[0]) > 0
    with pytest.raises(NotPredictedError, match="no limit"):
        risk_from_maps(flat, f, y, 0.1, 1 / top, [math.inf], **test)
    with pytest.raises(NotPredictedError, match="no limit"):
        risk_from_maps(-symmetric, f, y, 0.1, 1e-3 / top, [math.inf])
    with pytest.raises(NotPredictedError, match="not symmetric"):
        risk_from_maps(k.at[0].set(0), f, y, 0.1, 0.5, [math.inf])
    inside = jax.jit(lambda k: risk_from_maps(k, f, y, 0.1, 0.5, [math.inf]).total)
    assert np.isnan(inside(k.at[0].set(0))).all()


def test_bad_arguments_are_named():
    k, q, f, f_test, y, y_test = map(jnp.asarray, asymmetric())
    for bad, words in (
        ({"noise": -1.0}, "noise"),
        ({"noise": math.inf}, "noise"),
        ({"times": []}, "times"),
        ({"times": [1.5]}, "times"),
        ({"times": [-1]}, "times"),
        ({"times": [math.nan]}, "times"),
        ({"times": [-math.inf]}, "times"),
        ({"times": [2**31]}, "times"),
        ({"step_size": 0.0}, "step_size"),
        ({"outputs": f[0]}, "outputs"),
        ({"outputs": f.at[0].set(jnp.nan)}, "outputs"),
        ({"targets": y[:1]}, "targets"),
        ({"k": k[:2, :2]}, "k has shape"),
        ({"q": q}, "belong together"),
        ({"q": q, "test_outputs": f_test[None], "test_targets": y_test}, "same initialisations"),
        ({"q": q[:3], "test_outputs": f_test, "test_targets": y_test}, "q has shape"),
    ):
        given = {"k": k, "outputs": f, "targets": y, "noise": 0.1, "step_size": 0.5, "times": [1]}
        with pytest.raises(InputError, match=words):
            risk_from_maps(**{**given, **bad})
    p = problem(CASE)
    with pytest.raises(InputError, match="belong together"):
        risk(ngd.fisher.Exact(), p.lin, p.targets, 0.1, 0.5, [1], 0.1, p.at)
