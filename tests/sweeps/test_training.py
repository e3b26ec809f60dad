"""Training studies: what a file may say, the cells, the claims on made-up curves, one real run."""

import numpy as np
import pandas as pd
import pytest

from ngd_theory.errors import InputError
from ngd_theory.networks import AUTOENCODERS
from ngd_theory.report.sweep import write_report
from ngd_theory.sweeps import Outcome, load, run
from ngd_theory.sweeps.base import evaluate
from ngd_theory.sweeps.kinds import parse
from ngd_theory.sweeps.training import best_run, reached

STUDY = {
    "kind": "training",
    "title": "t",
    "statement": "s",
    "problem": "curves",
    "num_images": 40,
    "seeds": [0, 1, 2],
    "record_every": 2,
    "optimizers": [
        {"label": "fast", "optimizer": "kfac", "batch": 20, "steps": 4},
        {
            "label": "slow",
            "optimizer": "nag",
            "batch": [10, 40],
            "steps": 4,
            "grid": {"learning_rate": [0.001, 0.002], "momentum": [0.9]},
        },
    ],
    "claims": [
        {
            "statement": "fewer",
            "statistic": "fewer-steps",
            "labels": ["fast"],
            "than": "slow",
            "rule": ">= 5",
        },
        {"statement": "low", "statistic": "error", "labels": ["fast"], "rule": "<= 1"},
    ],
}


def changed(**changes):
    return {**STUDY, **changes}


def frame(runs, machine="here"):
    """Rows of runs (label, seed, cell, [(step, seconds, error), ...])."""
    return pd.DataFrame(
        [
            {"label": label, "seed": seed, "cell": cell, "step": t, "seconds": s, "error": e}
            for label, seed, cell, points in runs
            for t, s, e in points
        ]
    ).assign(machine=machine)


def cell_ids():
    """Of the study, by label: those of the fast runs, and of the slow ones at either learning rate."""
    fast, *slow = np.array([cell.id for cell in parse(STUDY).cells()]).reshape(3, 3).tolist()
    return {"c": fast, "a": slow[0], "b": slow[1]}


def curves(seeds=(0, 1, 2), reach=20):
    """The better of the slow runs ends at 1.0 after 200 steps and 20 s; the fast one is at 1.0 at ``reach``."""
    runs, ids = [], cell_ids()
    for seed in seeds:
        runs.append(("slow", seed, ids["a"][seed], [(0, 0, 9.0), (200, 20, 1.0)]))
        runs.append(("slow", seed, ids["b"][seed], [(0, 0, 9.0), (200, 20, 3.0)]))
        points = [(0, 0, 9.0), (reach, 4.0, 1.0), (2 * reach, 8.0, 0.5)]
        runs.append(("fast", seed, ids["c"][seed], points))
    return frame(runs)


