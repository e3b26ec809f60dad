"""One small real report, with a test set, for every way of writing it."""

import pytest

from ngd_theory import claims


@pytest.fixture(scope="session")
def report():
    """Three approximations on eight Gaussian samples."""
    return claims.verify(
        claims.parse(
            {
                "dataset": "gaussian",
                "input_dim": 16,
                "num_train": 8,
                "num_test": 5,
                "width": 64,
                "steps": 2,
                "approximations": ("identity", "exact"),
            }
        )
    )
