"""Estimates with intervals over seeds, and the three-way rule that judges them.

A claim is judged by the mean over seeds of one number for each seed, with an interval (`ngd_theory.estimates`). It
PASSES if the whole interval meets its rule, FAILS if none of it does, and is INCONCLUSIVE otherwise (`judge`).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError
from ngd_theory.estimates import MIN_SEEDS, Estimate, half_width, numbers
from ngd_theory.experiment.claim import Outcome

#: Most seeds worth asking for.
_MOST_SEEDS = 1_000_000


@dataclass(frozen=True)
class Rule:
    """The numbers a claim allows: those from ``low`` to ``high``, ends included."""

    low: float
    high: float

    @classmethod
    @checked
    def parse(cls, text: str) -> "Rule":
        """Read ``"<= x"``, ``">= x"`` or ``"in [a, b]"``.

        Raises
        ------
        InputError
            For anything else, or a > b.
        """
        number = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
        if found := re.fullmatch(rf"\s*<=\s*{number}\s*", text):
            return cls(-math.inf, float(found[1]))
        if found := re.fullmatch(rf"\s*>=\s*{number}\s*", text):
            return cls(float(found[1]), math.inf)
        found = re.fullmatch(rf"\s*in\s*\[\s*{number}\s*,\s*{number}\s*\]\s*", text)
        if found and float(found[1]) <= float(found[2]):
            return cls(float(found[1]), float(found[2]))
        raise InputError(f'rule {text!r} is none of "<= x", ">= x" and "in [a, b]" with a <= b')


def judge(estimate: Estimate, rule: Rule) -> tuple[Outcome, str]:
    """Three-way outcome, and the reason for it.

    PASS if the interval lies in the rule's range; FAIL if it lies outside; INCONCLUSIVE if it reaches
    across an end. For ``<= b``: PASS if the upper end is at most b, FAIL if the lower end is above b.
    If it is inconclusive, the reason says how many more seeds would decide, at the same value and spread.
    """
    if estimate.low >= rule.low and estimate.high <= rule.high:
        return Outcome.PASS, "the whole interval meets the rule"
    if estimate.low > rule.high or estimate.high < rule.low:
        return Outcome.FAIL, "the whole interval breaks the rule"
    if not math.isfinite(estimate.value):
        return Outcome.INCONCLUSIVE, "a seed's number is not finite"
    more = more_seeds(estimate, rule)
    if more is None:
        return Outcome.INCONCLUSIVE, "the value lies on the bound: no number of seeds tells"
    return (
        Outcome.INCONCLUSIVE,
        f"the interval reaches across the bound; about {more} more seeds tell",
    )


def more_seeds(estimate: Estimate, rule: Rule) -> int | None:
    """How many more seeds reduce the interval's half-width to the distance of the nearest bound; None if none do.

    The half-width of n seeds is ``t_{n-1} spread / sqrt(n)``. Fewer than `MIN_SEEDS` have no spread: the result is then
    the number of missing seeds.
    """
    if estimate.num_seeds < MIN_SEEDS:
        return MIN_SEEDS - estimate.num_seeds
    distance = min(abs(estimate.value - rule.low), abs(estimate.value - rule.high))
    low, high = estimate.num_seeds, _MOST_SEEDS
    if distance == 0 or half_width(estimate.spread, high) > distance:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if half_width(estimate.spread, middle) > distance:
            low = middle
        else:
            high = middle
    return high - estimate.num_seeds


def contraction_rate(residuals: Sequence[float] | Any, floor: float | None = None) -> float:
    """Factor by which a residual shrinks (or grows) in a step: ``exp`` of the slope of its logarithm over t.

    The slope is fitted by least squares to the entries before the first one at or below ``floor`` times the initial
    one, where round-off decides. If the first step already ends there, the result is the ratio of this step, an upper
    bound of the rate.

    Parameters
    ----------
    residuals : (T + 1,)
        Norms ``||r_t||``, t = 0, 1, ...; a NaN or infinity ends them.
    floor : float, optional
        By default 1,000 machine epsilons of float64.

    Raises
    ------
    InputError
        For fewer than two entries, a first one that is not positive, or negative ones.
    """
    r = numbers("residuals", residuals)
    finite = np.isfinite(r)
    r = r if finite.all() else r[: int(np.argmin(finite))]
    if len(r) < 2 or not r[0] > 0:
        raise InputError("a rate takes two finite residuals at least, the first above zero")
    if (r < 0).any():
        raise InputError(f"the residual {r.min():.3g} is negative; norms are not")
    r = r / r[0]
    above = r > (1e3 * np.finfo(float).eps if floor is None else floor)
    kept = len(r) if above.all() else int(np.argmin(above))
    if kept < 2:
        return float(r[1])
    t = np.arange(kept) - (kept - 1) / 2
    return float(np.exp(t @ np.log(r[:kept]) / (t @ t)))