def test_cells_are_the_grid_with_each_optimisers_own_seeds():
    cells = parse(STUDY).cells()
    assert [(c.settings.label, c.settings.seed) for c in cells] == [
        *(("fast", s) for s in (0, 1, 2)),
        *(("slow", s) for s in (0, 1, 2, 0, 1, 2)),
    ]
    assert [c.settings.options for c in cells[3::3]] == [
        {"learning_rate": rate, "momentum": 0.9} for rate in (0.001, 0.002)
    ]
    own = [STUDY["optimizers"][0], {**STUDY["optimizers"][1], "seeds": [5]}]
    assert [c.settings.seed for c in parse(changed(optimizers=own, claims=[])).cells()[3:]] == [
        5,
        5,
    ]
    assert (cells[3].settings.first_batch, cells[3].settings.last_batch) == (10, 40)
    assert len({c.id for c in cells}) == 9


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kind": "trainig"}, ["trainig", "theory, training, structure"]),
        ({"problem": "mnst"}, ["problem", "mnst"]),
        ({"claims": [{**STUDY["claims"][0], "than": "none"}]}, ["none", "fast, slow"]),
        ({"claims": [{**STUDY["claims"][1], "than": "slow"}]}, ["than", "less-error-in-time"]),
        ({"optimizers": [{**STUDY["optimizers"][0], "optimizer": "sgdd"}]}, ["sgdd", "kfac, nag"]),
        ({"optimizers": [{**STUDY["optimizers"][0], "lr": 1}]}, ["lr", "unknown key", "steps"]),
        ({"optimizers": [STUDY["optimizers"][0]] * 2, "claims": []}, ["twice"]),
        ({"optimizers": [{**STUDY["optimizers"][0], "batch": 0}]}, ["batch"]),
        (
            {"optimizers": [{**STUDY["optimizers"][0], "options": {"lr": 1.0}}]},
            ["'lr'", "kfac", "inverse_period"],
        ),
        (
            {"optimizers": [{**STUDY["optimizers"][1], "grid": {"momentum": [0.9]}}]},
            ["nag", "needs the option learning_rate"],
        ),
        ({"optimizers": [{**STUDY["optimizers"][1], "grid": {"momentum": []}}]}, ["momentum"]),
        ({"optimizers": [{**STUDY["optimizers"][1], "options": {"momentum": 0.5}}]}, ["in grid"]),
        ({"seeds": []}, ["seeds"]),
        ({"seeds": [0, 1]}, ["fewer", "seeds in common"]),
        ({"optimizers": [STUDY["optimizers"][0]]}, ["slow"]),
    ],
)
def test_a_wrong_file_is_refused_in_words(changes, named):
    with pytest.raises(InputError) as error:
        parse(changed(**changes))
    for word in named:
        assert word in str(error.value)


def test_claims_compare_with_the_best_run_of_the_rival():
    fewer, low = evaluate(parse(STUDY), curves())
    assert fewer.outcome is Outcome.PASS and fewer.estimate.value == pytest.approx(10)
    assert low.outcome is Outcome.PASS and low.estimate.value == pytest.approx(0.5)
    fewer, _ = evaluate(parse(STUDY), curves(reach=100))
    assert fewer.outcome is Outcome.FAIL and fewer.estimate.value == pytest.approx(2)


def test_less_time_compares_seconds():
    claim = {**STUDY["claims"][0], "statistic": "less-time"}
    (verdict,) = evaluate(parse(changed(claims=[claim])), curves())
    assert verdict.estimate.value == pytest.approx(5)


@pytest.mark.parametrize(
    ("statistic", "share"), [("less-error", 40 / 200), ("less-error-in-time", 8 / 20)]
)
def test_errors_are_compared_at_the_last_place_that_both_have(statistic, share):
    claim = {**STUDY["claims"][0], "statistic": statistic, "rule": ">= 5"}
    study = parse(changed(claims=[claim]))
    (verdict,) = evaluate(study, curves())
    # The slow run comes from 9 to 1 exponentially; the fast one is at 0.5.
    assert verdict.estimate.value == pytest.approx(9 ** (1 - share) / 0.5)
    assert verdict.outcome is Outcome.PASS
    rows = curves()
    rows.loc[(rows["label"] == "fast") & (rows["step"] == 40), "error"] = np.nan
    (verdict,) = evaluate(study, rows)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    rows = curves()
    rows.loc[rows["label"] == "fast", "machine"] = "there"
    (verdict,) = evaluate(study, rows)
    expected = Outcome.PASS if statistic == "less-error" else Outcome.INCONCLUSIVE
    assert verdict.outcome is expected


def test_one_that_ends_above_is_compared_at_what_both_reach():
    """It counted as never there, a speed-up of 0, though it ended 1 % above."""
    rows = curves()
    fast = rows["label"] == "fast"
    rows.loc[fast & (rows["step"] == 20), "error"] = 1.5
    rows.loc[fast & (rows["step"] == 40), "error"] = 1.01
    fewer, _ = evaluate(parse(STUDY), rows)
    # The slow run comes from 9 to 1 in 200 steps, exponentially.
    there = 200 * np.log(9 / 1.01) / np.log(9)
    assert fewer.estimate.value == pytest.approx(there / 40)


