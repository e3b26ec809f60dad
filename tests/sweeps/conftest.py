"""Small studies, and a measure that costs nothing."""

import runpy
from pathlib import Path

import pytest

from ngd_theory.sweeps.kinds import parse

TRIVIAL_RUN = Path(__file__).with_name("trivial_run.py")


def study_values(**changes):
    values = {
        "title": "tiny",
        "statement": "nothing much",
        "approximations": ["exact"],
        "measure": ["trajectory", "gap"],
        "steps": 2,
        "data": {"dataset": "gaussian", "num_train": 4, "num_test": 0, "input_dim": 6},
        "grid": {"width": [16, 32, 64], "seed": [0, 1, 2]},
    }
    values.update(changes)
    return {key: value for key, value in values.items() if value is not None}


@pytest.fixture
def values():
    """Values of a valid study, with changes; None takes a key out."""
    return study_values


@pytest.fixture
def make_study():
    return lambda **changes: parse(study_values(**changes))


@pytest.fixture
def trivial_measure():
    return runpy.run_path(str(TRIVIAL_RUN))["measure"]
