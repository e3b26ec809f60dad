"""Every claim passes where it is true, fails where it is false, and knows where it says nothing."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory import experiment
from ngd_theory.experiment import CLAIMS, Experiment, Outcome, judge, load_data, measure, parse
from ngd_theory.experiment.evidence import LazyRun
from ngd_theory.theory import Condition

NAMES = tuple(c.name for c in CLAIMS)
ISOTROPIC = ("exact", "block-diagonal", "block-tridiagonal", "kfac", "unit-wise")
#: The claims that a method with an alpha is held to, and those of one without.
WITH_ALPHA = (
    "isotropy",
    "constant",
    "step-scale",
    "damped-map",
    "contraction",
    "one-step",
    "divergence-edge",
    "step-map",
    "lazy-limit",
    "lazy-order",
    "finite-width-gap",
    "lazy-parameters",
    "distinct-minima",
)
WITHOUT_ALPHA = (
    "damped-map",
    "step-map",
    "lazy-limit",
    "lazy-order",
    "finite-width-gap",
    "lazy-parameters",
    "distinct-minima",
    "anisotropic",
)
#: Those whose premise is that K = alpha I.
OF_ALPHA = ("isotropy", "constant", "contraction", "one-step", "divergence-edge")


def scaled(trajectory, factor, targets):
    """Residuals after the first step scaled; the start and the distances stay."""
    outputs = np.array(trajectory.outputs)
    outputs[1:] = targets + factor * (outputs[1:] - targets)
    return replace(trajectory, outputs=jnp.asarray(outputs))


def offset(trajectory, amount):
    """All outputs after the first step moved by ``amount``."""
    outputs = np.array(trajectory.outputs)
    outputs[1:] += amount
    return replace(trajectory, outputs=jnp.asarray(outputs))


def anisotropic_map(evidence, spread):
    """The isotropy of a K whose eigenvalues are alpha (1 +- spread)."""
    n = evidence.num_samples
    signs = np.where(np.arange(n) % 2, 1.0, -1.0)
    return ngd.theory.isotropy(jnp.diag(jnp.asarray(evidence.constant * (1 + spread * signs))))


def every_run(evidence, change):
    """The main run and the lazy ones, changed alike."""
    lazy = tuple(LazyRun(run.laziness, change(run.training)) for run in evidence.lazy)
    return {"training": change(evidence.training), "lazy": lazy}


def broken_condition(why="the kernel is singular, for a reason"):
    return Condition("some-condition", False, 0.0, 1.0, why)


def test_every_claim_is_in_one_of_the_lists():
    assert set(NAMES) == {*WITH_ALPHA, *WITHOUT_ALPHA, "gd-slower", "infinite-width"}
    assert len(set(NAMES)) == len(NAMES)
    for claim in CLAIMS:
        assert claim.statement and claim.source and claim.check.__doc__


@pytest.mark.parametrize("name", ISOTROPIC)
def test_an_ideal_isotropic_method_passes_every_claim_about_it(ideal, name):
    evidence = {name: ideal(name), "identity": ideal("identity")}
    verdicts = [v for v in judge(evidence) if v.approximation == name]
    assert [v.claim for v in verdicts] == list(WITH_ALPHA)
    assert {v.outcome for v in verdicts} == {Outcome.PASS}


@pytest.mark.parametrize("name", ["identity", "entry-wise"])
def test_an_ideal_anisotropic_method_passes_every_claim_about_it(ideal, name):
    evidence = {name: ideal(name), "exact": ideal()}
    verdicts = [v for v in judge(evidence) if v.approximation == name]
    expected = [c for c in NAMES if c in WITHOUT_ALPHA or (c, name) == ("gd-slower", "identity")]
    assert [v.claim for v in verdicts] == expected
    assert {v.outcome for v in verdicts} == {Outcome.PASS}


def test_every_tolerance_and_power_is_what_its_docstring_derives(ideal, judged):
    """So that none is loosened unseen; s = 1/2, N = 16, three steps, ReLU."""
    evidence, gd = ideal(scale=0.5), ideal("identity", scale=0.5)
    far, near = evidence.lazy[1:]
    eps, size = 2.0**-52, 16
    travel = 1 - 0.5**3
    outputs = np.linalg.norm(evidence.targets)
    outputs += max(np.linalg.norm(evidence.training.outputs[0]), 0)
    rounding = 100 * 3 * eps * outputs / (1e-6 * evidence.scale) + (size * 100 + 100) * eps
    lazy = 2 * 0.1 * evidence.lazy_gap(far) + 10 * rounding
    mapped = 2e-7 + size * eps * 100
    reach = (1 + 1.5**3) / travel
    width = (16**0.5 + 3) / 4096**0.5
    expected = {
        "isotropy": (mapped, mapped),
        "constant": (mapped, mapped),
        "step-scale": (0.5e-12, 1e-12),
        "damped-map": (2.0**-26, 2.0**-26),
        "contraction": (lazy + 0.5 * mapped, (lazy + 0.5 * mapped) / 0.5),
        "one-step": ((lazy / travel**2 + mapped) ** 2, lazy / travel**2 + mapped),
        "divergence-edge": (lazy * reach**2 + 2.5 * mapped, lazy * reach**2 / 2.5 + mapped),
        "step-map": (2.0**-26 + 200 * eps, 2.0**-26 + 200 * eps),
        "lazy-limit": (lazy, lazy / 0.8 / travel),
        "finite-width-gap": (0.1 * travel, 0.1),
        "lazy-parameters": (0.2 * 1e-6 + 100 * rounding, (0.2 * 1e-6 + 100 * rounding) / 0.8),
    }
    for claim, (tolerance, power) in expected.items():
        found = judged(claim, evidence)
        assert found.tolerance == pytest.approx(tolerance, rel=1e-6), claim
        assert found.power == pytest.approx(power, rel=1e-6), claim
    assert near.laziness == 1e-6
    wide = judged("finite-width-gap", evidence, displacement=0.0)
    narrow = judged("finite-width-gap", ideal(scale=0.5, width=4096 * 16))
    assert wide.tolerance == pytest.approx(min(0.1, width) * travel)
    assert narrow.tolerance == pytest.approx(width / 4 * travel)
    order = judged("lazy-order", evidence)
    fall = 100**0.25
    gaps = [evidence.lazy_gap(run) for run in evidence.lazy]
    floor = (gaps[0] - fall * gaps[1]) / (fall - 1)
    assert (order.tolerance, order.power) == (0.25, pytest.approx(floor / travel, rel=1e-6))
    slower = judged("gd-slower", gd, [evidence])
    assert slower.tolerance == pytest.approx(gd.lazy_tolerance(gd.lazy[-1]))
    assert slower.power == pytest.approx(slower.tolerance / 0.8 / slower.predicted)


def test_what_was_not_measured_is_never_taken_for_small():
    settings = parse(
        {"dataset": "gaussian", "input_dim": 24, "num_train": 8, "num_test": 0, "width": 64}
    )
    begun = Experiment.begin(settings, load_data(settings))
    for name in ("exact", "unit-wise"):
        found = measure(begun, name, ())
        assert found.conditions is None and found.round_off(1.0) == np.inf
        assert found.map_tolerance() == np.inf
        verdicts = judge({name: found})
        assert Outcome.PASS not in {v.outcome for v in verdicts if v.claim != "step-scale"}
        assert {
            v.outcome for v in verdicts if v.claim in ("isotropy", "constant", "step-scale")
        } == {Outcome.INCONCLUSIVE}
    assert measure(begun, "unit-wise", ("regime", "conditions")).map_error() == np.inf


def test_a_map_with_a_spectrum_fails_isotropy(ideal, judged):
    for name in ISOTROPIC:
        evidence = ideal(name)
        verdict = judged("isotropy", evidence, isotropy=anisotropic_map(evidence, 0.3))
        assert verdict.outcome is Outcome.FAIL
        assert verdict.measured == pytest.approx(0.3)


def test_a_dispersion_above_round_off_fails_isotropy_except_where_it_is_asymptotic(ideal, judged):
    for name in ISOTROPIC:
        evidence = ideal(name)
        found = judged("isotropy", evidence, isotropy=anisotropic_map(evidence, 1e-4)).outcome
        assert found is (Outcome.PASS if name == "unit-wise" else Outcome.FAIL)


@pytest.mark.parametrize("name", ISOTROPIC)
@pytest.mark.parametrize("factor", [0.5, 1.2, 2.0])
def test_a_wrong_constant_fails(ideal, judged, name, factor):
    evidence = ideal(name)
    verdict = judged("constant", evidence, constant=factor * evidence.constant)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.predicted == pytest.approx(factor * verdict.measured)


def test_constants_of_different_methods_are_told_apart(ideal, judged):
    evidence = ideal("block-diagonal")
    assert judged("constant", evidence, isotropy=ideal("exact").isotropy).outcome is Outcome.FAIL


def test_kfac_with_the_constant_of_the_paper_fails(ideal, judged):
    """[KO] state L N, for an output factor scaled by 1/N: not this one."""
    evidence = ideal("kfac")
    verdict = judged("constant", evidence, constant=3.0 * evidence.num_samples)
    assert verdict.outcome is Outcome.FAIL


def test_a_map_that_is_not_a_number_fails(ideal, judged):
    nowhere = replace(
        ideal().isotropy, constant=jnp.asarray(jnp.nan), dispersion=jnp.asarray(jnp.nan)
    )
    assert judged("isotropy", ideal(), isotropy=nowhere).outcome is Outcome.FAIL
    assert judged("constant", ideal(), isotropy=nowhere).outcome is Outcome.FAIL


def test_a_residual_that_stays_fails_contraction_and_one_step(ideal, judged):
    evidence = ideal()
    stuck = every_run(evidence, lambda run: offset(run, 0.5))
    stuck["first_step"] = LazyRun(1e-6, offset(evidence.first_step.training, 0.5))
    for claim in ("contraction", "one-step", "finite-width-gap"):
        assert judged(claim, evidence, **stuck).outcome is Outcome.FAIL


@pytest.mark.parametrize("factor", [0.2, 2.0, -3.0])
def test_a_wrong_rate_fails_contraction(ideal, judged, factor):
    evidence = ideal(scale=0.5)
    assert judged("contraction", evidence).outcome is Outcome.PASS
    wrong = every_run(evidence, lambda run: scaled(run, factor, evidence.targets))
    verdict = judged("contraction", evidence, **wrong)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.predicted == pytest.approx(0.5)
    assert verdict.measured == pytest.approx(abs(factor) / 2, rel=1e-6)


def test_a_trajectory_with_the_sign_of_the_residual_wrong_fails_the_gap_alone(ideal, judged):
    """Contraction speaks of norms; that the direction is right is for the gaps to say."""
    evidence = ideal(scale=0.5)
    mirrored = every_run(evidence, lambda run: scaled(run, -1.0, evidence.targets))
    lazy = (*evidence.lazy[:-1], mirrored["lazy"][-1])
    assert judged("contraction", evidence, lazy=lazy).outcome is Outcome.PASS
    for claim in ("finite-width-gap", "lazy-limit", "lazy-order"):
        assert judged(claim, evidence, **mirrored).outcome is Outcome.FAIL


def test_one_step_is_measured_by_the_loss(ideal, judged):
    evidence = ideal(scale=0.5)
    wrong = offset(evidence.first_step.training, 0.5)
    verdict = judged("one-step", evidence, first_step=LazyRun(1e-6, wrong))
    assert verdict.outcome is Outcome.FAIL
    residual = np.asarray(wrong.outputs) - evidence.targets
    assert verdict.measured == pytest.approx(np.sum(residual[1] ** 2) / np.sum(residual[0] ** 2))


def test_a_prediction_of_another_method_fails_the_gap(ideal, judged):
    other = ideal("identity").prediction
    verdict = judged("finite-width-gap", ideal(), prediction=other)
    assert verdict.outcome is Outcome.FAIL


def test_a_training_run_that_is_not_a_number_fails_the_gap(ideal, judged):
    nowhere = offset(ideal().training, np.nan)
    verdict = judged("finite-width-gap", ideal(), training=nowhere)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.measured == np.inf


@pytest.mark.parametrize("growth", [0.9, 1.0, 1.2, 2.0])
def test_another_growth_beyond_the_edge_fails(ideal, judged, growth):
    evidence = ideal()
    run = evidence.beyond_edge.training
    first = np.asarray(run.outputs[0]) - evidence.targets
    times = np.arange(len(run.outputs))[:, None, None]
    other = replace(run, outputs=jnp.asarray(evidence.targets + growth**times * first))
    verdict = judged("divergence-edge", evidence, beyond_edge=LazyRun(0.01, other))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.measured == pytest.approx(growth)
    assert verdict.predicted == 1.5


def test_gradient_descent_off_its_prediction_fails(ideal, judged):
    gd = ideal("identity")
    wrong = every_run(gd, lambda run: scaled(run, 1.001, gd.targets))
    assert judged("gd-slower", gd, [ideal()]).outcome is Outcome.PASS
    assert judged("gd-slower", gd, [ideal()], **wrong).outcome is Outcome.FAIL


def test_gradient_descent_as_fast_as_an_isotropic_method_fails(ideal, judged):
    gd, exact = ideal("identity"), ideal()
    slow = replace(exact, training=gd.training, lazy=gd.lazy)
    verdict = judged("gd-slower", gd, [slow])
    assert verdict.outcome is Outcome.FAIL
    assert abs(verdict.measured - verdict.predicted) <= verdict.tolerance


def test_an_isotropic_method_out_of_its_conditions_is_no_rival_of_gradient_descent(ideal, judged):
    gd = ideal("identity")
    slow = replace(ideal(), lazy=gd.lazy, conditions=(broken_condition(),))
    assert excused(judged("gd-slower", gd, [slow]), "no isotropic method")
    assert judged("gd-slower", gd, [slow, ideal("kfac")]).outcome is Outcome.PASS


@pytest.mark.parametrize("factor", [1.001, 0.9, 10.0, np.nan])
def test_parameters_that_move_another_way_fail(ideal, judged, factor):
    evidence = ideal()

    def moved(run):
        return replace(run, parameter_distances=factor * run.parameter_distances)

    verdict = judged("lazy-parameters", evidence, **every_run(evidence, moved))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.predicted == evidence.predicted_distance
    assert judged("lazy-parameters", evidence, predicted_distance=1.001).outcome is Outcome.FAIL
    assert excused(judged("lazy-parameters", evidence, predicted_distance=np.inf), "no distance")


def test_a_swapped_q_fails_distinct_minima(ideal, judged):
    exact, block = ideal(), ideal("block-diagonal")
    assert judged("distinct-minima", exact, [block]).outcome is Outcome.PASS
    swapped = replace(exact.prediction, test_outputs=block.prediction.test_outputs)
    rival = replace(block, prediction=exact.prediction)
    far = every_run(exact, lambda run: replace(run, test_outputs=run.test_outputs - 1e-3))
    assert judged("distinct-minima", exact, [block], **far).outcome is Outcome.FAIL
    verdict = judged("distinct-minima", exact, [rival], prediction=swapped)
    assert verdict.outcome is not Outcome.PASS


@pytest.mark.parametrize("name", ["identity", "entry-wise"])
def test_an_isotropic_map_fails_to_be_anisotropic(ideal, judged, name):
    verdict = judged("anisotropic", ideal(name), isotropy=ideal("exact").isotropy)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.predicted == verdict.power == pytest.approx(2 / (2 * 4096) ** 0.5)


# --- lazier networks ----------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.999, 1.001])
def test_a_thousandth_of_the_rate_is_noticed(ideal, judged, factor):
    """At epsilon = 1 the width may do more than that."""
    whole, lazy = ideal(scale=0.5, lazy=False), ideal(scale=0.5)
    for evidence, outcome in ((whole, Outcome.INCONCLUSIVE), (lazy, Outcome.FAIL)):
        found = judged("contraction", evidence, step_scale=0.5 * factor)
        assert found.outcome is outcome
    smooth = ngd.networks.mlp(32, [4096, 4096], 1, "tanh")
    found = judged("contraction", lazy, step_scale=0.5 * (1 + (factor - 1) / 100), network=smooth)
    assert found.outcome is Outcome.FAIL


def test_a_network_too_narrow_for_the_whole_way_is_judged_near_its_start(ideal, judged):
    narrow = {"width": 32, "num_samples": 64, "scale": 0.5}
    for claim in ("contraction", "lazy-limit", "distinct-minima"):
        found = judged(claim, ideal(**narrow), [ideal("kfac", **narrow)])
        assert found.outcome is Outcome.PASS, claim
    assert excused(judged("finite-width-gap", ideal(**narrow)), "widen the network")


@pytest.mark.parametrize("which", ["outputs", "test_outputs"])
@pytest.mark.parametrize("wrong", [1e-3, np.nan])
def test_a_gap_that_stays_fails_the_limit_and_the_order(ideal, judged, which, wrong):
    evidence = ideal(scale=0.5)

    def off(run):
        outputs = np.array(getattr(run.training, which))
        outputs[1:] += wrong * evidence.scale
        changed = replace(run.training, **{which: jnp.asarray(outputs)})
        return LazyRun(run.laziness, changed)

    lazy = tuple(off(run) for run in evidence.lazy)
    for claim in ("lazy-limit", "lazy-order"):
        assert judged(claim, evidence, lazy=lazy).outcome is Outcome.FAIL
    slope = judged("lazy-order", evidence, lazy=lazy).measured
    assert not abs(slope) > 0.05 or np.isnan(wrong)


def test_the_order_of_a_smooth_network_is_one_and_half_of_it_is_a_failure(ideal, judged):
    evidence = ideal(scale=0.5)
    smooth = ngd.networks.mlp(32, [4096, 4096], 1, "erf")
    found = judged("lazy-order", evidence, network=smooth)
    assert found.outcome is Outcome.PASS
    assert found.measured == pytest.approx(1, abs=1e-3)
    assert (found.predicted, found.tolerance) == (1, 0.25)

    def half(run):
        off = run.laziness**0.5 * (np.asarray(run.training.outputs) - evidence.training.outputs[0])
        return LazyRun(
            run.laziness, replace(run.training, outputs=run.training.outputs + 0.1 * off)
        )

    lazy = tuple(half(run) for run in evidence.lazy)
    assert judged("lazy-order", evidence, network=smooth, lazy=lazy).outcome is Outcome.FAIL
    kinked = judged("lazy-order", evidence, lazy=lazy)
    assert kinked.outcome is Outcome.PASS
    assert (kinked.predicted, kinked.tolerance) == (0.5, 0.25)


def test_a_gap_within_rounding_bounds_the_order_from_below(ideal, judged):
    evidence = ideal(scale=0.5)
    lazy = (evidence.lazy[0], LazyRun(1e-4, evidence.training))
    found = judged("lazy-order", evidence, lazy=lazy)
    assert found.outcome is Outcome.PASS and found.measured > 1
    assert excused(judged("lazy-order", evidence, lazy=lazy[1:] * 2), "round-off at every epsilon")
    small = LazyRun(0.01, offset(evidence.training, 1e-9))
    assert undecided(
        judged("lazy-order", evidence, lazy=(small, lazy[1])), "only at epsilon = 0.01"
    )
    assert excused(judged("lazy-order", evidence, lazy=lazy[:1]), "two epsilons")


def test_a_furthest_run_that_is_not_a_number_has_no_order(ideal, judged):
    evidence = ideal(scale=0.5)
    far, *others = evidence.lazy
    nowhere = LazyRun(far.laziness, offset(far.training, np.nan))
    found = judged("lazy-order", evidence, lazy=(nowhere, *others))
    assert found.outcome is Outcome.FAIL and found.measured == np.inf


@pytest.mark.parametrize("how", ["not a number", "diverged", "short"])
def test_a_middle_run_that_is_not_whole_fails_the_limit_and_the_order(ideal, judged, how):
    evidence = ideal(scale=0.5)
    far, middle, near = evidence.lazy
    run = middle.training
    bad = {
        "not a number": replace(offset(run, np.nan), test_outputs=run.test_outputs * np.nan),
        "diverged": replace(run, diverged=True),
        "short": replace(run, outputs=run.outputs[:2], losses=run.losses[:2]),
    }[how]
    lazy = (far, LazyRun(middle.laziness, bad), near)
    for claim in ("lazy-limit", "lazy-order"):
        assert judged(claim, evidence, lazy=lazy).outcome is Outcome.FAIL
    # And the last one all that read it.
    lazy = (far, middle, LazyRun(near.laziness, bad))
    for claim in ("lazy-limit", "lazy-order", "distinct-minima", "contraction"):
        found = judged(claim, evidence, [ideal("kfac")], lazy=lazy)
        assert found.outcome is Outcome.FAIL, claim


def test_a_gap_that_grows_as_epsilon_falls_fails(ideal, judged):
    evidence = ideal(scale=0.5)
    lazy = (
        LazyRun(1e-2, evidence.training),
        LazyRun(1e-4, offset(evidence.training, 1e-3)),
    )
    found = judged("lazy-order", evidence, lazy=lazy)
    assert found.outcome is Outcome.FAIL and found.measured < 0


def test_an_error_of_alpha_grows_with_the_steps_near_the_edge(ideal, judged):
    """``t s (1 - s)^(t - 1)`` times: at s = 1.7 a bias of 4 % of alpha changes the residual by more than 8 %."""
    evidence = ideal(scale=1.7, steps=5)
    times = np.arange(6)[:, None, None]
    biased = []
    for run in evidence.lazy:
        residual = np.asarray(run.training.outputs[0]) - evidence.targets
        path = evidence.targets + (1 - 1.7 * 0.96) ** times * residual
        biased.append(LazyRun(run.laziness, replace(run.training, outputs=jnp.asarray(path))))
    found = judged("contraction", evidence, lazy=tuple(biased), damping_bias=0.04)
    assert found.outcome is Outcome.PASS
    assert abs(found.measured - found.predicted) > 0.08
    found = judged("contraction", evidence, lazy=tuple(biased), damping_bias=0.005)
    assert found.outcome is Outcome.FAIL


@pytest.mark.parametrize("claim", ["lazy-limit", "lazy-order", "lazy-parameters"])
def test_without_a_lazier_run_there_is_no_limit(ideal, judged, claim):
    assert undecided(judged(claim, ideal(lazy=False)), "epsilon below 1")


@pytest.mark.parametrize("error, outcome", [(1e-9, "PASS"), (1e-6, "FAIL"), (np.nan, "FAIL")])
def test_a_step_that_the_map_does_not_describe_fails(ideal, judged, error, outcome):
    found = judged("step-map", ideal(), step_error=error)
    assert found.outcome == outcome
    assert found.tolerance == pytest.approx(2.0**-26 + 2.0**-52 * (100 + 100))
    across = judged("step-map", ideal(), step_error=1e-4, step_amplification=1e10)
    assert across.outcome is Outcome.PASS
    weak = judged("step-map", ideal(), step_amplification=1e13)
    assert weak.outcome is Outcome.INCONCLUSIVE and weak.why.startswith("cannot tell")
    assert undecided(judged("step-map", ideal(), step_error=None), "no step")


# --- not applicable, with the reason -------------------------------------------------------------


def undecided(verdict, *words):
    """As `excused`, of evidence that is missing or decides nothing."""
    assert verdict.outcome is Outcome.INCONCLUSIVE
    return excused(replace(verdict, outcome=Outcome.NOT_APPLICABLE), *words)


def excused(verdict, *words):
    assert verdict.outcome is Outcome.NOT_APPLICABLE
    assert (verdict.measured, verdict.predicted, verdict.tolerance) == (None, None, None)
    for word in words:
        assert word in verdict.why
    return True


@pytest.mark.parametrize("claim", ["contraction", "one-step", "divergence-edge"])
def test_statements_for_the_squared_error_do_not_apply_to_cross_entropy(ideal, judged, claim):
    assert excused(judged(claim, ideal(), [ideal("kfac")], loss="cross-entropy"), "MSE")


def test_gradient_descent_is_compared_under_the_squared_error_only(ideal, judged):
    assert excused(judged("gd-slower", ideal("identity"), loss="cross-entropy"), "MSE")


@pytest.mark.parametrize("claim", OF_ALPHA)
def test_a_broken_condition_is_the_reason_given(ideal, judged, claim):
    conditions = (replace(broken_condition("fine"), holds=True), broken_condition())
    verdict = judged(claim, ideal(), conditions=conditions)
    assert excused(verdict, "singular, for a reason")


def test_conditions_that_were_not_checked_decide_nothing(ideal, judged):
    for claim in (*OF_ALPHA, "step-scale"):
        assert undecided(judged(claim, ideal(), conditions=None), "were not checked")


def test_an_unknown_bound_on_what_damping_takes_decides_nothing(ideal, judged):
    for claim in ("isotropy", "constant", "contraction"):
        assert undecided(judged(claim, ideal("unit-wise"), damping_bias=None), "no bound is known")


def test_a_unit_wise_gap_beyond_the_width_decides_nothing(ideal, judged):
    """Its steps change K by more than the Jacobian changes; what is not a number fails all the same."""
    evidence = ideal("unit-wise", scale=0.5)
    far = offset(evidence.training, 1.0)
    assert undecided(judged("finite-width-gap", evidence, training=far), "raise the damping")
    nowhere = offset(evidence.training, np.nan)
    assert judged("finite-width-gap", evidence, training=nowhere).outcome is Outcome.FAIL


@pytest.mark.parametrize("claim", OF_ALPHA)
def test_a_huge_damping_takes_alpha_away_and_is_named(ideal, judged, claim):
    verdict = judged(claim, ideal(), damping=7.5, damping_bias=3.0)
    assert excused(verdict, "damping 7.5", "lower it")


@pytest.mark.parametrize("claim", ["contraction", "finite-width-gap", "lazy-parameters"])
@pytest.mark.parametrize("scale", [2.0, 2.5])
def test_trajectories_beyond_the_edge_of_stability_are_not_judged(ideal, judged, claim, scale):
    assert excused(judged(claim, ideal(scale=scale)), f"{scale:.2g}", "between 0 and 2")


@pytest.mark.parametrize("name", ["identity", "entry-wise"])
@pytest.mark.parametrize("claim", ["finite-width-gap", "lazy-parameters", "distinct-minima"])
def test_nor_are_those_of_methods_without_alpha(ideal, judged, name, claim):
    assert excused(judged(claim, ideal(name, scale=2.5)), "between 0 and 2")


def test_a_map_with_a_negative_eigenvalue_has_no_stable_step(ideal, judged):
    spectrum = ideal().spectrum.copy()
    spectrum[0] = -0.5
    assert excused(judged("finite-width-gap", ideal(), spectrum=spectrum), "-0.5")


@pytest.mark.parametrize("claim", ["contraction", "finite-width-gap"])
def test_a_network_too_narrow_for_its_samples_is_not_judged_at_one(ideal, judged, claim):
    narrow = ideal(width=32, num_samples=64, lazy=False)
    assert excused(judged(claim, narrow), "widen the network")


def test_nor_one_whose_linearisation_leaves_the_lazy_regime(ideal, judged):
    verdict = judged("finite-width-gap", ideal(), displacement=1.2)
    assert excused(verdict, "1.2", "lazy regime", "damping")
    for claim in ("one-step", "lazy-limit", "lazy-parameters"):
        assert judged(claim, ideal(), displacement=1.2).outcome is Outcome.PASS
        far = judged(claim, ideal(), displacement=1.2e3)
        assert excused(far, "1.2e+03", "lazy regime", "epsilon = 1e-06")


def test_a_gap_at_one_between_a_tenth_and_what_the_width_allows_cannot_be_told(ideal, judged):
    evidence = ideal(scale=0.5)
    outcomes = []
    for share in (0.05, 0.2, 0.9):
        off = share * evidence.travel() * evidence.scale / evidence.num_samples**0.5
        run = offset(evidence.training, off)
        verdict = judged("finite-width-gap", evidence, training=run, displacement=0.5)
        outcomes.append((str(verdict.outcome), round(verdict.power, 3)))
    assert outcomes == [("PASS", 0.1), ("INCONCLUSIVE", 0.5), ("FAIL", 0.1)]


@pytest.mark.parametrize("claim", ["contraction", "finite-width-gap", "lazy-parameters"])
def test_outputs_that_do_not_move_show_nothing(ideal, judged, claim):
    assert excused(judged(claim, ideal(scale=1e-12)), "round-off", "step scale")


def test_a_tolerance_as_wide_as_the_effect_is_no_test(ideal, judged):
    """It is no verdict either: INCONCLUSIVE, with the size of what would pass."""
    for claim in ("isotropy", "constant", "contraction", "one-step"):
        verdict = judged(claim, ideal("unit-wise"), damping_bias=0.06)
        assert verdict.outcome is Outcome.INCONCLUSIVE and 0.12 < verdict.power < 0.2, claim
        assert f"cannot tell: an error of {verdict.power:.2g}" in verdict.why
        assert judged(claim, ideal("unit-wise"), damping_bias=0.02).outcome is Outcome.PASS


def test_a_condition_that_the_solves_remedy_blocks_nothing(ideal, judged):
    remedied = replace(broken_condition(), blocking=False)
    assert judged("isotropy", ideal(), conditions=(remedied,)).outcome is Outcome.PASS


def test_gradient_descent_is_no_slower_in_theory_beyond_step_scale_one(ideal, judged):
    gd, exact = ideal("identity", scale=1.9), ideal(scale=1.9)
    assert excused(judged("gd-slower", gd, [exact]), "theory leaves")


def test_gradient_descent_on_one_sample_is_as_fast(ideal, judged):
    gd, exact = ideal("identity", num_samples=1), ideal(num_samples=1)
    assert excused(judged("gd-slower", gd, [exact]), "theory leaves")


def test_a_method_with_the_same_minimum_is_no_rival(ideal, judged):
    exact = ideal()
    twin = replace(ideal("kfac"), prediction=exact.prediction)
    assert excused(judged("distinct-minima", exact, [twin]), "same minimum")
    verdict = judged("distinct-minima", exact, [twin, ideal("block-diagonal")])
    assert verdict.outcome is Outcome.PASS
    assert "block-diagonal" in verdict.why


def test_a_network_too_narrow_to_speak_of_anisotropy(ideal, judged):
    verdict = judged("anisotropic", ideal("identity", width=64))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.power == pytest.approx(2 / 128**0.5)


def test_an_ntk_near_a_multiple_of_the_identity_is_no_spectrum(ideal, judged):
    assert excused(judged("anisotropic", ideal("identity"), ntk_condition=1.5), "multiple of I")


def test_the_unit_wise_map_of_a_linear_model_is_held_to_round_off(ideal, judged):
    evidence = ideal("unit-wise", depth=1)
    status = judged("isotropy", evidence, isotropy=anisotropic_map(evidence, 1e-3)).outcome
    assert status is Outcome.FAIL


def test_one_step_needs_its_own_step(ideal, judged):
    assert excused(judged("one-step", ideal(), first_step=None), "no step of 1/alpha")


@pytest.mark.parametrize("claim", ["one-step", "lazy-parameters"])
def test_without_a_step_there_is_nothing_to_judge(ideal, judged, claim):
    assert excused(judged(claim, ideal(steps=0)), "no step")


def test_gradient_descent_without_a_step_is_not_judged(ideal, judged):
    assert excused(judged("gd-slower", ideal("identity", steps=0)), "no step")


def test_the_edge_needs_a_run_beyond_it(ideal, judged):
    assert excused(judged("divergence-edge", ideal(), beyond_edge=None), "no run")


def test_the_premise_of_the_edge_is_its_own_travel(ideal, judged):
    """It was the main run's: 4.4 residuals were judged by the one of a run at 1/alpha, or 37 of one that diverges."""
    narrow = ideal(width=512)
    plain = LazyRun(1.0, narrow.beyond_edge.training)
    assert narrow.width_ratio() * narrow.travel() < 1 < narrow.width_ratio() * 4.375
    why = "predicted to travel 4.4 times the residual"
    assert excused(judged("divergence-edge", narrow, beyond_edge=plain), why)
    assert "lower --laziness" in judged("divergence-edge", narrow, beyond_edge=plain).why
    far = ideal(width=512, scale=2.2, steps=20)
    assert far.travel() > 37 and far.width_ratio() * 0.01**far.order * far.travel() > 1
    assert judged("divergence-edge", far).outcome is Outcome.PASS
    assert judged("one-step", far).outcome is Outcome.PASS