def test_nothing_is_rounded_to_the_records():
    rows = frame([("a", 0, "x", [(0, 0, 8.0), (10, 1, 2.0), (20, 3, 0.5)])])
    assert reached(rows, 1.0, "step") == pytest.approx(15)
    assert reached(rows, 1.0, "seconds") == pytest.approx(2)
    assert reached(rows, 2.0, "step") == pytest.approx(10)
    assert np.isnan(reached(rows, 0.4, "step"))


@pytest.mark.parametrize(("name", "run"), [("c", 2), ("b", 1)])
def test_a_label_with_an_unfinished_run_is_not_judged(name, run):
    rows = curves()
    fewer, _ = evaluate(parse(STUDY), rows[rows["cell"] != cell_ids()[name][run]])
    assert fewer.outcome is Outcome.INCONCLUSIVE and "1 of the 9 cells" in fewer.why


def test_seconds_of_two_machines_are_not_compared():
    claim = {**STUDY["claims"][0], "statistic": "less-time"}
    rows = curves()
    rows.loc[rows["label"] == "fast", "machine"] = "there"
    (verdict,) = evaluate(parse(changed(claims=[claim])), rows)
    assert verdict.outcome is Outcome.INCONCLUSIVE and "here; there" in verdict.why


def test_the_rival_is_charged_until_it_first_got_there():
    early = frame([("slow", s, cell_ids()["a"][s], [(100, 10, 1.0)]) for s in (0, 1, 2)])
    rows = pd.concat([curves(), early]).sort_values(["cell", "step"])
    fewer, _ = evaluate(parse(STUDY), rows)
    assert fewer.estimate.value == pytest.approx(5)


def test_a_rival_that_only_got_worse_is_no_division_by_zero():
    rows = curves()
    rows.loc[(rows["label"] == "slow") & (rows["step"] > 0), "error"] = 20.0
    fewer, _ = evaluate(parse(STUDY), rows)
    assert fewer.estimate.value == pytest.approx(10)
    rows.loc[(rows["label"] == "slow") & (rows["step"] > 0), "error"] = np.nan
    fewer, _ = evaluate(parse(STUDY), rows)
    assert fewer.outcome is Outcome.INCONCLUSIVE


def test_a_run_that_diverged_is_never_the_best():
    rows = frame(
        [
            ("slow", 0, "a", [(0, 0, 9.0), (1, 1, 1.0), (2, 1, np.nan)]),
            ("slow", 0, "b", [(0, 0, 9.0), (4, 1, 8.0)]),
        ]
    )
    assert set(best_run(rows)["cell"]) == {"b"}


def test_a_study_runs_resumes_and_reports(tmp_path, monkeypatch):
    monkeypatch.setenv("NGD_THEORY_CACHE", str(tmp_path / "cache"))
    # Batches grow from 10 to 40: four programs, of a small network.
    monkeypatch.setitem(AUTOENCODERS, "curves", (784, (20, 6)))
    one = {**STUDY["optimizers"][1], "grid": {"learning_rate": [0.002], "momentum": [0.9]}}
    study = parse(changed(optimizers=[one], claims=[], seeds=[0], precision="float64"))
    out = tmp_path / "out"
    first = run(study, out)
    assert not first.failures and first.computed == 1
    again = run(study, out)
    assert (again.computed, again.reused) == (0, 1)
    rows = load(out)
    assert sorted(set(rows["step"])) == [0, 2, 4]
    assert (rows["error"] > 0).all()
    for _, one in rows.groupby("cell"):
        assert one["seconds"].is_monotonic_increasing and one["seconds"].iloc[0] == 0
    last, start = (rows[rows["step"] == t]["error"].mean() for t in (4, 0))
    assert last < start
    paths = write_report(out)
    page = paths[-1].read_text(encoding="utf-8")
    assert "Training error" in page and (out / "figures" / "training.png").stat().st_size > 5000
    assert parse_back(page) == study


def parse_back(page):
    """The study that the page says how to reproduce."""
    import html
    import re
    import tomllib

    text = re.search(r'id="study">Study</h2>\s*<pre>(.*?)</pre>', page, re.DOTALL)
    return parse(tomllib.loads(html.unescape(text[1])))
