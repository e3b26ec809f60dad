"""A claim's rows as curves over one setting: one number for each cell, one curve for each approximation."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ngd_theory.errors import InputError
from ngd_theory.estimates import Estimate
from ngd_theory.experiment.claim import NotApplicableError
from ngd_theory.sweeps.theory import Study
from ngd_theory.sweeps.theory_cells import CONFIG_COLUMNS
from ngd_theory.sweeps.theory_claims import STATISTICS, Statistic, StudyClaim

#: Most values of settings without an order that get panels of their own.
_MOST_CATEGORIES = 6


@dataclass(frozen=True)
class Panel:
    """The curves of one value of the claim's ``each`` and of the settings without an order.

    Attributes
    ----------
    where : dict
        Their values; empty if there is one panel.
    curves : dict of str to pandas.DataFrame
        By approximation: one row for each cell, with its settings and its number as ``value``.
    estimates : dict of str to Estimate
        By approximation: the estimate that a verdict on these rows judges.
    """

    where: dict[str, Any]
    curves: dict[str, pd.DataFrame]
    estimates: dict[str, Estimate]


@dataclass(frozen=True)
class Series:
    """What a claim's figure shows.

    Attributes
    ----------
    claim : StudyClaim
    axis : str or None
        Setting on the horizontal axis. None if no numeric setting varies: the axis then shows the approximations.
    panels : tuple of Panel
    pooled : tuple of str
        Settings besides the seed that vary within a curve at one x.
    """

    claim: StudyClaim
    axis: str | None
    panels: tuple[Panel, ...]
    pooled: tuple[str, ...]

    @property
    def statistic(self) -> Statistic:
        """Statistic of the claim, which defines how the figure looks."""
        return STATISTICS[self.claim.statistic]

    @property
    def values(self) -> np.ndarray:
        """All the numbers."""
        return np.concatenate([c["value"] for p in self.panels for c in p.curves.values()])


def series(study: Study, claim: StudyClaim, frame: pd.DataFrame) -> Series | None:
    """Reduce the rows on which a claim is judged to curves; None if there are none.

    Rows are chosen as `ngd_theory.sweeps.evaluate` chooses them, from the cells that are finished.

    Raises
    ------
    InputError
        If a residual has no rate.
    """
    statistic, numbers = STATISTICS[claim.statistic], {}
    frame = matching(frame, claim.where)
    for name in claim.subjects(study):
        with suppress(NotApplicableError):
            numbers[name] = statistic.cells(claim, claim.rows(name, frame))
    if not numbers:
        return None
    together: Any = pd.concat(numbers.values())
    varying = _varying(together)
    axis = _axis(claim, together, varying)
    each = [name for name in claim.each if name != axis]
    each += _categories(claim, together, [n for n in varying if n not in each])
    panels = []
    points = together[each].drop_duplicates().to_dict("records") if each else [{}]
    for where in points:
        cut = {name: matching(cells, where) for name, cells in numbers.items()}
        curves = {name: cells for name, cells in cut.items() if len(cells)}
        estimates = {}
        for name, cells in curves.items():
            with suppress(InputError):  # too few points, which the verdict says
                estimates[name] = statistic.seeds(claim, cells)
        panels.append(Panel(where, curves, estimates))
    pooled = tuple(n for n in varying if n not in (axis, "seed", *each))
    return Series(claim, axis, tuple(panels), pooled)


def spread(cells: pd.DataFrame, axis: str, geometric: bool) -> pd.DataFrame:
    """``centre``, ``low``, ``high`` and ``count`` of the finite values at each x, which is the index.

    The centre is the mean, as in the verdicts. If ``geometric``, it is the geometric mean of the positive values,
    through which a power law is fitted. Low and high are the extremes.
    """
    value = cells["value"]
    kept = cells[np.isfinite(value) & (value > 0 if geometric else True)]
    groups = kept.groupby(axis)["value"]
    centre = groups.agg(lambda v: float(np.exp(np.log(v).mean()))) if geometric else groups.mean()
    counts = {"low": groups.min(), "high": groups.max(), "count": groups.size()}
    return pd.DataFrame({"centre": centre, **counts})


def _varying(cells: Any) -> list[str]:
    return [name for name in CONFIG_COLUMNS if cells[name].nunique(dropna=False) > 1]


def _axis(claim: StudyClaim, cells: Any, varying: list[str]) -> str | None:
    if STATISTICS[claim.statistic].fitted:
        return claim.over
    numeric = [name for name in varying if name != "seed" and _is_numeric(cells[name])]
    first = STATISTICS[claim.statistic].first_axis
    if first in numeric:
        return first
    return max(numeric, key=lambda name: cells[name].nunique(), default=None)


def _categories(claim: StudyClaim, cells: Any, varying: list[str]) -> list[str]:
    """Settings without an order, such as the activation, that get panels: those that vary, if their values are few.

    An exponent has none, as it is fitted to all of them together.
    """
    found = [name for name in varying if not _is_numeric(cells[name])]
    few = len(cells[found].drop_duplicates()) <= _MOST_CATEGORIES if found else False
    return found if few and not STATISTICS[claim.statistic].fitted else []


def _is_numeric(values: Any) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def matching(cells: Any, where: dict[str, Any]) -> Any:
    """Rows with these settings; None matches what is missing."""
    for name, value in where.items():
        cells = cells[cells[name].isna() if pd.isna(value) else cells[name] == value]
    return cells