def test_the_parameters_of_the_edge_go_as_far_as_its_outputs(ideal, judged):
    """A run at 0.01/alpha that moves a layer by 0.01 says that one at 2.5/alpha moves it by 1.5."""
    slow = ideal(scale=0.01)
    way = slow.training_travel()
    assert way == pytest.approx(1 - 0.99**3)
    plain = LazyRun(1.0, slow.beyond_edge.training)
    assert slow.way(4.375) == pytest.approx((4.375, 0.01 * 4.375 / way))
    assert slow.way() == (slow.travel(), 0.01)
    assert excused(judged("divergence-edge", slow, beyond_edge=plain), "changes a layer by 1.5")
    small = {"beyond_edge": plain, "displacement": 1e-4}
    assert "changes a layer" not in judged("divergence-edge", slow, **small).why
    assert replace(slow, solve_condition=1.0).jacobian_change(4.375) == pytest.approx(
        0.0437 / way, rel=2e-3
    )


def test_the_edge_needs_a_map_that_is_known_well_enough(ideal, judged):
    assert excused(judged("divergence-edge", ideal(), damping_bias=0.15), "0.3 alpha off")


def test_distinct_minima_needs_a_test_set(ideal, judged):
    bare = every_run(ideal(), lambda run: replace(run, test_outputs=None))
    assert excused(judged("distinct-minima", ideal(), **bare), "no test set")


