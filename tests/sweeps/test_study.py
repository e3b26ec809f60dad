import re

import numpy as np
import pandas as pd
import pytest

from ngd_theory import sweeps
from ngd_theory.errors import InputError
from ngd_theory.sweeps.base import evaluate
from ngd_theory.sweeps.kinds import parse, read

CLAIM = {"statement": "s", "statistic": "exponent", "of": "gap", "rule": "<= -0.3"}


def test_cells_are_the_cartesian_product_in_the_order_of_the_file(make_study):
    cells = make_study().cells()
    points = [(c.settings.width, c.settings.seed) for c in cells]
    assert points == [(w, s) for w in (16, 32, 64) for s in (0, 1, 2)]


def test_lists_of_damping_and_step_scales_are_axes(make_study):
    cells = make_study(damping=[1e-4, 1e-6], step_scales=0.5, grid={"width": [16]}).cells()
    assert [(c.settings.damping, c.settings.step_scale) for c in cells] == [
        (1e-4, 0.5),
        (1e-6, 0.5),
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tytle": "x"}, ["tytle", "unknown key; did you mean 'title'? allowed:", "network"]),
        ({"zzz": "x"}, ["zzz", "unknown key; allowed:"]),
        ({"title": None}, ["title is missing"]),
        ({"network": {"wdith": 3}}, ["[network]", "wdith", "weight_std"]),
        ({"grid": {"width": [16, -3]}}, ["grid.width = -3", "greater than or equal to 1"]),
        ({"grid": {"width": ["16"]}}, ['grid.width = "16"', "integer"]),
        ({"grid": {"colour": [1]}}, ["[grid]", "colour", "width"]),
        ({"grid": {"width": []}}, ["grid.width = []"]),
        ({"grid": {"width": [16, 16]}}, ["twice"]),
        ({"grid": {"activation": ["rleu"]}}, ["grid.activation", "rleu", "relu", "tanh"]),
        ({"approximations": ["exactly"]}, ["approximations", "exactly", "block-diagonal"]),
        ({"measure": ["speed"]}, ["measure.0", "speed", "isotropy"]),
        ({"damping": -1.0}, ["damping = -1.0"]),
        ({"damping": 0.1, "grid": {"damping": [0.2]}}, ["damping is set twice", "grid.damping"]),
        ({"claims": [{**CLAIM, "rule": "< 3"}]}, ["claims.0", "< 3", "<= x"]),
        ({"claims": [{**CLAIM, "of": "speed"}]}, ["claims.0", "speed", "dispersion"]),
        ({"claims": [{**CLAIM, "of": "dispersion"}]}, ["isotropy", "measure"]),
        ({"claims": [{**CLAIM, "over": "depth"}]}, ["depth", "3 values"]),
        ({"claims": [{**CLAIM, "approximations": ["kfac"]}]}, ["kfac", "exact"]),
        ({"claims": [{**CLAIM, "where": {"seed": 9}}]}, ["where.seed = 9", "0, 1, 2"]),
        ({"claims": [{**CLAIM, "colour": 1}]}, ["claims.0.colour", "unknown key", "statistic"]),
        ({"loss": "cross-entropy", "approximations": ["kfac"]}, ["kfac", "cross-entropy"]),
        ({"loss": "cross-entropy", "measure": ["limit"]}, ["'limit'", "MSE"]),
        ({"measure": ["limit"], "grid": {"momentum": [0.0, 0.5]}}, ["'limit'", "plain steps"]),
        ({"measure": ["rivals"]}, ["'rivals'", "two approximations"]),
        ({"measure": ["generalisation"]}, ["'generalisation'", "data.num_test"]),
        ({"measure": ["rivals"], "approximations": ["exact", "kfac"]}, ["data.num_test"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(values, changes, words):
    with pytest.raises(InputError) as error:
        parse(values(**changes))
    for word in words:
        assert word in str(error.value)


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("title = ")
    with pytest.raises(InputError, match=re.escape(str(path))):
        read(path)
    path.write_text('title = "t"')
    with pytest.raises(InputError, match=re.escape(f"{path}: statement is missing")):
        read(path)
    with pytest.raises(InputError, match=r"none\.toml"):
        read(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"approximations": ["kfac"], "grid": {"num_train": [7]}}, "input-rank"),
        ({"approximations": ["unit-wise"], "grid": {"num_train": [7]}}, "input-rank"),
        ({"approximations": ["kfac"], "grid": {"width": [3]}}, "width"),
    ],
)
def test_impossible_grid_points_are_refused_unless_allowed(values, changes, name):
    changes = dict(changes)
    if "num_train" in changes["grid"]:
        changes["data"] = {"dataset": "gaussian", "num_test": 0, "input_dim": 6}
        changes["network"] = {"width": 16}
    with pytest.raises(InputError, match="impossible grid") as error:
        parse(values(**changes))
    assert f'allow = ["{name}"]' in str(error.value)
    assert parse(values(**changes, allow=[name])).cells()


