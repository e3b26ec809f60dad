import jax.numpy as jnp
import numpy as np
import pytest

from ngd_theory import claims
from ngd_theory.claims import Settings
from ngd_theory.claims.evidence import sup_gap
from ngd_theory.errors import InputError
from ngd_theory.sweeps.cells import Cell
from ngd_theory.sweeps.measure import measure_cell
from ngd_theory.sweeps.study import MEASUREMENTS
from ngd_theory.sweeps.table import COLUMNS

SETTINGS = Settings(
    dataset="gaussian",
    approximations=("exact",),
    num_train=5,
    num_test=3,
    input_dim=8,
    width=16,
    depth=2,
    step_scale=0.5,
    steps=2,
)


@pytest.fixture(scope="module")
def rows():
    return measure_cell(Cell(SETTINGS, MEASUREMENTS))


def test_every_column_is_known_and_filled(rows):
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert set(rows[-1]) == set(COLUMNS)
    assert all(np.isfinite(rows[-1][n]) for n, c in COLUMNS.items() if c.kind == "float64")


def test_numbers_are_those_that_verify_finds(rows, monkeypatch):
    monkeypatch.setattr("ngd_theory.claims.experiment.judge", lambda evidence: ())
    evidence = claims.verify(SETTINGS).evidence["exact"]
    last = rows[-1]
    assert last["constant"] == pytest.approx(float(evidence.isotropy.constant), rel=1e-12)
    assert last["step_size"] == evidence.step_size
    assert last["residual"] == pytest.approx(evidence.residual_ratios[-1], rel=1e-10)
    scale = float(jnp.linalg.norm(evidence.training.outputs[0] - evidence.targets))
    gap = sup_gap(evidence.training.outputs, evidence.prediction.outputs, scale)
    assert max(row["gap"] for row in rows) == pytest.approx(gap, rel=1e-10)
    assert last["movement"] * evidence.parameter_norm == pytest.approx(last["distance"])
    assert last["ntk_max"] / last["ntk_min"] == pytest.approx(evidence.ntk_condition, rel=1e-8)


def test_measuring_twice_gives_the_same_numbers(rows):
    assert measure_cell(Cell(SETTINGS, MEASUREMENTS)) == rows


def test_isotropy_alone_is_one_row_without_training():
    (row,) = measure_cell(Cell(SETTINGS, ("isotropy",)))
    assert row["step"] == 0 and "gap" not in row and row["dispersion"] < 1e-4


def test_a_broken_premise_is_marked_with_its_reason():
    settings = SETTINGS.model_copy(update={"approximations": ("kfac",), "input_dim": 3})
    (row,) = measure_cell(Cell(settings, ("isotropy",)))
    assert not row["applicable"] and "layer 1" in row["reason"]
    assert row["dispersion"] > 0.01


def test_cross_entropy_has_gaps_but_no_residual():
    changes = {"loss": "cross-entropy", "approximations": ("exact",), "steps": 1, "num_test": 0}
    rows = measure_cell(Cell(SETTINGS.model_copy(update=changes), ("trajectory", "gap")))
    assert "residual" not in rows[1] and 0 < rows[1]["gap"] < 1


def test_the_wrong_precision_is_refused_with_the_mend():
    settings = SETTINGS.model_copy(update={"precision": "float32"})
    with pytest.raises(InputError, match=r"jax.config.update\('jax_enable_x64', False\)"):
        measure_cell(Cell(settings, ("isotropy",)))