def test_distinct_minima_needs_a_rival(ideal, judged):
    assert excused(judged("distinct-minima", ideal()), "no other approximation")


def test_minima_nearer_to_each_other_than_the_finite_width_cannot_be_told_apart(ideal, judged):
    exact = ideal(lazy=False)
    near = replace(exact.training, test_outputs=exact.training.test_outputs + 0.01)
    shifted = replace(exact.training, test_outputs=exact.training.test_outputs + 0.008)
    twin = replace(ideal("kfac"), prediction=shifted)
    assert undecided(judged("distinct-minima", exact, [twin], training=near), "exact and kfac")


def test_a_spectrum_needs_ten_rows(ideal, judged):
    assert excused(judged("anisotropic", ideal("identity", num_samples=9)), "fewer than ten")


def test_claims_about_alpha_do_not_speak_of_methods_without_one(ideal):
    spoken_of = {v.claim for v in judge({"entry-wise": ideal("entry-wise")})}
    assert spoken_of == set(WITHOUT_ALPHA)


# --- what the theory says of an approximation ----------------------------------------------------


@dataclass(frozen=True)
class Unstated(ngd.fisher.Approximation):
    """One of a user: it lists conditions and no constant."""

    name = "input-side"
    requirements = ("distinct-inputs", "full-rank-inputs")

    def precondition(self, lin, cotangent, damping):
        raise NotImplementedError


