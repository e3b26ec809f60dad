import numpy as np
import pandas as pd
import pytest

from ngd_theory import sweeps
from ngd_theory.errors import InputError
from ngd_theory.sweeps.store import failures

GAP_CLAIM = {"statement": "falls", "statistic": "exponent", "of": "gap", "rule": "in [-0.6, -0.4]"}


def counted(measure):
    def count(cell):
        count.calls.append(cell)
        return measure(cell)

    count.calls = []
    return count


def test_a_row_a_cell_approximation_and_step(make_study, trivial_measure, tmp_path):
    study = make_study(approximations=["exact", "kfac"], network={"activation": "tanh"})
    summary = sweeps.run(study, tmp_path, measure=trivial_measure)
    frame = sweeps.load(tmp_path)
    assert (summary.total, summary.computed, summary.holds) == (9, 9, True)
    keys = ["cell", "approximation", "step"]
    assert len(frame) == 9 * 2 * 3 == len(frame[keys].drop_duplicates())
    assert list(frame["width"].unique()) == [16, 32, 64]
    assert set(frame["activation"]) == {"tanh"}
    assert frame["dispersion"].isna().all()


def test_running_again_recomputes_nothing(make_study, trivial_measure, tmp_path):
    study = make_study()
    sweeps.run(study, tmp_path, measure=trivial_measure)
    before = sweeps.load(tmp_path)
    again = counted(trivial_measure)
    summary = sweeps.run(study, tmp_path, measure=again)
    assert (again.calls, summary.reused) == ([], 9)
    pd.testing.assert_frame_equal(sweeps.load(tmp_path), before)


def test_a_failed_cell_is_recorded_and_the_rest_go_on(make_study, trivial_measure, tmp_path):
    def breaks(cell):
        if cell.settings.width == 32:
            raise ArithmeticError("layer 2 is singular")
        return trivial_measure(cell)

    summary = sweeps.run(make_study(), tmp_path, measure=breaks)
    assert (summary.computed, len(summary.failures), summary.holds) == (6, 3, False)
    recorded = failures(tmp_path)
    assert {f["error"] for f in recorded} == {"ArithmeticError: layer 2 is singular"}
    assert {f["config"]["settings"]["width"] for f in recorded} == {32}
    # What failed is tried again, and forgotten when it succeeds.
    summary = sweeps.run(make_study(), tmp_path, measure=trivial_measure)
    assert (summary.computed, summary.reused, failures(tmp_path)) == (3, 6, [])


def test_same_shapes_run_side_by_side_and_the_table_keeps_the_order_of_the_study(
    make_study, trivial_measure, tmp_path
):
    measure = counted(trivial_measure)
    sweeps.run(make_study(grid={"seed": [0, 1], "width": [16, 32]}), tmp_path, measure=measure)
    assert [c.settings.width for c in measure.calls] == [16, 16, 32, 32]
    assert list(sweeps.load(tmp_path)["width"].iloc[::3]) == [16, 32, 16, 32]


def test_progress_is_told_before_every_cell_and_at_the_end(make_study, trivial_measure, tmp_path):
    seen = []
    sweeps.run(make_study(), tmp_path, seen.append, trivial_measure)
    assert [state.done for state in seen] == list(range(10))
    assert seen[-1].cell is None and seen[0].cell is not None


def test_a_changed_study_is_refused_and_names_what_changed(make_study, trivial_measure, tmp_path):
    sweeps.run(make_study(), tmp_path, measure=trivial_measure)
    before = sweeps.load(tmp_path)
    for changes, word in [
        ({"steps": 3}, "steps was 2, is 3"),
        ({"grid": {"width": [16, 32], "seed": [0, 1, 2]}}, "grid.width"),
        ({"measure": ["gap"]}, "measure"),
        ({"approximations": ["kfac"]}, "approximations"),
    ]:
        with pytest.raises(InputError, match=word.replace(".", r"\.")):
            sweeps.run(make_study(**changes), tmp_path, measure=trivial_measure)
    pd.testing.assert_frame_equal(sweeps.load(tmp_path), before)


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """A folder with a data file of 20 rows in 6 dimensions, and a function that writes it afresh."""

    def write(seed):
        rows = np.random.default_rng(seed).normal(size=(20, 6))
        np.savez("mine.npz", x=rows, y=np.arange(20) % 2)

    monkeypatch.chdir(tmp_path)
    write(0)
    return write


