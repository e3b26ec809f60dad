"""Distances between outputs along trajectories. A distance that is not a number counts as infinite."""

import numpy as np

from ngd_theory.dynamics import Trajectory

#: A norm shows nothing if it is below this many roundings of the first norm.
RESOLVED = 1e3


def residual_ratios(trajectory: Trajectory, targets) -> np.ndarray:
    """``||f_t - y|| / ||f_0 - y||`` along a trajectory; infinite where it is not a number."""
    norms = _norms(np.asarray(trajectory.outputs) - np.asarray(targets))
    with np.errstate(divide="ignore", invalid="ignore"):
        return _numbers(norms / norms[0])


def gaps(left, right, scale: float) -> np.ndarray:
    """``||left_t - right_t||_F / scale`` at every step that both have; what is not a number is infinite."""
    length = min(len(left), len(right))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        difference = np.asarray(left)[:length] - np.asarray(right)[:length]
        return _numbers(_norms(difference) / np.float64(scale))


def sup_gap(left, right, scale: float) -> float:
    """The largest of `gaps`."""
    return float(np.max(gaps(left, right, scale)))


def reach(outputs) -> float:
    """``sup_t ||f_t - f_0||``."""
    outputs = np.asarray(outputs)
    return float(np.max(_norms(outputs - outputs[0])))


def _norms(steps: np.ndarray) -> np.ndarray:
    """Norm of every step; infinite where one is not a number or beyond the range of its floats."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _numbers(np.linalg.norm(steps.reshape(len(steps), -1), axis=1))


def _numbers(values: np.ndarray) -> np.ndarray:
    """Infinity in the place of NaN."""
    return np.where(np.isnan(values), np.inf, values)


def mean_contraction(norms, epsilon: float = np.finfo(float).eps) -> float:
    """Geometric mean of the factors from one of ``norms`` (T + 1,) to the next, down to round-off.

    NaN if there is no step, or a norm is not finite. ``epsilon`` is the relative rounding error of the first norm.
    """
    norms = np.asarray(norms, float)
    if not norms[0] > 0 or not np.isfinite(norms).all():
        return float("nan")
    rounded = norms <= RESOLVED * epsilon * norms[0]
    last = int(np.argmax(rounded)) if rounded.any() else len(norms) - 1
    return float((norms[last] / norms[0]) ** (1 / last)) if last else float("nan")