@dataclass(frozen=True)
class Anisotropic(Unstated):
    """One of a user of which the theory says that K keeps its spectrum."""

    name = "diagonal"
    requirements = ("isotropic-at-some-width",)


def claims_about(evidence):
    """Every verdict on one approximation, by claim."""
    return {v.claim: v for v in experiment.judge({evidence.name: evidence})}


@pytest.mark.parametrize("dispersion", [1e-9, 0.043, 0.085, 0.154, 3.0])
def test_what_the_theory_does_not_speak_of_is_not_judged(ideal, dispersion):
    """The dispersions of `InputSide` of docs/how-to/new_approximation.md at M = 2048, 512 and 128 among them."""
    evidence = replace(ideal("identity"), approximation=Unstated())
    map = replace(evidence.isotropy, dispersion=jnp.asarray(dispersion))
    found = claims_about(replace(evidence, isotropy=map))
    assert "anisotropic" not in found and "constant" not in found
    assert found["isotropy"].outcome is Outcome.NOT_APPLICABLE
    assert "the theory states nothing of input-side" in found["isotropy"].why
    # What it does with its own map is judged all the same.
    assert found["finite-width-gap"].outcome is Outcome.PASS


def test_what_the_theory_calls_anisotropic_is_judged_so(ideal):
    evidence = replace(ideal("identity"), approximation=Anisotropic())
    assert claims_about(evidence)["anisotropic"].outcome is Outcome.PASS
    flat = replace(evidence.isotropy, dispersion=jnp.asarray(1e-3))
    found = claims_about(replace(evidence, isotropy=flat))
    assert found["anisotropic"].outcome is Outcome.FAIL and "isotropy" not in found


