"""The tolerances are formulas in N, C, L, M, rho and the precision."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory.experiment.evidence import LazyRun, sup_gap


@pytest.mark.parametrize("n, c, depth, width", [(16, 1, 3, 256), (9, 4, 2, 1024), (4, 3, 6, 64)])
def test_the_width_ratio_is_root_nc_plus_depth_over_root_width(ideal, n, c, depth, width):
    evidence = ideal(num_samples=n, output_dim=c, depth=depth, width=width)
    assert evidence.width_ratio() == pytest.approx(((n * c) ** 0.5 + depth) / width**0.5)


def test_sixteen_times_the_width_is_a_quarter_of_the_tolerance(ideal):
    narrow, wide = ideal(width=256), ideal(width=4096)
    assert narrow.finite_width_tolerance() == pytest.approx(4 * wide.finite_width_tolerance())


@pytest.mark.parametrize("scale, travel", [(0.1, 1 - 0.9**3), (1.0, 1.0), (1.5, 1.5)])
def test_the_finite_width_tolerance_grows_with_what_the_outputs_travel(ideal, scale, travel):
    evidence = ideal(scale=scale)
    assert evidence.travel() == pytest.approx(travel)
    expected = max(travel, travel**2) * evidence.width_ratio()
    assert evidence.finite_width_tolerance() == pytest.approx(expected)


def test_a_longer_way_through_parameter_space_is_allowed_its_own_displacement(ideal):
    evidence = replace(ideal(scale=0.5), displacement=0.6)
    assert evidence.jacobian_change() == 0.6
    assert evidence.finite_width_tolerance() == pytest.approx(0.6 * evidence.travel())


def test_travel_counts_the_test_set_by_root_mean_square(ideal):
    evidence = ideal()
    far = np.array(evidence.prediction.test_outputs)
    far[1:] += 3.0
    prediction = replace(evidence.prediction, test_outputs=jnp.asarray(far))
    expected = 3.0 * evidence.num_samples**0.5 / evidence.scale
    assert replace(evidence, prediction=prediction).travel() == pytest.approx(expected)


def test_under_cross_entropy_the_scale_is_what_is_predicted_to_be_travelled(ideal):
    evidence = replace(ideal(), loss="cross-entropy")
    assert evidence.travel() == pytest.approx(1.0)


def test_a_linear_model_has_round_off_for_a_width_ratio(ideal):
    evidence = ideal(depth=1)
    assert evidence.width_ratio() == pytest.approx(1e3 * 2.0**-52 * 100)


def test_the_map_tolerance_is_twice_the_bias_and_the_round_off_of_a_solve(ideal):
    evidence = ideal(num_samples=8, output_dim=2)
    assert evidence.map_tolerance() == pytest.approx(2e-7 + 16 * 2.0**-52 * 100)
    assert ideal("identity").map_tolerance() == pytest.approx(16 * 2.0**-52 * 100)


def test_residual_ratios_are_those_of_the_norms(ideal):
    evidence = ideal(scale=0.5, steps=4)
    found = evidence.residual_ratios(LazyRun(1.0, evidence.training))
    assert found == pytest.approx(0.5 ** np.arange(5))


def test_relative_numbers_of_a_lazy_run_are_those_of_the_whole_way(ideal):
    evidence = ideal(scale=0.5, steps=4, lazy=True)
    for run in evidence.lazy:
        found = evidence.residual_ratios(run)
        assert found == pytest.approx(0.5 ** np.arange(5), abs=0.1 * run.laziness)
        expected = 0.01 * run.laziness * evidence.num_samples**0.5 / evidence.scale
        assert evidence.lazy_gap(run) == pytest.approx(expected, rel=1e-6, abs=1e-10)
    assert evidence.laziest.laziness == 1e-6
    assert ideal().laziest.laziness == 1.0


@pytest.mark.parametrize("activation, order", [("relu", 0.5), ("tanh", 1.0), ("gelu", 1.0)])
def test_nearer_targets_are_allowed_less_by_the_order_of_the_activation(ideal, activation, order):
    network = ngd.networks.mlp(32, [4096, 4096], 1, activation)
    evidence = replace(ideal(), network=network)
    assert evidence.order == order
    rounding = evidence.round_off(1e-4)
    size = np.linalg.norm(evidence.training.outputs[0]) + np.linalg.norm(evidence.targets)
    expected = 100 * 3 * 2.0**-52 * size / (1e-4 * evidence.scale) + 16 * 2.0**-52 * 100
    assert rounding == pytest.approx(expected)
    wanted = evidence.finite_width_tolerance() * 1e-4**order + rounding
    assert evidence.finite_width_tolerance(1e-4) == pytest.approx(wanted)


def with_gap(run, off):
    outputs = np.array(run.training.outputs)
    outputs[1:] += off
    return LazyRun(run.laziness, replace(run.training, outputs=jnp.asarray(outputs)))


def test_twice_the_next_gap_by_the_order_is_allowed_but_no_gap_that_is_not_a_number(ideal):
    smooth = ngd.networks.mlp(32, [4096, 4096], 1, "tanh")
    evidence = replace(ideal(lazy=True), network=smooth)
    derived = evidence.finite_width_tolerance(1e-6)
    far, middle, near = evidence.lazy
    changed = replace(evidence, lazy=(far, with_gap(middle, 0.1), near))
    gap = changed.lazy_gap(changed.lazy[1])
    expected = 2 * gap * 1e-2 + evidence.round_off(1e-6)
    assert expected > derived
    assert changed.lazy_tolerance(1e-6) == pytest.approx(expected)
    assert changed.finite_width_tolerance(1e-6) == derived
    for bad in (np.nan, np.inf):
        changed = replace(evidence, lazy=(far, with_gap(middle, bad), near))
        assert changed.lazy_tolerance(1e-6) == derived
    # Of epsilons close together it would be the gap itself.
    close = LazyRun(3e-6, with_gap(middle, 0.1).training)
    changed = replace(evidence, lazy=(close, near))
    assert changed.lazy_tolerance(1e-6) == derived


def test_a_run_that_was_broken_off_has_no_gap_and_no_residual(ideal):
    evidence = ideal(scale=0.5, steps=4, lazy=True)
    for run in evidence.lazy:
        cut = replace(
            run.training, outputs=run.training.outputs[:3], losses=run.training.losses[:3]
        )
        assert evidence.lazy_gap(LazyRun(run.laziness, cut)) == np.inf
        ratios = evidence.residual_ratios(LazyRun(run.laziness, cut))
        assert np.isfinite(ratios[:3]).all() and list(ratios[3:]) == [np.inf] * 2
        diverged = LazyRun(run.laziness, replace(run.training, diverged=True))
        assert evidence.lazy_gap(diverged) == np.inf
        assert evidence.residual_ratios(diverged)[-1] == np.inf


def test_an_own_activation_is_not_taken_for_smooth(ideal):
    own = ngd.networks.activations.Activation("own", jnp.sin, 1.0)
    assert replace(ideal(), network=ngd.networks.mlp(32, [8], 1, own)).order == 0.5
    image = ngd.networks.cnn((4, 4, 1), [4], 1, activation="tanh", pool=2)
    assert replace(ideal(), network=image).order == 1.0


def test_a_sup_gap_takes_the_entries_that_both_have():
    left, right = np.zeros((3, 2, 1)), np.array([[[3.0], [4.0]], [[0.0], [0.0]]])
    assert sup_gap(left, right, 2.0) == 2.5


def test_a_sup_gap_with_a_nan_is_infinite():
    assert sup_gap(np.zeros((2, 1)), np.array([[0.0], [np.nan]]), 1.0) == np.inf
