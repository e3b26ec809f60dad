"""The tolerances are formulas in N, C, L, M, rho and the precision."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import ngd_theory as ngd
from ngd_theory.experiment import Experiment, load_data, measure, parse
from ngd_theory.experiment.evidence import LazyRun
from ngd_theory.experiment.gaps import sup_gap


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
    far[1:] = far[0] + 3.0
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
    found = evidence.residual_ratios(evidence.plain)
    assert found == pytest.approx(0.5 ** np.arange(5))


def test_relative_numbers_of_a_lazy_run_are_those_of_the_whole_way(ideal):
    evidence = ideal(scale=0.5, steps=4, lazy=True)
    for run in evidence.lazy:
        found = evidence.residual_ratios(run)
        assert found == pytest.approx(0.5 ** np.arange(5), abs=0.1 * run.laziness)
        expected = 0.01 * run.laziness * evidence.num_samples**0.5 / evidence.scale
        assert evidence.lazy_gap(run) == pytest.approx(expected, rel=1e-6, abs=1e-10)
    assert evidence.laziest.laziness == 1e-6
    assert ideal(lazy=False).laziest.laziness == 1.0


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
    for off in (1e-9, 0.1):
        changed = replace(evidence, lazy=(far, with_gap(middle, off), near))
        gap = changed.lazy_gap(changed.lazy[1])
        expected = 2 * gap * 1e-2 + 10 * evidence.round_off(1e-6)
        assert changed.lazy_tolerance(near) == pytest.approx(expected)
        assert changed.smallest_error(changed.lazy_tolerance(near)) == pytest.approx(expected / 0.8)
        assert changed.finite_width_tolerance(1e-6) == derived
        kinked = replace(changed, network=ideal().network)
        expected = 2 * gap * 1e-1 + 10 * evidence.round_off(1e-6)
        assert kinked.lazy_tolerance(near) == pytest.approx(expected)
    for bad in (np.nan, np.inf):
        changed = replace(evidence, lazy=(far, with_gap(middle, bad), near))
        assert changed.lazy_tolerance(near) == derived
    # Of epsilons close together it would be the gap itself.
    close = LazyRun(3e-6, with_gap(middle, 0.1).training)
    changed = replace(evidence, lazy=(close, near))
    assert changed.lazy_tolerance(near) == derived


def test_units_that_change_sides_are_allowed_their_share_of_a_kernel(ideal):
    evidence = ideal()
    near = evidence.lazy[-1]
    switched = replace(near, switched=3)
    difference = evidence.lazy_tolerance(switched) - evidence.lazy_tolerance(near)
    assert difference == pytest.approx(6 / 4096)
    assert replace(ideal(depth=1)).switch_gap(near) == 0


def test_a_solve_of_a_higher_condition_rounds_more(ideal):
    evidence = ideal()
    near = evidence.lazy[-1]
    worse = replace(evidence, solve_condition=1e6, map_condition=1e7)
    lost = 16 * 2.0**-52
    assert worse.round_off(1e-4) - evidence.round_off(1e-4) == pytest.approx(lost * (1e6 - 100))
    assert worse.map_tolerance() == pytest.approx(2e-7 + lost * 1e7)
    ratio = worse.distance_tolerance(near) / evidence.distance_tolerance(near)
    assert ratio > 50


def test_the_unit_wise_spread_is_students_of_the_units_at_hand(ideal):
    evidence = ideal("unit-wise", width=8)
    shares = np.array([0.2, 0.4, 0.6])
    few = replace(evidence, active_shares=shares)
    # t of two degrees of freedom at four sigma of the normal, by scipy.stats.
    factor = scipy.stats.t.isf(scipy.stats.norm.sf(4), 2)
    assert few.constant_spread() == pytest.approx(factor * 0.2 / 3**0.5 / 0.4, rel=1e-3)
    many = replace(evidence, active_shares=np.tile(shares, 10_000))
    error = np.std(np.tile(shares, 10_000)) / 30_000**0.5
    assert many.constant_spread() == pytest.approx(4 * error / 0.4, rel=1e-3)
    assert replace(evidence, active_shares=np.array([0.5])).constant_spread() == np.inf
    assert replace(evidence, active_shares=np.empty(0)).constant_spread() == 0
    # Where positions share weights: a Bernoulli(1/2) share of 16 units.
    expected = 4 * (1 / (0.5 * 16)) ** 0.5
    assert replace(evidence, active_shares=None).constant_spread() == pytest.approx(expected)
    assert ideal("exact").constant_spread() == ideal("exact").dispersion_bound() == 0


@pytest.mark.parametrize("n", [1, 4, 100])
def test_the_unit_wise_dispersion_is_allowed_its_own_chance(ideal, n):
    """``sqrt(chi2_N / N)`` at four sigma."""
    evidence = ideal("unit-wise", num_samples=n, width=200)
    chance = (scipy.stats.chi2.isf(scipy.stats.norm.sf(4), n) / n) ** 0.5
    expected = chance * ngd.theory.unit_wise_dispersion(evidence.network)
    assert evidence.dispersion_bound() == pytest.approx(expected, rel=2e-3)


def test_several_outputs_add_to_the_unit_wise_dispersion(ideal):
    evidence = replace(ideal("unit-wise"), output_spread=0.4)
    alone = ideal("unit-wise").dispersion_bound()
    assert evidence.dispersion_bound() == pytest.approx(np.hypot(alone, 0.4))


@pytest.mark.slow
@pytest.mark.parametrize("depth, c, n", [(5, 3, 60), (3, 10, 40)])
def test_the_unit_wise_dispersion_of_several_outputs_is_within_its_bound(depth, c, n):
    """At C >= 3 the expectation of orthogonal sensitivities alone was exceeded by up to a half."""
    settings = {"dataset": "gaussian", "input_dim": 120, "output_dim": c, "num_train": n}
    settings |= {"num_test": 0, "depth": depth, "width": 256, "approximations": ("unit-wise",)}
    begun = Experiment.begin(parse(settings), load_data(parse(settings)))
    found = measure(begun, "unit-wise", ("undamped", "regime", "conditions"))
    measured = float(found.judged_isotropy.dispersion)
    assert measured <= found.dispersion_bound() + found.map_tolerance() < 2 * measured
    assert found.output_spread > 0


def test_what_damping_takes_of_a_unit_wise_map_is_measured(ideal):
    evidence = ideal("unit-wise")
    shifted = replace(evidence, damping_shift=0.03)
    assert shifted.map_error() - evidence.map_error() == pytest.approx(0.03)
    bare = replace(evidence.isotropy, dispersion=jnp.asarray(0.5))
    assert evidence.judged_isotropy is evidence.isotropy
    assert replace(evidence, undamped=bare).judged_isotropy is bare


def test_the_correction_is_the_gap_over_epsilon_where_rounding_does_not_show(ideal):
    evidence = ideal()
    far, middle, near = evidence.lazy
    assert evidence.correction == pytest.approx(evidence.lazy_gap(middle) / 1e-4)
    assert replace(evidence, lazy=(far, near)).correction == pytest.approx(
        evidence.lazy_gap(far) / 1e-2
    )
    assert replace(evidence, lazy=(near,)).correction is None


def test_distances_are_compared_by_ratio(ideal):
    evidence = ideal()
    near = evidence.lazy[-1]
    assert evidence.distance_error(near) == pytest.approx(1e-8)
    expected = 2 * 0.1 * 1e-6 + 10 * evidence.round_off(1e-6) * 10
    assert evidence.distance_tolerance(near) == pytest.approx(expected)
    away = near.training.parameter_distances
    for changes in (
        {"parameter_distances": away[:2]},
        {"parameter_distances": None},
        {"diverged": True},
    ):
        cut = LazyRun(1e-6, replace(near.training, **changes))
        assert evidence.distance_error(cut) == np.inf
    switched = replace(near, switched=3)
    more = evidence.distance_tolerance(switched) - evidence.distance_tolerance(near)
    assert more == pytest.approx(6 / 4096)
    assert replace(evidence, predicted_distance=np.nan).distance_error(near) == np.inf


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


@pytest.mark.parametrize(
    "changes",
    [
        {"test_outputs": None},
        {"outputs": jnp.zeros((1, 16, 1))},
        {"outputs": jnp.zeros((4, 16, 2))},
        {"test_outputs": jnp.zeros((4, 7, 1))},
    ],
    ids=["no test set", "one entry", "other outputs", "other samples"],
)
def test_a_run_of_other_sets_or_steps_is_no_agreement(ideal, changes):
    evidence = ideal()
    assert evidence.gap_of(evidence.prediction) == 0
    assert evidence.gap_of(replace(evidence.prediction, **changes)) == np.inf
    bare = replace(evidence.prediction, test_outputs=None)
    assert replace(evidence, prediction=bare).gap_of(bare) == 0


def test_the_next_epsilon_may_be_exactly_a_tenth(ideal):
    """``2 (epsilon/10)/epsilon`` is 0.2 but for its last digit."""
    smooth = ngd.networks.mlp(32, [4096, 4096], 1, "tanh")
    evidence = replace(ideal(), network=smooth)
    for far in np.geomspace(1e-3, 0.9, 200):
        runs = [LazyRun(each, evidence.training) for each in (far, far / 10)]
        found = replace(evidence, lazy=tuple(runs)).lazy_tolerance(runs[1])
        assert found == pytest.approx(10 * evidence.round_off(far / 10))


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
