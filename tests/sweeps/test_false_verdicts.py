"""Evidence that is incomplete, not a number or foreign is never PASS."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ngd_theory import sweeps
from ngd_theory.errors import InputError, SingularKernelError
from ngd_theory.experiment import parse as settings
from ngd_theory.experiment import verify
from ngd_theory.sweeps import Outcome
from ngd_theory.sweeps.theory_cells import TheoryCell
from ngd_theory.sweeps.theory_claims import STATISTICS

#: One claim a statistic, each of which holds on `sound`.
CLAIMS = [
    {"statement": "s", "statistic": "exponent", "of": "gap", "rule": "in [-0.6, -0.4]"},
    {"statement": "s", "statistic": "best-step", "of": "gap", "rule": "in [-0.1, 0.1]"},
    *(
        {"statement": "s", "statistic": name, "of": "gap", "rule": "<= 1"}
        for name in ("max", "min", "mean")
    ),
    {"statement": "s", "statistic": "rate", "rule": "<= 0.6"},
    {"statement": "s", "statistic": "rate-error", "rule": "<= 0.6"},
]
#: The best is inside.
STEP_SCALES = [0.4, 0.5, 0.6]


def _made_up_gap(s):
    return (1 + s.seed / 10) * s.width**-0.5 * (1 + (s.step_scale - 0.5) ** 2)


def sound(cell):
    """Made-up rows that follow the theory."""
    s = cell.settings
    return [
        {
            **{"approximation": name, "applicable": True, "reason": "", "step": t, "layer": 0},
            **{"gap": _made_up_gap(s), "residual": 0.5**t},
            **{"step_size": s.step_scale},
        }
        for name in s.chosen_approximations
        for t in range(3)
    ]


@pytest.fixture
def outcomes(make_study, tmp_path):
    """Outcomes of all statistics on made-up rows."""

    def run(measure):
        study = make_study(claims=CLAIMS, step_scales=STEP_SCALES)
        return [v.outcome for v in sweeps.run(study, tmp_path, measure=measure).verdicts]

    return run


def test_there_is_a_claim_of_every_statistic():
    assert [claim["statistic"] for claim in CLAIMS] == list(STATISTICS)


def test_the_claims_hold_on_whole_evidence(outcomes):
    assert outcomes(sound) == [Outcome.PASS] * len(CLAIMS)


@pytest.mark.parametrize("failing", [1, 4, 8])
def test_with_failed_cells_no_claim_passes(make_study, tmp_path, failing):
    """With 3 of 6 cells failed a claim of a theory study was PASS."""
    left = iter(range(failing))

    def measure(cell):
        if next(left, None) is not None:
            raise ArithmeticError("layer 2 is singular")
        return sound(cell)

    study = make_study(claims=CLAIMS, step_scales=STEP_SCALES)
    for verdict in sweeps.run(study, tmp_path, measure=measure).verdicts:
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert f"{failing} of the 27 cells are missing" in verdict.why
        assert f"{failing} failed (ArithmeticError: layer 2 is singular)" in verdict.why


def test_a_claim_about_finished_cells_alone_is_judged(make_study, tmp_path):
    def measure(cell):
        if cell.settings.width == 32:
            raise ArithmeticError("no")
        return sound(cell)

    claim = {**CLAIMS[2], "where": {"width": 64}}
    each = {**CLAIMS[2], "each": ["width"]}
    study = make_study(claims=[claim, each])
    found = [v.outcome for v in sweeps.run(study, tmp_path, measure=measure).verdicts]
    assert found == ["PASS", "PASS", "INCONCLUSIVE", "PASS"]


@pytest.mark.parametrize("number", [np.nan, None])
@pytest.mark.parametrize("share", [2, 9])
def test_what_is_not_a_number_is_no_agreement(outcomes, number, share):
    """NaN in half of the cells was dropped, and the claim passed."""

    def measure(cell):
        rows = sound(cell)
        if cell.settings.seed == 1 or share == 9:
            for row in rows[1:]:
                row["gap"], row["residual"] = number, np.nan
        return rows

    found = outcomes(measure)
    assert Outcome.PASS not in found[:5]
    # A residual that ends has the rate of what there is of it: one entry has none.
    assert found[5:] == [Outcome.INCONCLUSIVE] * 2


def test_a_negative_control_that_does_not_apply_shows_nothing(make_study, tmp_path):
    claim = {**CLAIMS[2], "expect": "FAIL", "outside_premise": True}
    summary = sweeps.run(make_study(claims=[claim]), tmp_path, measure=sound)
    (verdict,) = summary.verdicts
    assert verdict.outcome is Outcome.NOT_APPLICABLE
    assert not verdict.as_expected and not summary.holds


def test_a_verification_in_which_nothing_applies_does_not_hold():
    values = {"dataset": "gaussian", "input_dim": 8, "num_train": 4, "num_test": 0, "width": 16}
    report = verify(settings({**values, "approximations": ("exact",), "damping": 1e3}))
    excused = tuple(v for v in report.verdicts if v.outcome is Outcome.NOT_APPLICABLE)
    assert len(excused) >= 7
    assert report.holds and not replace(report, verdicts=excused).holds


# --- foreign data --------------------------------------------------------------------------------

FILES = {"dataset": "mine.npz", "num_train": 4, "num_test": 0}


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    def write(seed):
        rows = np.random.default_rng(seed).normal(size=(20, 6))
        np.savez("mine.npz", x=rows, y=np.arange(20) % 2)

    monkeypatch.chdir(tmp_path)
    write(0)
    return write


def test_rows_that_changed_while_a_run_is_on_are_no_rows_of_it(make_study, own_file):
    """An in-process cache stored old numbers under the new hash, and new ones under the old."""

    def measure(cell):
        if cell.settings.seed == 1:
            own_file(seed=5)
        return TheoryCell.measure(cell)

    study = make_study(data=FILES, measure=["isotropy"], grid={"width": [16], "seed": [0, 1]})
    summary = sweeps.run(study, "results", measure=measure)
    (error,) = summary.failures.values()
    assert "are not those that the run began with" in error and summary.computed == 1


def test_the_identity_of_a_cell_is_that_of_its_rows(make_study, own_file):
    study = make_study(data=FILES, grid={"width": [16], "seed": [0]})
    sweeps.run(study, "one", measure=sound)
    own_file(seed=1)
    sweeps.run(study, "two", measure=sound)
    ids = [json.loads(Path(n, "manifest.json").read_text())["cells"] for n in ("one", "two")]
    assert ids[0] != ids[1]
    own_file(seed=0)
    assert sweeps.run(study, "one", measure=sound).reused == 1


def test_the_folder_of_data_is_part_of_the_identity(make_study, tmp_path, monkeypatch):
    """`NGD_THEORY_DATA` chooses other images for the same study."""
    from ngd_theory.sweeps.cells import with_data

    study = make_study(
        data={"dataset": "mnist", "num_train": 4, "num_test": 0}, grid={"width": [800]}
    )
    (subset,) = with_data(study.cells())
    write_mnist(tmp_path)
    monkeypatch.setenv("NGD_THEORY_DATA", str(tmp_path))
    (files,) = with_data(study.cells())
    assert subset.point == files.point and subset.id != files.id


def write_mnist(folder):
    """Random images in MNIST's own format."""
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        images = rng.integers(0, 256, size=(40, 28, 28), dtype=np.uint8)
        labels = (np.arange(40) % 10).astype(np.uint8)
        for name, array, magic in (("images-idx3", images, 0x803), ("labels-idx1", labels, 0x801)):
            header = np.array([magic, *array.shape], ">i4").tobytes()
            (folder / f"{part}-{name}-ubyte").write_bytes(header + array.tobytes())


