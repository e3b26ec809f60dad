"""Means and exponents over seeds, with intervals of confidence `LEVEL` by Student's t."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from ngd_theory.errors import InputError, shown

#: Confidence of all intervals.
LEVEL = 0.95
#: Fewest seeds that give an interval.
MIN_SEEDS = 3


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes
    ----------
    value, low, high : float
        The mean and its interval; the ends are infinite for too few seeds or if a number is not finite.
    spread : float
        Standard deviation between seeds.
    num_seeds : int
    """

    value: float
    low: float
    high: float
    spread: float
    num_seeds: int

    def __str__(self) -> str:
        """``value [low, high]``."""
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def seed_mean(values: Any) -> Estimate:
    """Mean of one number per seed, with Student's t-interval over the seeds.

    ``mean +- t_{n-1} s / sqrt(n)``, s the standard deviation between seeds (n - 1 degrees of freedom). Resampling would
    not be better: with the few seeds of a sweep, percentiles of resampled means cover far less than `LEVEL`.
    """
    values = np.asarray(values, float)
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    if n < MIN_SEEDS or not np.isfinite(values).all():
        return Estimate(mean, -math.inf, math.inf, math.nan, n)
    spread = float(values.std(ddof=1)) if np.ptp(values) > 0 else 0.0
    half = half_width(spread, n)
    return Estimate(mean, mean - half, mean + half, spread, n)


def half_width(spread: float, n: int) -> float:
    """Half the width of the interval around the mean of n seeds."""
    return float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * spread / math.sqrt(n)


def power_law(x: Any, y: Any, seed: Any) -> Estimate:
    """Exponent p of ``y ~ x^p``: the log-log least-squares slope, with an interval over seeds.

    The slope is fitted to each seed's points and averaged over seeds by `seed_mean`. For a balanced grid
    the mean is the slope of all points together. Several points of one seed at one x (other axes of the
    grid) have equal weight.

    Parameters
    ----------
    x, y, seed : sequences of one length
        One entry per measurement; x > 0. A y that is not positive and finite makes the estimate NaN.

    Raises
    ------
    InputError
        If a seed has fewer than two different x, an x is not positive, or the three are not of one length.
    """
    x, y, seed = numbers("x", x), numbers("y", y), np.asarray(seed)
    if not x.shape == y.shape == seed.shape:
        raise InputError(f"x, y and seed have shapes {x.shape}, {y.shape} and {seed.shape}")
    if not (x > 0).all():
        raise InputError("a power law is fitted to positive x; some are not")
    return seed_mean([_slope(x[seed == s], y[seed == s]) for s in np.unique(seed)])


def numbers(name: str, values: Any) -> np.ndarray:
    """A sequence of numbers as floats."""
    try:
        found = np.asarray(values, float)
    except (TypeError, ValueError):
        found = np.asarray(0.0)
    if found.ndim != 1:
        raise InputError(f"{name} is {shown(values)}; it must be a sequence of real numbers")
    return found


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    if len(np.unique(x)) < 2:
        raise InputError("an exponent takes at least two different x for every seed")
    if not (np.isfinite(y) & (y > 0)).all():
        return math.nan
    u = np.log(x) - np.log(x).mean()
    return float(u @ np.log(y) / (u @ u))
