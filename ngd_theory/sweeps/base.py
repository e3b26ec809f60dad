"""Base classes of studies and of their claims, and the function that judges the claims."""

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ngd_theory.errors import InputError, choose
from ngd_theory.estimates import Estimate
from ngd_theory.experiment.claim import NotApplicableError, Outcome
from ngd_theory.experiment.columns import Column
from ngd_theory.sweeps.cells import Cell, point_of
from ngd_theory.sweeps.statistics import Rule, judge
from ngd_theory.sweeps.validation import InWords


@dataclass(frozen=True)
class StudyVerdict:
    """Result of a claim of a study for one of its subjects.

    Attributes
    ----------
    statement : str
    approximation : str
        The subject: an approximation, the label of an optimiser, a matrix.
    statistic : str
        In words, with its column and the settings of its cells.
    rule, expect : str
    outcome : Outcome
    estimate : Estimate or None
        None where nothing was estimated.
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
        """Whether the outcome is the expected one. An undecided outcome never is, not even for a negative control."""
        return self.outcome == self.expect


class AnyClaim(BaseModel, abc.ABC):
    """A statement about the measured table, with the statistic and the rule that judge it.

    Each kind of study defines what a claim is about (`subjects`), which cells give evidence (`concerns`) and the
    estimate from their rows (`estimate`). `evaluate` does the rest in the same way for all kinds.

    Attributes
    ----------
    statement : str
    rule : str
        ``"<= x"``, ``">= x"`` or ``"in [a, b]"``; see `ngd_theory.sweeps.statistics.Rule`.
    where : dict
        Settings that the cells must have.
    each : tuple of str
        Settings. There is one verdict for each of their values.
    expect : {"PASS", "FAIL"}
        FAIL for a negative control: a statement that the theory says is false.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    statement: str = Field(min_length=1)
    rule: str
    where: dict[str, Any] = {}
    each: tuple[str, ...] = ()
    expect: Literal["PASS", "FAIL"] = "PASS"

    @model_validator(mode="after")
    def _readable_rule(self):
        Rule.parse(self.rule)
        return self

    @abc.abstractmethod
    def subjects(self, study: Any) -> Sequence[str]:
        """Subjects of the claim; there is one verdict for each."""

    @property
    @abc.abstractmethod
    def what(self) -> str:
        """The statistic in words."""

    @abc.abstractmethod
    def estimate(self, subject: str, rows: pd.DataFrame) -> Estimate:
        """Estimate from the rows of the cells that the claim concerns.

        Raises
        ------
        NotApplicableError
            If the statement says nothing about them.
        InputError
            If the statistic cannot be computed from them.
        """

    def concerns(self, subject: str, settings: Any) -> bool:
        """Whether a cell with these settings gives evidence about the subject, apart from ``where``."""
        return True

    @property
    def row_filters(self) -> Mapping[str, Column]:
        """Measured columns that ``where`` may name beside the settings."""
        return {}

    def check(self, study: "AnyStudy", cells: Sequence[Cell]) -> None:
        """Raise `InputError` if the claim needs something that the study does not have."""
        names = dict.fromkeys((*study.config_columns, *self.row_filters))
        for name in (*self.where, *self.each):
            choose(names, name, "setting")
        for name, value in self.where.items():
            if name in self.row_filters:
                continue
            known = list(dict.fromkeys(getattr(cell.settings, name) for cell in cells))
            if isinstance(value, list | dict) or value not in known:
                raise InputError(
                    f"claim {self.statement!r}: no grid point has where.{name} = {value!r}; there are "
                    + ", ".join(map(str, known))
                )