def test_premises_are_those_of_the_datas_own_shape(make_study, tmp_path, monkeypatch):
    """They knew some data sets by name: fashion-mnist and curves were not among them."""
    folder = tmp_path / "fashion"
    folder.mkdir()
    write_mnist(folder)
    monkeypatch.setenv("NGD_THEORY_DATA", str(folder))
    data = {"dataset": "fashion-mnist", "num_train": 785, "num_test": 0}
    with pytest.raises(InputError, match="785 samples of 784 inputs"):
        make_study(approximations=["unit-wise"], data=data, grid={"width": [800]})


# --- numbers that were divided by ----------------------------------------------------------------


def test_targets_that_are_the_networks_outputs_leave_nothing_to_train(monkeypatch):
    """Ratios of residuals were NaN."""
    values = {"dataset": "gaussian", "input_dim": 8, "num_train": 4, "num_test": 0, "width": 16}
    chosen = settings({**values, "approximations": ("exact",)})
    from dataclasses import replace

    from ngd_theory.experiment import Experiment, verification

    data = verification.load_data(chosen)
    same = replace(data, targets=np.asarray(Experiment.begin(chosen, data).lin.outputs))
    monkeypatch.setattr(verification, "load_data", lambda _: same)
    with pytest.raises(SingularKernelError, match="gives its targets at its start"):
        verify(chosen)


def test_a_network_without_a_kernel_is_refused_in_a_study_as_in_verify():
    """`verify` explained K = 0, a study divided by it."""
    chosen = settings(
        {"dataset": "gaussian", "input_dim": 8, "num_train": 4, "num_test": 0, "width": 16}
        | {"weight_std": 1e-150, "approximations": ("exact",)}
    )
    for run in (lambda: verify(chosen), TheoryCell(chosen, measured=("isotropy",)).measure):
        with pytest.raises(SingularKernelError, match="zero, or as good as zero"):
            run()


def test_a_run_that_ends_badly_leaves_no_older_verdicts(make_study, tmp_path):
    study = make_study(claims=[CLAIMS[2]])
    sweeps.run(study, tmp_path, measure=sound)
    assert (tmp_path / "verdicts.json").exists()

    def lost(cell):
        raise KeyboardInterrupt

    grown = make_study(claims=[CLAIMS[2]], grid={"width": [16, 32, 64], "seed": [0, 1, 2, 3]})
    with pytest.raises(KeyboardInterrupt):
        sweeps.run(grown, tmp_path, measure=lost)
    assert not (tmp_path / "verdicts.json").exists()


def test_the_interval_over_seeds_is_students():
    values = [1.0, 2.0, 4.0, 4.5]
    found = sweeps.seed_mean(values)
    spread = pd.Series(values).std()
    assert found.spread == pytest.approx(spread, rel=1e-14)
    assert found.high - found.value == pytest.approx(3.182446305284264 * spread / 2, rel=1e-12)
