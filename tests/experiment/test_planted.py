"""Every planted error is noticed, by a claim that passes without it; and nothing is noticed where nothing is wrong."""

from dataclasses import replace

import numpy as np
import pytest

from ngd_theory import experiment
from ngd_theory.errors import InputError
from ngd_theory.experiment import PLANTED, Experiment, Outcome
from ngd_theory.experiment.planted import Planted, _measured, chosen, judge_planted

#: What says nothing of a run: its depth is a multiple of 3, or its loss another.
NOWHERE = {"mse": {"rounded-down", "no-outer-product"}}


@pytest.fixture(scope="module")
def planted():
    """The run of `real` with every error planted."""
    settings = {"dataset": "gaussian", "input_dim": 24, "num_train": 12, "num_test": 8}
    return experiment.verify(
        experiment.parse({**settings, "width": 256, "steps": 3}), plant=("all",)
    )


@pytest.fixture(scope="module")
def planted_in(planted):
    """What it was measured on."""
    return Experiment.begin(planted.settings, planted.dataset)


def test_every_planted_error_is_noticed(planted):
    assert len(planted.noticed) == len(PLANTED) >= 16
    assert {n.planted.name for n in planted.noticed if not n.applies} == NOWHERE["mse"]
    missed = [n.planted.name for n in planted.noticed if n.applies and not n.noticed]
    assert not missed
    passed = {(v.claim, v.approximation) for v in planted.verdicts if v.outcome is Outcome.PASS}
    for n in planted.noticed:
        if n.applies:
            strongest = n.strongest
            assert strongest.outcome is Outcome.FAIL and strongest.excess > 1
            assert (strongest.claim, strongest.approximation) in passed, n.planted.name


@pytest.mark.parametrize(
    "name, claim",
    [
        ("alpha", "constant"),
        ("step-size", "lazy-limit"),
        ("step-scale", "step-scale"),
        ("distance", "lazy-parameters"),
        ("damping-twice", "damped-map"),
        ("test-offset", "lazy-limit"),
    ],
)
def test_one_in_a_thousand_is_noticed_in_every_method_whose_theory_is_exact(planted, name, claim):
    (found,) = (n for n in planted.noticed if n.planted.name == name)
    for approximation, verdict in found.verdicts.items():
        sharp = approximation != "unit-wise" or name != "alpha"
        stated = name != "step-scale" or planted.evidence[approximation].constant is not None
        if sharp and stated:
            assert verdict is not None, approximation
    assert claim in {v.claim for v in found.verdicts.values() if v is not None}


def test_nothing_is_noticed_where_nothing_is_wrong(planted, planted_in):
    harmless = Planted(
        "none", "nothing", (), lambda experiment, evidence, others: replace(evidence)
    )
    (found,) = judge_planted(planted_in, planted.evidence, planted.verdicts, [harmless])
    assert found.applies and not found.noticed
    assert set(found.verdicts) == set(planted.evidence)


def test_a_measurement_that_is_left_as_it_is_is_not_noticed(planted, planted_in):
    """What a run switched is not forgotten when its outputs are changed."""
    name = "exact"
    right = planted.evidence[name]
    lazy = tuple(replace(run, switched=3) for run in right.lazy)
    evidence = {**planted.evidence, name: replace(right, lazy=lazy)}
    error = Planted("same", "", (name,), lambda x, e, others: _measured(e, lambda run: run))
    (found,) = judge_planted(planted_in, evidence, experiment.judge(evidence), [error])
    assert found.applies and not found.noticed
    assert [run.switched for run in _measured(evidence[name], lambda run: run).lazy] == [3, 3, 3]


def test_an_error_that_changes_nothing_does_not_apply():
    """A linear model has constant sensitivities; a cnn has no constant in the paper."""
    linear = {"dataset": "gaussian", "input_dim": 24, "num_train": 8, "num_test": 6, "depth": 1}
    linear |= {"steps": 2, "approximations": ("exact",)}
    found = experiment.verify(experiment.parse(linear), plant=("training-sensitivities", "alpha"))
    first, second = found.noticed
    assert not first.applies and second.noticed


def test_what_failed_before_is_not_noticed_again(planted, planted_in):
    gd = planted.evidence["identity"]
    off = {**planted.evidence, "identity": replace(gd, step_error=1.0)}
    error = Planted("again", "again", ("identity",), lambda experiment, evidence, others: evidence)
    (found,) = judge_planted(planted_in, off, experiment.judge(off), [error])
    assert not found.noticed
    (found,) = judge_planted(planted_in, off, planted.verdicts, [error])
    assert found.strongest.claim == "step-map"


@pytest.mark.slow
def test_errors_of_two_depths_and_of_cross_entropy():
    settings = {"dataset": "gaussian", "input_dim": 24, "num_train": 8, "num_test": 6, "steps": 2}
    deep = {**settings, "depth": 4, "activation": "tanh", "output_dim": 3, "width": 128}
    found = experiment.verify(
        experiment.parse({**deep, "approximations": ("exact", "block-tridiagonal")}), plant=("all",)
    )
    assert [n.planted.name for n in found.noticed if n.applies and not n.noticed] == []
    (rounded,) = (n for n in found.noticed if n.planted.name == "rounded-down")
    assert rounded.strongest.claim == "constant"
    soft = {**settings, "loss": "cross-entropy", "output_dim": 3, "width": 256, "damping": 1e-9}
    found = experiment.verify(experiment.parse(soft), plant=("all",))
    here = {n.planted.name: n for n in found.noticed if n.applies}
    assert [name for name, n in here.items() if not n.noticed] == []
    assert here["no-outer-product"].strongest.claim == "damped-map"
    assert {"late", "late-on-test", "distance", "damping-twice", "cut-short"} <= set(here)


def test_names_are_checked():
    assert chosen(()) == ()
    assert chosen(("all",)) == tuple(PLANTED.values())
    assert [p.name for p in chosen(("late", "alpha"))] == ["late", "alpha"]
    with pytest.raises(InputError, match="alfa"):
        chosen(("alfa",))


def test_a_verdict_says_how_many_tolerances_it_is_off(planted):
    verdict = planted.verdicts[0]
    for measured, tolerance, excess in ((0.3, 0.1, 3.0), (0.0, 0.0, 0.0), (np.nan, 0.1, np.inf)):
        numbers = {"measured": measured, "predicted": 0.0, "tolerance": tolerance}
        assert replace(verdict, **numbers).excess == pytest.approx(excess)
    assert replace(verdict, measured=1.0, predicted=0.0, tolerance=0.0).excess == np.inf
