"""Studies of the Fisher of a partly trained classifier and of its Kronecker approximations."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ngd_theory.claims.settings import Positive, PositiveInt
from ngd_theory.errors import InputError, choose
from ngd_theory.sweeps.cells import SettingsCell, require_distinct, require_few
from ngd_theory.sweeps.statistics import Outcome, Rule, judge, seed_mean
from ngd_theory.sweeps.table import Column
from ngd_theory.sweeps.validation import InWords
from ngd_theory.sweeps.verdicts import StudyVerdict

Quantity = Literal[
    "relative_error", "relative_error_all", "off_tridiagonal_share", "off_tridiagonal_share_all"
]

COLUMNS: dict[str, Column] = {
    "matrix": Column("string", "see `ngd_theory.optim.structure.MATRICES`"),
    "layer": Column("int64", "row of the block, from 1; 0: a number of many blocks"),
    "other": Column("int64", "column of the block"),
    "quantity": Column("string", "see `ngd_theory.optim.structure.rows`"),
    "value": Column("float64", "of the quantity"),
    "steps": Column("int64", "K-FAC steps that trained the classifier"),
    "train_loss": Column("float64", "its cross-entropy"),
    "train_error": Column("float64", "share of wrong classes"),
}


class StructureSettings(BaseModel):
    """One classifier.

    Attributes
    ----------
    num_images : int
    factor_damping : float
        gamma of the damped matrices.
    until : float
        Training stops at this share of the loss of guessing.
    seed : int
    data_dir : path or None
    precision : "float64"
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_images: PositiveInt = 5000
    factor_damping: Positive = 0.1
    until: Positive = 0.1
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data_dir: Path | None = None
    precision: Literal["float64"] = "float64"


#: Settings that are columns too.
CONFIG_COLUMNS: tuple[str, ...] = tuple(
    n for n in StructureSettings.model_fields if n != "data_dir"
)


@dataclass(frozen=True)
class StructureCell(SettingsCell):
    """One classifier of a study."""

    kind: ClassVar[str] = "structure"
    format: ClassVar[int] = 1
    settings: StructureSettings

    @property
    def shape(self) -> str:
        """One program serves all."""
        return self.kind

    @property
    def description(self) -> str:
        """For progress."""
        return f"gamma {self.settings.factor_damping:g}, seed {self.settings.seed}"


class StructureClaim(BaseModel):
    """A statement about a number of some matrices.

    Attributes
    ----------
    statement : str
    of : str
        A quantity of a whole matrix: over the middle layers or, as ``*_all``, over all.
    matrices : tuple of str
        One verdict each.
    over : str or None
        Divide by the same quantity of this matrix.
    where : dict
        Settings that the rows must have.
    rule : str
    expect : {"PASS", "FAIL"}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    statement: str = Field(min_length=1)
    of: Quantity
    matrices: tuple[str, ...] = Field(min_length=1)
    over: str | None = None
    where: dict[str, Any] = {}
    rule: str
    expect: Literal["PASS", "FAIL"] = "PASS"

    @model_validator(mode="after")
    def _known(self):
        from ngd_theory.optim.structure import MATRICES, REFERENCES

        Rule.parse(self.rule)
        known = REFERENCES if self.of.startswith("relative_error") else dict.fromkeys(MATRICES)
        for name in (*self.matrices, *([self.over] if self.over else [])):
            choose(known, name, f"matrix with a {self.of}")
        for name in self.where:
            choose(dict.fromkeys(CONFIG_COLUMNS), name, "setting")
        return self


class StructureStudy(BaseModel, metaclass=InWords):
    """What a study file with ``kind = "structure"`` holds."""

    made_by: ClassVar[str] = 'ngd.sweeps.read("my.toml")'
    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["structure"]
    title: str = Field(min_length=1)
    statement: str = Field(min_length=1)
    num_images: PositiveInt = 5000
    factor_damping: tuple[Positive, ...] = Field((0.1,), min_length=1)
    until: Positive = 0.1
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    data_dir: Path | None = None
    precision: Literal["float64"] = "float64"
    claims: tuple[StructureClaim, ...] = ()

    @model_validator(mode="after")
    def _whole(self):
        require_few(self.num_cells)
        require_distinct(self.cells(), "a classifier")
        for claim in self.claims:
            about = [
                cell.settings
                for cell in self.cells()
                if all(getattr(cell.settings, n) == v for n, v in claim.where.items())
            ]
            if len({s.factor_damping for s in about}) != 1:
                raise InputError(
                    f"claim {claim.statement!r} is about {len(about)} classifiers; name one of the dampings in where"
                )
        return self

    @property
    def num_cells(self) -> int:
        """How many classifiers there are, at every damping."""
        return len(self.factor_damping) * len(self.seeds)

    def cells(self) -> list[StructureCell]:
        """Every classifier at every damping."""
        return [
            StructureCell(
                StructureSettings(
                    num_images=self.num_images,
                    factor_damping=gamma,
                    until=self.until,
                    seed=seed,
                    data_dir=self.data_dir,
                )
            )
            for gamma, seed in itertools.product(self.factor_damping, self.seeds)
        ]


def measure_cell(cell: StructureCell) -> list[dict[str, Any]]:
    """Train the classifier and tabulate the structure of its Fisher."""
    from ngd_theory.optim.structure import structure_rows

    s = cell.settings
    cell.require_precision()
    found = structure_rows(
        s.seed,
        num_images=s.num_images,
        damping=s.factor_damping,
        until=s.until,
        data_dir=s.data_dir,
    )
    return [{name: row[name] for name in COLUMNS} for row in found]


def config_row(settings: dict[str, Any]) -> dict[str, Any]:
    """`CONFIG_COLUMNS` of a stored cell."""
    return {name: settings[name] for name in CONFIG_COLUMNS}


def evaluate(study: StructureStudy, frame: pd.DataFrame) -> tuple[StudyVerdict, ...]:
    """Judge every claim of a study, for each of its matrices."""
    return tuple(_judge(c, name, frame) for c in study.claims for name in c.matrices)


def _judge(claim: StructureClaim, matrix: str, frame: Any) -> StudyVerdict:
    what = claim.of if claim.over is None else f"{claim.of} over that of {claim.over}"
    where = ", ".join(f"{name} = {value}" for name, value in claim.where.items())
    names = (
        *(claim.statement, matrix, f"{what} ({where})" if where else what),
        *(claim.rule, claim.expect),
    )
    for name, value in claim.where.items():
        frame = frame[frame[name] == value]
    whole = frame[(frame["quantity"] == claim.of) & (frame["layer"] == 0)]
    values = whole[whole["matrix"] == matrix].groupby("seed")["value"].mean()
    if claim.over is not None:
        values = values / whole[whole["matrix"] == claim.over].groupby("seed")["value"].mean()
    if values.empty:
        return StudyVerdict(*names, Outcome.INCONCLUSIVE, None, "no cell of this kind is finished")
    estimate = seed_mean(values)
    judgement = judge(estimate, Rule.parse(claim.rule))
    return StudyVerdict(*names, judgement.outcome, estimate, judgement.why)
