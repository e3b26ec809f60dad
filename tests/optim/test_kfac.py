"""K-FAC as an optimiser, step by step against dense matrices in NumPy (tests/helpers/kfac_steps.py)."""

import numpy as np
import pytest
from cases import relative_error
from kfac_steps import (
    BOTH,
    DEEP,
    NETWORKS,
    OMEGA_1,
    OMEGA_2,
    OPTIONS,
    STRUCTURES,
    VALUES,
    batch,
    dense_inverse,
    exact_fisher,
    flatten,
    forward_backward,
    initial_params,
    least,
    objective,
    program,
    same,
    statistics,
    take,
    trajectory,
)

from ngd_theory import optim


@pytest.mark.parametrize(("loss", "structure"), BOTH)
def test_first_step_is_the_published_one(loss, structure):
    step = trajectory(loss, structure)[0]
    block = statistics(step.before, step.params, step.x[:6], loss)
    gamma = (OPTIONS["damping"] + OPTIONS["l2"]) ** 0.5
    assert float(step.after.factor_damping) == pytest.approx(gamma)
    proposal = -dense_inverse(block, NETWORKS[loss].depth, structure, gamma) @ step.slope
    (alpha,), _ = least(step.curvature(loss), step.slope, proposal[None])
    assert relative_error(flatten(step.updates), alpha * proposal) < 1e-9


@pytest.mark.parametrize(("loss", "structure"), BOTH)
def test_step_size_and_momentum_minimise_the_exact_quadratic_model(loss, structure):
    for step in trajectory(loss, structure)[1:10]:
        directions = np.stack([step.proposal, flatten(step.before.previous)])
        found = np.asarray([step.after.step_size, step.after.momentum])
        expected, value = least(step.curvature(loss), step.slope, directions)
        np.testing.assert_allclose(found, expected, rtol=1e-8)
        assert float(step.after.model_change) == pytest.approx(value, rel=1e-8)
        assert relative_error(flatten(step.updates), expected @ directions) < 1e-8
        assert same(step.updates, step.after.previous)
        # A Fisher of all the rows, or no penalty in the model, gives another step.
        damping = float(step.before.damping)
        for x, shift in ((step.x, damping + OPTIONS["l2"]), (step.x[:9], damping)):
            fisher = exact_fisher(step.params, x, loss)
            wrong = least(fisher + shift * np.eye(len(fisher)), step.slope, directions)[0]
            assert relative_error(wrong, expected) > 1e-5


@pytest.mark.parametrize(("loss", "structure"), BOTH)
def test_loss_falls(loss, structure):
    steps = trajectory(loss, structure)
    x, y = batch(loss, 0)
    first, last = (
        VALUES[loss](forward_backward(p, x)[0], np.asarray(y))
        for p in (steps[0].params, steps[-1].moved)
    )
    entropy = VALUES[loss](np.asarray(x * 3 if loss == "cross-entropy" else x), np.asarray(y))
    assert last - entropy < 0.5 * (first - entropy)


@pytest.mark.parametrize(("loss", "structure"), BOTH)
def test_compiled_once(loss, structure):
    trajectory(loss, structure)
    assert len(program(loss, structure).traces) == 1


@pytest.mark.parametrize("structure", STRUCTURES)
def test_statistics_are_running_averages_of_sampled_factors(structure):
    reach = {"block-diagonal": 0, "block-tridiagonal": 1}[structure]
    for step in trajectory("mse", structure)[:6]:
        fresh = statistics(step.before, step.params, step.x[:6], "mse")
        eps = min(1 - 1 / step.number, OPTIONS["decay"])
        assert step.after.factors.bandwidth == reach
        for i in range(DEEP.depth):
            for j in range(i, min(i + reach, DEEP.depth - 1) + 1):
                blocks = zip(
                    step.before.factors.block(i, j),
                    fresh(i, j),
                    step.after.factors.block(i, j),
                    strict=True,
                )
                for old, new, found in blocks:
                    np.testing.assert_allclose(found, eps * old + (1 - eps) * new, atol=1e-12)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_inverses_are_refreshed_at_the_first_three_steps_and_their_periods_only(structure):
    for step in trajectory("mse", structure):
        k = step.number
        # The search for gamma, every seventh step, inverts too.
        due = k <= 3 or k % 5 == 0 or k % 7 == 0
        assert same(step.before.inverse, step.after.inverse) != due, k
        if due:
            gamma = float(step.after.factor_damping)
            inverse = dense_inverse(step.after.factors.block, DEEP.depth, structure, gamma)
            assert relative_error(-step.proposal, inverse @ step.slope) < 1e-8, k