MINE = {"dataset": "mine.npz", "num_train": 4, "num_test": 0}


def test_a_data_file_that_changed_is_refused(make_study, trivial_measure, own_data):
    study = make_study(data=MINE)
    sweeps.run(study, "results", measure=trivial_measure)
    assert sweeps.run(study, "results", measure=trivial_measure).reused == 9
    own_data(seed=1)
    with pytest.raises(InputError, match=r"data of 9 cells have changed since results was begun"):
        sweeps.run(study, "results", measure=trivial_measure)
    assert sweeps.run(study, "others", measure=trivial_measure).computed == 9


def test_a_data_file_that_is_not_there_is_refused_before_anything_runs(
    make_study, trivial_measure, own_data
):
    study = make_study(data={**MINE, "dataset": "none.npz"})
    with pytest.raises(InputError, match=r"none\.npz"):
        sweeps.run(study, "results", measure=trivial_measure)


def test_the_premises_know_the_dimension_of_a_data_file(make_study, own_data):
    data = {**MINE, "num_train": 7}
    with pytest.raises(InputError, match="7 samples of 6 inputs"):
        make_study(approximations=["kfac"], data=data)
    assert make_study(approximations=["exact"], data=data).cells()


def test_more_seeds_and_new_claims_add_to_old_results(make_study, trivial_measure, tmp_path):
    sweeps.run(make_study(), tmp_path, measure=trivial_measure)
    measure = counted(trivial_measure)
    grid = {"width": [16, 32, 64], "seed": [0, 1, 2, 3]}
    grown = make_study(grid=grid, claims=[GAP_CLAIM])
    summary = sweeps.run(grown, tmp_path, measure=measure)
    assert {c.settings.seed for c in measure.calls} == {3}
    assert (summary.computed, summary.reused) == (3, 9)
    undisturbed = tmp_path / "undisturbed"
    sweeps.run(grown, undisturbed, measure=trivial_measure)
    pd.testing.assert_frame_equal(sweeps.load(tmp_path), sweeps.load(undisturbed))


def test_claims_end_in_verdicts(make_study, trivial_measure, tmp_path):
    claims = [
        GAP_CLAIM,
        {**GAP_CLAIM, "rule": "<= -1", "expect": "FAIL"},
        {"statement": "rate", "statistic": "rate", "rule": "in [0.49, 0.51]", "each": ["width"]},
        {**GAP_CLAIM, "outside_premise": True},
    ]
    summary = sweeps.run(make_study(claims=claims), tmp_path, measure=trivial_measure)
    outcomes = [str(v.outcome) for v in summary.verdicts]
    assert outcomes == ["PASS", "FAIL", "PASS", "PASS", "PASS", "NOT APPLICABLE"]
    assert summary.holds
    assert "width = 32" in summary.verdicts[3].statistic
    assert (tmp_path / "verdicts.json").exists()


def test_a_claim_without_finished_cells_is_inconclusive_not_passed_over(make_study, tmp_path):
    def breaks(cell):
        raise ArithmeticError("no")

    summary = sweeps.run(make_study(claims=[GAP_CLAIM]), tmp_path, measure=breaks)
    (verdict,) = summary.verdicts
    assert verdict.outcome is sweeps.Outcome.INCONCLUSIVE and not verdict.as_expected
    assert verdict.why == "9 of the 9 cells are missing: 9 failed (ArithmeticError: no)"


def test_a_claim_that_fails_unexpectedly_is_not_as_expected(make_study, trivial_measure, tmp_path):
    claims = [{**GAP_CLAIM, "rule": "<= -1"}]
    summary = sweeps.run(make_study(claims=claims), tmp_path, measure=trivial_measure)
    assert not summary.holds


def test_rows_are_read_once_a_data_set_and_not_once_a_cell(
    make_study, trivial_measure, tmp_path, monkeypatch
):
    from ngd_theory.experiment import building

    read = []
    load = building.load_data
    monkeypatch.setattr(building, "load_data", lambda s: read.append(s.seed) or load(s))
    study = make_study(grid={"width": [16, 32, 64], "seed": list(range(10))})
    sweeps.run(study, tmp_path, measure=trivial_measure)
    assert sorted(read) == list(range(10))
