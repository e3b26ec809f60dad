"""Structure studies: what a file may say, and the claims on made-up numbers."""

import pandas as pd
import pytest

from ngd_theory.errors import InputError
from ngd_theory.optim.structure import MATRICES
from ngd_theory.report.sweep import write_report
from ngd_theory.sweeps import Outcome, run
from ngd_theory.sweeps.base import evaluate
from ngd_theory.sweeps.kinds import parse

CLAIM = {
    "statement": "nearer",
    "of": "relative_error",
    "matrices": ["block-tridiagonal"],
    "over": "block-diagonal",
    "rule": "<= 0.5",
}
STUDY = {
    "kind": "structure",
    "title": "t",
    "statement": "s",
    "seeds": [0, 1, 2],
    "claims": [CLAIM],
}
DEPTH = 4


def rows(seed, near=0.1, far=0.4):
    """The rows of a cell as `structure_rows` makes them, numbers made up."""
    about = {"steps": 9, "train_loss": 0.2, "train_error": 0.1}
    found = []
    for matrix in MATRICES:
        error = near if matrix.startswith("block-tridiagonal") else far
        for quantity, value in (("relative_error", error), ("off_tridiagonal_share", 0.1)):
            found.append({"layer": 0, "other": 0, "quantity": quantity, "value": value})
            found[-1]["matrix"] = matrix
        for i in range(1, DEPTH + 1):
            for j in range(i, DEPTH + 1):
                block = {"layer": i, "other": j, "quantity": "mean", "value": 0.5 ** (j - i)}
                found.append({"matrix": matrix, **block})
    return [{**about, **row} for row in found]


def frame(study, **numbers):
    return pd.concat(
        pd.DataFrame(rows(c.settings.seed, **numbers)).assign(
            cell=c.id, seed=c.settings.seed, factor_damping=0.1
        )
        for c in study.cells()
    )


def test_a_claim_divides_by_another_matrix():
    study = parse(STUDY)
    (verdict,) = evaluate(study, frame(study))
    assert verdict.outcome is Outcome.PASS and verdict.estimate.value == pytest.approx(0.25)
    (verdict,) = evaluate(study, frame(study, near=0.3))
    assert verdict.outcome is Outcome.FAIL
    (verdict,) = evaluate(study, frame(study).query("seed != 1"))
    assert verdict.outcome is Outcome.INCONCLUSIVE and "1 of the 3 cells" in verdict.why


def test_a_claim_may_be_about_the_number_itself():
    claim = {k: v for k, v in CLAIM.items() if k != "over"}
    study = parse({**STUDY, "claims": [claim]})
    (verdict,) = evaluate(study, frame(study))
    assert verdict.estimate.value == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"over": "none"}, ["none", "kronecker"]),
        ({"of": "error"}, ["of", "relative_error"]),
        ({"where": {"width": 3}}, ["width", "num_images"]),
        ({"rule": "< 3"}, ["< 3"]),
        ({"matrices": ["exact"]}, ["exact", "kronecker"]),
        ({"where": {"seed": 9}}, ["where.seed", "0, 1, 2"]),
    ],
)
def test_a_wrong_claim_is_refused_in_words(changes, named):
    with pytest.raises(InputError) as error:
        parse({**STUDY, "claims": [{**CLAIM, **changes}]})
    for word in named:
        assert word in str(error.value)


def test_cells_are_the_seeds_at_every_damping():
    two = {**STUDY, "factor_damping": [0.1, 1.0]}
    with pytest.raises(InputError, match="name one of the dampings"):
        parse(two)
    study = parse({**two, "claims": [{**CLAIM, "where": {"factor_damping": 1.0}}]})
    found = [(c.settings.factor_damping, c.settings.seed) for c in study.cells()]
    assert found == [(g, s) for g in (0.1, 1.0) for s in (0, 1, 2)]
    with pytest.raises(InputError, match="twice"):
        parse({**STUDY, "seeds": [1, 1]})


def test_a_study_is_stored_and_reported(tmp_path):
    summary = run(parse(STUDY), tmp_path, measure=lambda cell: rows(cell.settings.seed))
    assert summary.holds, summary
    paths = write_report(tmp_path)
    assert (tmp_path / "figures" / "structure.png").stat().st_size > 5000
    assert "Block means" in paths[-1].read_text(encoding="utf-8")
