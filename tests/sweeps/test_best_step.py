"""The exponent of the best step size: of made-up losses, and what shows nothing."""

import numpy as np
import pytest

from ngd_theory import sweeps
from ngd_theory.errors import InputError
from ngd_theory.experiment import parse
from ngd_theory.sweeps import Outcome
from ngd_theory.sweeps.theory_cells import TheoryCell

SCALES = [0.5, 1.0, 2.0, 4.0]
CLAIM = {"statement": "s", "statistic": "best-step", "of": "train_loss", "rule": "in [0.9, 1.1]"}


def losses(best, power=1.0):
    """A measure: eta is the step scale times M^power, and the loss is least at ``best`` step scales."""

    def measure(cell):
        s = cell.settings
        eta = s.step_scale * float(s.width) ** power
        return [
            {
                **{
                    "approximation": "exact",
                    "applicable": True,
                    "reason": "",
                    "step": t,
                    "layer": 0,
                },
                # Before the last step the order is another.
                **{
                    "train_loss": (-1) ** (t + 1) * abs(np.log(s.step_scale / best(s))),
                    "step_size": eta,
                },
            }
            for t in range(2)
        ]

    return measure


@pytest.fixture
def judged(make_study, tmp_path):
    def run(measure, **claim):
        study = make_study(claims=[{**CLAIM, **claim}], step_scales=SCALES, measure=["trajectory"])
        (verdict,) = sweeps.run(study, tmp_path, measure=measure).verdicts
        return verdict

    return run


def test_the_exponent_is_that_of_the_step_size_with_the_smallest_last_loss(judged):
    verdict = judged(losses(lambda s: 2.0))
    assert verdict.outcome is Outcome.PASS
    assert verdict.estimate.value == pytest.approx(1.0, abs=1e-12)


def test_a_best_step_scale_that_depends_on_the_width_is_seen(judged):
    # 1 at M = 16, 2 at 32 and 64.
    verdict = judged(losses(lambda s: 1.0 if s.width == 16 else 2.0, power=0.0))
    expected = np.polyfit(np.log([16, 32, 64]), np.log([1, 2, 2]), 1)[0]
    assert verdict.estimate.value == pytest.approx(expected)
    assert verdict.outcome is Outcome.FAIL


@pytest.mark.parametrize("end", [0.5, 4.0])
def test_a_best_at_an_end_of_the_grid_shows_nothing(judged, end):
    verdict = judged(losses(lambda s: end if s.seed == 1 and s.width == 32 else 2.0))
    assert verdict.outcome is Outcome.INCONCLUSIVE


def test_a_loss_that_is_no_number_shows_nothing(judged):
    def measure(cell):
        rows = losses(lambda s: 2.0)(cell)
        if cell.settings.seed == 0 and cell.settings.step_scale == 4.0:
            rows[-1]["train_loss"] = np.nan
        return rows

    assert judged(measure).outcome is Outcome.INCONCLUSIVE


def test_settings_beside_the_step_scale_are_not_mixed(make_study, tmp_path):
    """Of two parameterisations each has a best of its own."""

    def best(s):
        return 2.0 if s.parameterization == "ntk" or s.width == 16 else 1.0

    study = make_study(
        claims=[CLAIM],
        step_scales=SCALES,
        measure=["trajectory"],
        grid={"width": [16, 32, 64], "seed": [0, 1, 2], "parameterization": ["ntk", "mup"]},
    )
    (verdict,) = sweeps.run(study, tmp_path, measure=losses(best)).verdicts
    assert verdict.estimate is not None
    # 1 for one, and 1 and a slope for the other; of both together, with ties, it would be one of the two.
    slope = np.polyfit(np.log([16, 32, 64]), np.log([2, 1, 1]), 1)[0]
    assert verdict.estimate.value == pytest.approx(1 + slope / 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step_scales": [0.5, 1.0]}, "a best step over 'step_scale' takes at least 3 values"),
        ({"grid": {"width": [16, 32], "seed": [0]}}, "an exponent over 'width' takes at least 3"),
        ({"claims": [{**CLAIM, "of": None}]}, "column"),
        ({"measure": ["isotropy"]}, "needs 'trajectory' in measure"),
    ],
    ids=str,
)
def test_a_claim_that_cannot_be_judged_is_refused(make_study, changes, words):
    values = {"claims": [CLAIM], "step_scales": SCALES, "measure": ["trajectory"], **changes}
    with pytest.raises(InputError, match=words):
        make_study(**values)


def test_a_study_of_maximal_update_measures_no_limit(make_study):
    how = {"measure": ["limit"], "network": {"parameterization": "mup"}}
    with pytest.raises(
        InputError, match="measure 'limit': parameterization = mup has no kernel limit"
    ):
        make_study(**how)


SETTINGS = {
    "dataset": "gaussian",
    "input_dim": 8,
    "num_train": 4,
    "num_test": 0,
    "steps": 2,
    "activation": "tanh",
    "width": 16,
    "approximations": ("exact",),
}


def test_the_change_of_the_features_is_that_of_the_trained_network():
    import jax

    from ngd_theory import dynamics, fisher
    from ngd_theory.experiment.building import load_data, make_network

    settings = parse({**SETTINGS, "parameterization": "mup"})
    *_, last = TheoryCell(settings, measured=("features",)).measure()
    dataset = load_data(settings)
    net = make_network(settings, dataset)
    start = net.init(jax.random.key(0))
    x, y = jax.numpy.asarray(dataset.inputs), jax.numpy.asarray(dataset.targets)
    trained = dynamics.train(net, start, x, y, fisher.Exact(), 0.5, 2, 1e-8 / 16).params

    def seen(params):
        u = h = np.asarray(x)
        for layer in params[:-1]:
            u = 2**0.5 / np.sqrt(h.shape[1]) * h @ np.asarray(layer["weight"])
            h = np.tanh(u)
        return u, h

    for name, before, after in zip(
        ("preactivation_change", "feature_change"), seen(start), seen(trained), strict=True
    ):
        expected = np.sqrt(np.mean((after - before) ** 2) / np.mean(before**2))
        assert last[name] == pytest.approx(expected, rel=1e-10)


def test_a_linear_model_has_no_features_and_a_run_that_ended_early_no_number():
    (*_, linear) = TheoryCell(parse({**SETTINGS, "depth": 1}), measured=("features",)).measure()
    assert "feature_change" not in linear
    settings = parse({**SETTINGS, "approximations": ("identity",), "step_scale": 1e6, "steps": 9})
    (*_, diverged) = TheoryCell(settings, measured=("features",)).measure()
    assert diverged["diverged"] and np.isnan(diverged["feature_change"])