def test_the_theory_says_of_every_approximation_one_thing(ideal):
    said = {}
    for name in ngd.fisher.APPROXIMATIONS:
        found = claims_about(ideal(name))
        said[name] = {"isotropy", "anisotropic"} & set(found)
    spectrum = {"identity", "entry-wise", "quasi-diagonal", "shampoo"}
    assert said == {n: {"anisotropic" if n in spectrum else "isotropy"} for n in said}


def test_a_constant_of_the_trace_alone_says_nothing_of_isotropy(ideal):
    """EKFAC's dispersion is 2/(N sqrt(C)) for random eigenvectors, and was 4.8 times that on MNIST."""
    evidence = ideal("ekfac")
    found = claims_about(evidence)
    assert found["constant"].outcome is Outcome.PASS
    assert found["isotropy"].outcome is Outcome.NOT_APPLICABLE
    assert "the trace of K alone for ekfac" in found["isotropy"].why
    assert not {"contraction", "one-step", "divergence-edge", "step-scale"} & set(found)
    assert found["finite-width-gap"].outcome is Outcome.PASS
    off = replace(evidence, isotropy=replace(evidence.isotropy, constant=jnp.asarray(1.01 * 33)))
    assert claims_about(off)["constant"].outcome is Outcome.FAIL


def test_a_constant_that_is_not_known_here_is_no_spectrum(ideal):
    """Too narrow for its constant, `kfac-tridiagonal` was judged as anisotropic."""
    evidence = replace(ideal("kfac-tridiagonal"), constant=None)
    found = claims_about(evidence)
    assert found["isotropy"].outcome is Outcome.NOT_APPLICABLE and "anisotropic" not in found