class AnyStudy(BaseModel, abc.ABC, metaclass=InWords):
    """Contents of a study file. Each kind of study adds its own keys.

    Attributes
    ----------
    kind, precision : str
    title, statement : str
        One line each; the statement is what the study tests.
    source : str
        Where the statement comes from. Papers that it names are cited (`ngd_theory.references`).
    claims : tuple of AnyClaim
    """

    made_by: ClassVar[str] = 'ngd.sweeps.read("my.toml")'
    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Columns of a cell's rows.
    columns: ClassVar[Mapping[str, Column]]
    #: Settings that are columns too.
    config_columns: ClassVar[tuple[str, ...]]
    #: Defaults of settings that stored cells may leave out.
    config_defaults: ClassVar[dict[str, Any]] = {}

    kind: Any
    precision: Any
    title: str = Field(min_length=1)
    statement: str = Field(min_length=1)
    source: str = ""
    claims: tuple[Any, ...] = ()

    @model_validator(mode="after")
    def _short_head(self):
        if "\n" in self.title + self.statement + self.source:
            raise InputError("title, statement and source are one line each")
        return self

    @property
    @abc.abstractmethod
    def num_cells(self) -> int:
        """How many cells there are, counted without making them."""

    @abc.abstractmethod
    def cells(self) -> Sequence[Cell]:
        """Every cell, in the order of the file."""


def evaluate(
    study: AnyStudy, frame: pd.DataFrame, failures: Mapping[str, str] | None = None
) -> tuple[StudyVerdict, ...]:
    """Judge every claim of a study, for each of its subjects and each value of its ``each``.

    A claim is INCONCLUSIVE if some of its cells are missing, as these could contradict it.

    Parameters
    ----------
    study : AnyStudy
    frame : pandas.DataFrame
        As `ngd_theory.sweeps.load` returns it.
    failures : dict of str to str, optional
        Errors of cells that failed, by id.
    """
    errors = {point_of(id): error for id, error in (failures or {}).items()}
    cells = study.cells()
    points = frame["cell"].map(point_of)
    return tuple(
        _judge(claim, subject, group, frame, points, errors)
        for claim in study.claims
        for subject in claim.subjects(study)
        for group in _groups(claim, [c for c in cells if claim.concerns(subject, c.settings)])
    )


def _groups(claim: AnyClaim, cells: Sequence[Cell]) -> Iterator[tuple[dict[str, Any], list[Cell]]]:
    """Cells with the settings that a claim asks for, by the values of its ``each``."""
    where = {name: v for name, v in claim.where.items() if name not in claim.row_filters}
    about = [c for c in cells if all(getattr(c.settings, n) == v for n, v in where.items())]
    groups: dict[tuple[Any, ...], list[Cell]] = {} if claim.each and about else {(): []}
    for cell in about:
        key = tuple(getattr(cell.settings, name) for name in claim.each)
        groups.setdefault(key, []).append(cell)
    for key, group in groups.items():
        yield dict(zip(claim.each, key, strict=False)), group


def _judge(
    claim: AnyClaim,
    subject: str,
    group: tuple[dict[str, Any], list[Cell]],
    frame: pd.DataFrame,
    points: Any,
    errors: Mapping[str, str],
) -> StudyVerdict:
    values, cells = group
    where = ", ".join(f"{name} = {value}" for name, value in {**claim.where, **values}.items())
    label = (
        *(claim.statement, subject, f"{claim.what} ({where})" if where else claim.what),
        *(claim.rule, claim.expect),
    )
    wanted = {cell.point for cell in cells}
    rows: Any = frame[points.isin(wanted)]
    if missing := wanted - set(points):
        why = _missing(len(missing), len(wanted), [errors[p] for p in missing if p in errors])
        return StudyVerdict(*label, Outcome.INCONCLUSIVE, None, why)
    for name, value in claim.where.items():
        if name in claim.row_filters:
            rows = rows[rows[name] == value]
    try:
        estimate = claim.estimate(subject, rows)
    except NotApplicableError as reason:
        return StudyVerdict(*label, Outcome.NOT_APPLICABLE, None, str(reason))
    except InputError as error:
        return StudyVerdict(*label, Outcome.INCONCLUSIVE, None, str(error))
    return StudyVerdict(*label, *_outcome(estimate, claim.rule))


def _outcome(estimate: Estimate, rule: str) -> tuple[Outcome, Estimate, str]:
    outcome, why = judge(estimate, Rule.parse(rule))
    return outcome, estimate, why


def _missing(count: int, total: int, failed: Sequence[str]) -> str:
    """How many cells are missing, and why."""
    whole = f"{count} of the {total} cells are missing: "
    parts = []
    if failed:
        parts.append(f"{len(failed)} failed ({failed[0]})")
    if count > len(failed):
        parts.append(f"{count - len(failed)} not finished")
    return whole + ", ".join(parts)
