"""One small real report, with a test set, for every way of writing it."""

import pytest

from ngd_theory import experiment


@pytest.fixture(scope="session")
def report():
    """Two approximations, at the shapes of ``tests/experiment/conftest.py``: compiled once."""
    return experiment.verify(
        experiment.parse(
            {
                "dataset": "gaussian",
                "input_dim": 24,
                "num_train": 12,
                "num_test": 8,
                "width": 256,
                "steps": 3,
                "approximations": ("identity", "exact"),
            }
        )
    )
