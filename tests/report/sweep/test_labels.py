"""Labels keep their distance and stay as near to their curves as that allows."""

import numpy as np
import pytest
from scipy.optimize import minimize

from ngd_theory.report.sweep.labels import spaced


def test_labels_that_are_apart_stay():
    np.testing.assert_allclose(spaced(np.array([0.9, 0.1, 0.5]), 0.1), [0.9, 0.1, 0.5])


def test_equal_heights_move_apart_evenly():
    np.testing.assert_allclose(spaced(np.array([0.5, 0.5, 0.5]), 0.1), [0.4, 0.5, 0.6])


@pytest.mark.parametrize("seed", range(10))
def test_the_labels_are_as_near_as_the_gap_allows(seed):
    rng = np.random.default_rng(seed)
    wanted, gap = np.sort(rng.uniform(size=5)), 0.15
    apart = {"type": "ineq", "fun": lambda y: np.diff(y) - gap}
    best = minimize(
        lambda y: ((y - wanted) ** 2).sum(),
        np.linspace(0, 1, 5),
        bounds=[(0, 1)] * 5,
        constraints=apart,
        options={"ftol": 1e-12},
    )
    np.testing.assert_allclose(spaced(wanted, gap), best.x, atol=1e-4)


def test_the_order_and_the_ends_are_kept():
    placed = spaced(np.array([1.0, 1.0, 0.0, 1.0]), 0.2)
    assert placed is not None
    np.testing.assert_allclose(placed, [0.6, 0.8, 0.0, 1.0])


def test_too_many_labels_have_no_room():
    assert spaced(np.full(7, 0.5), 0.2) is None and spaced(np.full(6, 0.5), 0.2) is not None
