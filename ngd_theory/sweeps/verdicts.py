"""A study's claims, judged on its table."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ngd_theory.errors import InputError
from ngd_theory.sweeps.statistics import (
    Estimate,
    Outcome,
    Rule,
    contraction_rate,
    judge,
    power_law,
    seed_mean,
)
from ngd_theory.sweeps.study import Study, StudyClaim

#: Columns that are empty where the theory states no constant.
_OF_A_CONSTANT = ("predicted_constant", "constant_error")


@dataclass(frozen=True)
class StudyVerdict:
    """One claim's outcome for one approximation.

    Attributes
    ----------
    statement, approximation, statistic : str
        ``statistic`` in words, with what it is of and where.
    rule, expect : str
    outcome : Outcome
    estimate : Estimate or None
        None where the claim does not apply.
    why : str
    """

    statement: str
    approximation: str
    statistic: str
    rule: str
    expect: str
    outcome: Outcome
    estimate: Estimate | None
    why: str

    @property
    def as_expected(self) -> bool:
        """Whether the outcome is the expected one; one that does not apply contradicts nothing."""
        return self.outcome in (self.expect, Outcome.NOT_APPLICABLE)


def evaluate(study: Study, frame: pd.DataFrame) -> tuple[StudyVerdict, ...]:
    """Judge every claim of a study, for each approximation and each value of its ``each``.

    Parameters
    ----------
    study : Study
    frame : pandas.DataFrame
        As `load` returns it.
    """
    verdicts = []
    for claim in study.claims:
        for approximation in claim.approximations or study.approximations:
            rows = claimed_rows(claim, approximation, frame)
            groups: Any = [((), rows)]
            if claim.each:
                groups = rows.groupby(list(claim.each), dropna=False)
            found = [
                _judge(claim, approximation, dict(zip(claim.each, key, strict=True)), group)
                for key, group in groups
            ]
            verdicts += found or [_judge(claim, approximation, {}, rows)]
    return tuple(verdicts)


def claimed_rows(claim: StudyClaim, approximation: str, frame: pd.DataFrame) -> Any:
    """Rows of one approximation that a claim's ``where`` asks for, within the premises or not."""
    rows: Any = frame[frame["approximation"] == approximation]
    for name, value in claim.where.items():
        rows = rows[rows[name] == value]
    return rows


def _judge(
    claim: StudyClaim, approximation: str, values: dict[str, Any], rows: Any
) -> StudyVerdict:
    where = ", ".join(f"{name} = {value}" for name, value in {**claim.where, **values}.items())
    what = claim.statistic if claim.of is None else f"{claim.statistic} of {claim.of}"
    what += f" over {claim.over}" if claim.statistic == "exponent" else ""
    label = (
        *(claim.statement, approximation, f"{what} ({where})" if where else what),
        *(claim.rule, claim.expect),
    )
    if rows.empty:
        return StudyVerdict(*label, Outcome.INCONCLUSIVE, None, "no cell of this kind is finished")
    wanted = rows[rows["applicable"] != claim.outside_premise]
    if wanted.empty:
        why = "no grid point breaks a premise" if claim.outside_premise else rows["reason"].iloc[0]
        return StudyVerdict(*label, Outcome.NOT_APPLICABLE, None, why)
    if claim.of in _OF_A_CONSTANT and wanted[claim.of].isna().all():
        why = f"the theory states no constant of {approximation} here"
        return StudyVerdict(*label, Outcome.NOT_APPLICABLE, None, why)
    try:
        estimate = STATISTICS[claim.statistic](claim, wanted)
    except InputError as error:
        return StudyVerdict(*label, Outcome.INCONCLUSIVE, None, str(error))
    judgement = judge(estimate, Rule.parse(claim.rule))
    return StudyVerdict(*label, judgement.outcome, estimate, judgement.why)


def _exponent(claim: StudyClaim, rows: Any) -> Estimate:
    """Power of ``over`` that ``of`` follows, of its largest value over the steps (`power_law`)."""
    peaks = rows.groupby(["cell", "seed", claim.over])[claim.of].agg(worst).reset_index()
    return power_law(peaks[claim.over], peaks[claim.of], peaks["seed"])


def _extreme(reduce: Callable | str) -> Callable[[StudyClaim, Any], Estimate]:
    def statistic(claim: StudyClaim, rows: Any) -> Estimate:
        """Each seed's max, min or mean of ``of`` over all grid points and steps, averaged over seeds."""
        return seed_mean(rows.groupby("seed")[claim.of].agg(reduce))

    return statistic


def _rate(claim: StudyClaim, rows: Any) -> Estimate:
    """Factor by which the residual shrinks a step, the largest of each seed's cells."""
    return seed_mean(contraction_rates(rows).groupby("seed")["rate"].max())


def _rate_error(claim: StudyClaim, rows: Any) -> Estimate:
    """Largest ``abs(rate - abs(1 - eta alpha))`` of each seed's cells."""
    rates = contraction_rates(rows)
    errors = (rates["rate"] - (1 - rates["step_scale"]).abs()).abs()
    return seed_mean(errors.groupby(rates["seed"]).max())


def contraction_rates(rows: Any) -> pd.DataFrame:
    """The first row of every cell and, as ``rate``, its residual's `contraction_rate`."""
    rows = rows.sort_values(["cell", "step"])
    cells = rows.drop_duplicates("cell")
    starts = np.flatnonzero(~rows["cell"].duplicated().to_numpy())
    trajectories = np.split(rows["residual"].to_numpy(), starts[1:])
    floors = [1e3 * float(np.finfo(np.dtype(p)).eps) for p in cells["precision"]]
    found = [contraction_rate(r, floor) for r, floor in zip(trajectories, floors, strict=True)]
    return cells.assign(rate=found)


def worst(values: Any) -> float:
    """Largest value measured: infinite ones count, entries that were never measured do not."""
    known = values.dropna()
    return float(known.max()) if len(known) else math.nan


STATISTICS: dict[str, Callable[[StudyClaim, Any], Estimate]] = {
    "exponent": _exponent,
    "max": _extreme(worst),
    "min": _extreme("min"),
    "mean": _extreme("mean"),
    "rate": _rate,
    "rate-error": _rate_error,
}