@pytest.mark.parametrize("structure", STRUCTURES)
def test_factor_damping_is_the_best_of_three_at_its_period_only(structure):
    choices = set()
    for step in trajectory("mse", structure):
        gamma, found = (float(s.factor_damping) for s in (step.before, step.after))
        if step.number % 7:
            assert found == gamma
            continue
        values = []
        for factor in (1, OMEGA_2, 1 / OMEGA_2):
            inverse = dense_inverse(step.after.factors.block, DEEP.depth, structure, gamma * factor)
            directions = np.stack([-inverse @ step.slope, flatten(step.before.previous)])
            values.append(least(step.curvature("mse"), step.slope, directions)[1])
        best = (1, OMEGA_2, 1 / OMEGA_2)[int(np.argmin(values))]
        assert found == pytest.approx(gamma * best, rel=1e-12)
        choices.add(best)
    assert choices - {1}


def expected_damping(step, loss):
    """Levenberg and Marquardt's rule; also its case."""
    change = objective(step.moved, step.x, step.y, loss) - objective(
        step.params, step.x, step.y, loss
    )
    ratio = change / float(step.after.model_change)
    case = "shrinks" if ratio > 3 / 4 else "grows" if ratio < 1 / 4 else "stays"
    factor = {"shrinks": OMEGA_1, "grows": 1 / OMEGA_1, "stays": 1}[case]
    return ratio, case, float(step.before.damping) * factor


@pytest.mark.parametrize(("loss", "structure"), BOTH)
def test_damping_follows_the_reduction_ratio_at_its_period_only(loss, structure):
    for step in trajectory(loss, structure):
        if step.number % 2:
            assert float(step.after.damping) == float(step.before.damping)
            assert same(step.after.reduction_ratio, step.before.reduction_ratio)
            continue
        ratio, _, damping = expected_damping(step, loss)
        assert float(step.after.reduction_ratio) == pytest.approx(ratio, rel=1e-8)
        assert float(step.after.damping) == pytest.approx(damping, rel=1e-12)


def test_damping_shrinks_stays_and_grows():
    # A gradient too long by c makes a step too long by c, of which the model promises too much.
    before = trajectory("mse", "block-diagonal")[9]
    cases = []
    for scale in (1.0, 1.3, 1.6, -1.0):
        step = take("mse", "block-diagonal", 10, before.params, before.before, scale)
        _, case, damping = expected_damping(step, "mse")
        assert float(step.after.damping) == pytest.approx(damping, rel=1e-12)
        cases.append(case)
    assert set(cases) == {"shrinks", "stays", "grows"}


def test_iterates_are_averaged():
    steps = trajectory("mse", "block-diagonal")
    average = flatten(steps[0].params)
    for step in steps:
        xi = min(1 - 1 / step.number, OPTIONS["averaging"])
        average = xi * average + (1 - xi) * flatten(step.moved)
        found = optim.averaged_params(step.after, step.moved)
        np.testing.assert_allclose(flatten(found), average, rtol=1e-12, atol=1e-14)
    assert relative_error(average, flatten(steps[-1].moved)) > 1e-4


def test_without_averaging_the_iterate_is_its_own_average():
    params = initial_params()
    state = optim.kfac(DEEP).init(params)
    assert optim.averaged_params(state, params) is params
