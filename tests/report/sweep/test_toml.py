"""A study written as TOML is read back as the same study."""

import json
import tomllib
from pathlib import Path

import made_up
import pytest

from ngd_theory.report.sweep.page import to_toml
from ngd_theory.sweeps import read
from ngd_theory.sweeps.kinds import parse

SHIPPED = sorted((Path(__file__).parents[3] / "studies").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_study_comes_back(path):
    study = read(path)
    assert parse(tomllib.loads(to_toml(study))) == study


def test_any_text_comes_back(make_study):
    for text in (made_up.HOSTILE, 'a "b" \\c\td', "é 😀 \x7f \u2028"):
        study = make_study(title=text, statement=text)
        assert parse(tomllib.loads(to_toml(study))) == study


def test_the_study_is_the_one_a_manifest_keeps(make_study):
    study = make_study()
    assert parse(json.loads(study.model_dump_json())) == study


def test_what_is_none_is_left_out(make_study):
    """TOML has no None; a setting that is not given has its default, which is None."""
    data = {"dataset": "gaussian", "num_train": 4, "num_test": 2, "input_dim": 6}
    without = make_study(data=data)
    assert parse(tomllib.loads(to_toml(make_study(data=data | {"classes": None})))) == without
