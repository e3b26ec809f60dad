"""Studies of the Fisher of a partly trained classifier and of its Kronecker approximations."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ngd_theory.data.loading import rounded_digest
from ngd_theory.errors import InputError, choose
from ngd_theory.estimates import Estimate, seed_mean
from ngd_theory.experiment.columns import Column
from ngd_theory.experiment.settings import Positive, PositiveInt, Seed
from ngd_theory.sweeps.base import AnyClaim, AnyStudy
from ngd_theory.sweeps.cells import Cell, require_distinct, require_few, settings_columns

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
    seed: Seed = 0
    data_dir: Path | None = None
    precision: Literal["float64"] = "float64"


@dataclass(frozen=True)
class StructureCell(Cell):
    """One classifier of a study."""

    kind: ClassVar[str] = "structure"
    format: ClassVar[int] = 2
    settings: StructureSettings

    @property
    def shape(self) -> str:
        """The same for all cells, which share one program."""
        return self.kind

    @property
    def description(self) -> str:
        """Damping and seed, for progress."""
        return f"gamma {self.settings.factor_damping:g}, seed {self.settings.seed}"

    @property
    def data_key(self) -> str:
        """Number of images, seed and folder."""
        return f"{self.settings.num_images} {self.settings.seed} {self.settings.data_dir}"

    def read_digest(self) -> str:
        """Digest of the images and classes."""
        from ngd_theory.optim.structure import small_digits

        s = self.settings
        return rounded_digest(*small_digits(s.num_images, seed=s.seed, data_dir=s.data_dir))

    def measure(self) -> list[dict[str, Any]]:
        """Train the classifier and tabulate the structure of its Fisher."""
        from ngd_theory.optim.structure import structure_rows

        s = self.settings
        self.require_precision()
        self.require_data(self.read_digest())
        found = structure_rows(
            s.seed,
            num_images=s.num_images,
            damping=s.factor_damping,
            until=s.until,
            data_dir=s.data_dir,
        )
        return [{name: row[name] for name in COLUMNS} for row in found]


class StructureClaim(AnyClaim):
    """A statement about a number of some matrices.

    Attributes
    ----------
    of : str
        A quantity of a whole matrix, over the middle layers or (``*_all``) over all.
    matrices : tuple of str
        One verdict each.
    over : str or None
        Divide by the same quantity of this matrix.
    """

    of: Quantity
    matrices: tuple[str, ...] = Field(min_length=1)
    over: str | None = None

    @model_validator(mode="after")
    def _known_matrices(self):
        from ngd_theory.optim.structure import MATRICES, REFERENCES

        known = REFERENCES if self.of.startswith("relative_error") else dict.fromkeys(MATRICES)
        for name in (*self.matrices, *([self.over] if self.over else [])):
            choose(known, name, f"matrix with a {self.of}")
        return self

    def subjects(self, study: Any) -> Sequence[str]:
        """The matrices."""
        return self.matrices

    @property
    def what(self) -> str:
        """The statistic in words."""
        return self.of if self.over is None else f"{self.of} over that of {self.over}"

    def check(self, study: Any, cells: Sequence[Cell]) -> None:
        """Also check that the claim is about classifiers of one damping."""
        super().check(study, cells)
        if (
            len({c.settings.factor_damping for c in cells}) > 1
            and "factor_damping" not in self.where
        ):
            raise InputError(
                f"claim {self.statement!r} is about {len(cells)} classifiers; name one of the dampings in where"
            )

    def estimate(self, subject: str, rows: Any) -> Estimate:
        """One number for each seed: that of the matrix, or its ratio to that of the other matrix."""
        whole = rows[(rows["quantity"] == self.of) & (rows["layer"] == 0)]
        values = self._of_matrix(whole, subject)
        return seed_mean(
            values if self.over is None else values / self._of_matrix(whole, self.over)
        )

    def _of_matrix(self, rows: Any, name: str) -> Any:
        found = rows[rows["matrix"] == name].set_index("seed")["value"]
        if found.empty or not found.index.is_unique:
            raise InputError(f"there is not exactly one {self.of} of {name} for each seed")
        return found


class StructureStudy(AnyStudy):
    """Contents of a study file with ``kind = "structure"``."""

    columns: ClassVar[Mapping[str, Column]] = COLUMNS
    config_columns: ClassVar[tuple[str, ...]] = settings_columns(StructureSettings, "data_dir")

    kind: Literal["structure"]
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
        cells = self.cells()
        require_distinct(cells, "a classifier")
        for claim in self.claims:
            claim.check(self, cells)
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