def test_possible_grid_points_are_not_refused(make_study):
    # The damped form is symmetric and has the constant of the pseudo-inverse where Sigma is singular.
    for damping in (0.0, 1e-8):
        make_study(approximations=["block-tridiagonal"], damping=damping, grid={"depth": [5]})
    data = {"dataset": "gaussian", "num_train": 7, "num_test": 0, "input_dim": 6, "forster": True}
    make_study(approximations=["kfac"], data=data)


def test_what_was_once_a_premise_is_still_read(make_study):
    study = make_study(approximations=["block-tridiagonal"], allow=["coupling"])
    assert study.allow == ()


def test_of_an_approximation_without_a_constant_no_error_of_it_is_judged(make_study):
    """It was INCONCLUSIVE, "a seed's number is not finite", whatever the number of seeds."""
    claim = {"statement": "s", "statistic": "max", "of": "constant_error", "rule": "<= 1e-3"}
    study = make_study(approximations=["identity"], measure=["isotropy"], claims=[claim])
    cells = study.cells()
    frame = pd.DataFrame(
        {
            "cell": [cell.id for cell in cells],
            "seed": [cell.settings.seed for cell in cells],
            **{
                "approximation": "identity",
                "applicable": True,
                "reason": "",
                "layer": 0,
                "epsilon": np.nan,
                "step": 0,
            },
            **{"constant_error": np.nan, "predicted_constant": np.nan},
        }
    )
    (verdict,) = evaluate(study, frame)
    assert verdict.outcome == "NOT APPLICABLE"
    assert "states no constant of identity" in verdict.why
    # One that has a constant and a number that is missing is not excused.
    frame["constant_error"], frame["predicted_constant"] = 1e-9, 1.0
    frame.loc[0, "constant_error"] = np.nan
    (verdict,) = evaluate(study, frame)
    assert verdict.outcome == "INCONCLUSIVE"


def test_a_study_names_its_data(make_study):
    with pytest.raises(
        InputError, match=r"names no data: write dataset = \"mnist\" under \[data\]"
    ):
        make_study(data={"num_train": 4, "num_test": 0})
    varied = make_study(
        data={"num_train": 4, "num_test": 0, "input_dim": 6}, grid={"dataset": ["gaussian"]}
    )
    assert {cell.settings.dataset for cell in varied.cells()} == {"gaussian"}


@pytest.mark.parametrize("study", [sweeps.Study, sweeps.TrainingStudy, sweeps.StructureStudy])
def test_a_study_made_from_python_is_refused_in_words(study):
    with pytest.raises(InputError, match="title is missing; ") as error:
        study()
    assert len(str(error.value).splitlines()) == 1 and "pydantic" not in str(error.value)
    with pytest.raises(InputError, match="unknown key; did you mean 'title'"):
        study(titel="x")
