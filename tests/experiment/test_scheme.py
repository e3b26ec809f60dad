"""Mini-batches and momentum in an experiment: what is judged, and what is not stated for them."""

from dataclasses import replace
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ngd_theory import dynamics, experiment
from ngd_theory.errors import InputError
from ngd_theory.experiment import Outcome, judge, parse
from ngd_theory.experiment.gaps import mean_contraction
from ngd_theory.experiment.scheme import Scheme

SMALL = {
    **{"dataset": "gaussian", "input_dim": 24, "num_train": 8, "num_test": 4, "width": 256},
    **{"steps": 4, "activation": "tanh", "approximations": ("identity", "exact", "kfac")},
}
SCHEMES = {
    "batches": {"batch_size": 4},
    "spring": {
        "batch_size": 4,
        "batch_order": "independent",
        "momentum": 0.6,
        "momentum_kind": "spring",
    },
    "heavy ball": {"momentum": 0.5},
}
#: Statements about a step or K, and about training as predicted.
OF_THE_MAP = ("isotropy", "constant", "step-scale", "damped-map", "step-map")
OF_TRAINING = ("lazy-limit", "lazy-order", "lazy-parameters")


@pytest.fixture(scope="module", params=SCHEMES, ids=str)
def found(request):
    return experiment.verify(parse({**SMALL, **SCHEMES[request.param]}))


def test_training_is_judged_by_its_own_prediction(found):
    verdicts = {(v.claim, v.approximation): v for v in found.verdicts}
    assert not [v for v in found.verdicts if v.outcome is Outcome.FAIL]
    for claim in (*OF_THE_MAP, *OF_TRAINING):
        assert verdicts[claim, "exact"].outcome is Outcome.PASS, verdicts[claim, "exact"]
    apart = (("contraction", "exact"), ("one-step", "exact"), ("divergence-edge", "exact"))
    for claim, name in (*apart, ("gd-slower", "identity")):
        assert verdicts[claim, name].outcome is Outcome.NOT_APPLICABLE
        assert "plain steps on the full batch" in verdicts[claim, name].why


def test_a_prediction_of_other_steps_fails(found):
    plain = experiment.verify(parse(SMALL)).evidence["exact"]
    own = found.evidence["exact"]
    off = replace(own, prediction=replace(plain.prediction, displacement=None))
    failed = {v.claim for v in judge({"exact": off}) if v.outcome is Outcome.FAIL}
    assert {"lazy-limit", "lazy-order"} <= failed


def test_errors_of_a_prediction_are_not_planted_where_it_is_another():
    """What is planted predicts plain steps: beside others anything would be noticed."""
    settings = parse({**SMALL, **SCHEMES["batches"]})
    planted = experiment.verify(settings, plant=("step-size", "damping-twice")).noticed
    found = {p.planted.name: p.applies for p in planted}
    assert found == {"step-size": False, "damping-twice": True}


def test_a_step_is_scaled_by_alpha_of_what_it_sees():
    found = experiment.verify(parse({**SMALL, **SCHEMES["batches"]})).evidence
    assert found["exact"].step_size == pytest.approx(0.5)
    # B (L - 1) + 1 of 4 samples; alpha of K itself is that of 8.
    assert found["kfac"].step_size == pytest.approx(0.5 / 9)
    assert found["kfac"].constant == pytest.approx(17)
    full = experiment.verify(parse({**SMALL, **SCHEMES["heavy ball"]})).evidence
    assert full["kfac"].step_size == pytest.approx(0.5 / 17)


def test_all_samples_without_momentum_are_plain_steps():
    assert Scheme.of(parse({**SMALL, "batch_size": 8}), 8).words == ""
    assert Scheme.of(parse(SMALL), 8).options(1.0) == {}


def test_the_bound_is_that_of_all_subsets():
    settings = parse({**SMALL, "batch_size": 3, "batch_order": "independent", "step_scale": 1.0})
    scheme = Scheme.of(settings, 8)
    kernel = np.cov(np.random.default_rng(0).normal(size=(8, 20)))
    subsets = jnp.asarray(list(combinations(range(8), 3)))
    wanted = float(dynamics.contraction_bound(jnp.asarray(kernel), subsets)) ** 0.5
    assert scheme.bound(kernel, 1) == pytest.approx(wanted, rel=1e-12)
    # Of many subsets it is a sample's.
    many = Scheme.of(settings, 30)
    large = np.cov(np.random.default_rng(1).normal(size=(30, 80)))
    other = dynamics.draw_batches(jax.random.key(5), 30, 3, 5000, "independent")
    assert many.bound(large, 1) == pytest.approx(
        float(dynamics.contraction_bound(jnp.asarray(large), other)) ** 0.5, abs=0.01
    )
    # None where it is not stated.
    for changes in ({"batch_order": "epochs"}, {"momentum": 0.5}, {"batch_size": 8}):
        assert Scheme.of(settings.model_copy(update=changes), 8).bound(kernel, 1) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 9}, ["batch_size is 9", "8 training samples"]),
        ({"batch_size": 0}, ["batch-size", "greater than or equal to 1"]),
        ({"momentum": 1.0}, ["momentum", "less than 1"]),
        ({"momentum": float("nan")}, ["momentum"]),
        ({"momentum_kind": "nesterov"}, ["heavy-ball", "spring"]),
        ({"batch_order": "random"}, ["epochs", "independent"]),
        ({"kernel": "infinite", "batch_size": 4}, ["full-batch steps without momentum"]),
        ({"kernel": "infinite", "momentum": 0.5}, ["full-batch steps without momentum"]),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_words(changes, words):
    with pytest.raises(InputError) as caught:
        parse({**SMALL, **changes})
    for word in words:
        assert word in str(caught.value)


def test_a_mean_contraction_ends_where_rounding_decides():
    assert mean_contraction(0.5 ** np.arange(10)) == pytest.approx(0.5)
    assert mean_contraction(np.append(0.5 ** np.arange(5), [1e-14, 1e-14])) == pytest.approx(
        (1e-14) ** 0.2
    )
    for norms in ([1.0], [0.0, 0.0], [1.0, np.nan], [1.0, np.inf]):
        assert np.isnan(mean_contraction(norms))
