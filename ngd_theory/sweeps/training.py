"""Studies of optimisers: the same network and data trained by several, each with a grid of options."""

import itertools
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ngd_theory.claims.settings import NonNegative, Positive, PositiveInt
from ngd_theory.errors import InputError, choose
from ngd_theory.sweeps.cells import SettingsCell, require_distinct, require_few
from ngd_theory.sweeps.statistics import MIN_SEEDS, Outcome, Rule, judge, seed_mean
from ngd_theory.sweeps.table import Column
from ngd_theory.sweeps.validation import InWords
from ngd_theory.sweeps.verdicts import StudyVerdict

Option = bool | int | float | str

COLUMNS: dict[str, Column] = {
    "step": Column("int64", "updates made"),
    "seconds": Column("float64", "spent in steps, compilation and evaluations apart"),
    "error": Column(
        "float64",
        "of the training set: an autoencoder's mean squared error, summed over pixels; a classifier's cross-entropy",
    ),
    "objective": Column("float64", "loss of the last batch before its step, l2 term apart"),
    "damping": Column("float64", "K-FAC's lambda"),
    "factor_damping": Column("float64", "K-FAC's gamma"),
}


class TrainingSettings(BaseModel):
    """One training run.

    Attributes
    ----------
    problem : str
        Name in `ngd_theory.optim.problems.PROBLEMS`: network, data and loss.
    num_images : int or None
        All there are when None.
    data_dir : path or None
    l2 : float
    init_scale : float or None
        Of the effective weights; the problem's own when None.
    label : str
        What the run is called in figures and claims: runs of one label differ in their options.
    optimizer : str
        Name in `ngd_theory.optim.optimizers.OPTIMIZERS`.
    options : dict
        Its options.
    first_batch, last_batch : int
        Sizes of the first and the last mini-batch, `ngd_theory.optim.batch_sizes` between.
    steps, record_every : int
    seed : int
        Of the initial parameters, the order of the rows and the sampled targets.
    precision : {"float32", "float64"}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: str
    num_images: PositiveInt | None = None
    data_dir: Path | None = None
    l2: NonNegative = 1e-5
    init_scale: Positive | None = None
    label: str = Field(min_length=1)
    optimizer: str
    options: dict[str, Option] = {}
    first_batch: PositiveInt
    last_batch: PositiveInt
    steps: PositiveInt
    record_every: PositiveInt = 20
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    precision: Literal["float32", "float64"] = "float32"


#: Settings that are columns too; ``options`` as JSON.
CONFIG_COLUMNS: tuple[str, ...] = tuple(n for n in TrainingSettings.model_fields if n != "data_dir")


@dataclass(frozen=True)
class TrainingCell(SettingsCell):
    """One training run of a study."""

    kind: ClassVar[str] = "training"
    format: ClassVar[int] = 2
    settings: TrainingSettings

    @property
    def shape(self) -> str:
        """The order of the file: runs of one label side by side."""
        return self.settings.label

    @property
    def description(self) -> str:
        """For progress."""
        s = self.settings
        return f"{s.problem}, {s.label} {json.dumps(s.options)}, seed {s.seed}"


class Contender(BaseModel):
    """An optimiser of the study, with the options that its runs vary.

    Attributes
    ----------
    label : str
        Entries of one label are one contender, whose best run counts.
    optimizer : str
    batch : int or (int, int)
        Size of the mini-batches, or of the first and the last (`ngd_theory.optim.batch_sizes`).
    steps : int
    options : dict
        Of every run.
    grid : dict of str to tuple
        Options that vary; the runs are the Cartesian product.
    record_every, seeds
        The study's when None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str = Field(min_length=1)
    optimizer: str
    batch: PositiveInt | tuple[PositiveInt, PositiveInt]
    steps: PositiveInt
    options: dict[str, Option] = {}
    grid: dict[str, Annotated[tuple[Option, ...], Field(min_length=1)]] = {}
    record_every: PositiveInt | None = None
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] | None = None


class TrainingClaim(BaseModel):
    """A statement that compares two labels, or one with a number.

    Attributes
    ----------
    statement : str
    statistic : {"error", "fewer-steps", "less-time"}
        "error": the final error of the best run. "fewer-steps" and "less-time": what the best run of ``than`` takes to
        get to its own final error over what this takes. Seconds compare only runs of one machine at the same load.
    labels : tuple of str
        Of optimizers; one verdict each.
    than : str or None
        The label compared with; not for "error".
    rule : str
    expect : {"PASS", "FAIL"}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    statement: str = Field(min_length=1)
    statistic: Literal["error", "fewer-steps", "less-time"]
    labels: tuple[str, ...] = Field(min_length=1)
    than: str | None = None
    rule: str
    expect: Literal["PASS", "FAIL"] = "PASS"

    @model_validator(mode="after")
    def _whole(self):
        Rule.parse(self.rule)
        if (self.than is None) != (self.statistic == "error"):
            raise InputError("give `than` with fewer-steps and less-time, and only with these")
        return self

    @property
    def compared(self) -> tuple[str, ...]:
        """The label compared with, if any."""
        return () if self.than is None else (self.than,)

    @property
    def what(self) -> str:
        """The statistic in words."""
        return {
            "error": "final training error",
            "fewer-steps": f"steps of {self.than} over steps to its final error",
            "less-time": f"seconds of {self.than} over seconds to its final error",
        }[self.statistic]


class TrainingStudy(BaseModel, metaclass=InWords):
    """What a study file with ``kind = "training"`` holds."""

    made_by: ClassVar[str] = 'ngd.sweeps.read("my.toml")'
    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["training"]
    title: str = Field(min_length=1)
    statement: str = Field(min_length=1)
    problem: str
    num_images: PositiveInt | None = None
    data_dir: Path | None = None
    l2: NonNegative = 1e-5
    init_scale: Positive | None = None
    record_every: PositiveInt = 20
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    precision: Literal["float32", "float64"] = "float32"
    optimizers: tuple[Contender, ...] = Field(min_length=1)
    claims: tuple[TrainingClaim, ...] = ()

    @model_validator(mode="after")
    def _known(self):
        for c in self.optimizers:
            if both := set(c.options) & set(c.grid):
                raise InputError(
                    f"{c.label!r} has {', '.join(sorted(both))} in options and in grid"
                )
        require_few(self.num_cells)
        cells = self.cells()
        require_distinct(cells, "a run")
        for cell in cells:
            make_optimizer(cell.settings)
        seeds: dict[str, set[int]] = {}
        for cell in cells:
            seeds.setdefault(cell.settings.label, set()).add(cell.settings.seed)
        for claim in self.claims:
            for label in claim.labels:
                both = [
                    choose(seeds, name, "label of an optimizer")
                    for name in (label, *claim.compared)
                ]
                if len(set.intersection(*both)) < MIN_SEEDS:
                    raise InputError(
                        f"claim {claim.statement!r}: {' and '.join((label, *claim.compared))} have fewer than "
                        f"{MIN_SEEDS} seeds in common, too few for an interval"
                    )
        return self

    @property
    def num_cells(self) -> int:
        """How many runs there are."""
        return sum(
            prod(map(len, c.grid.values())) * len(c.seeds or self.seeds) for c in self.optimizers
        )

    def cells(self) -> list[TrainingCell]:
        """Every run, in the order of the file."""
        shared = "problem", "num_images", "data_dir", "l2", "init_scale", "precision"
        common = {name: getattr(self, name) for name in shared}
        found = []
        for c in self.optimizers:
            first, last = c.batch if isinstance(c.batch, tuple) else (c.batch, c.batch)
            for point in itertools.product(*c.grid.values()):
                options = {**c.options, **dict(zip(c.grid, point, strict=True))}
                for seed in c.seeds or self.seeds:
                    settings = TrainingSettings(
                        **common,
                        label=c.label,
                        optimizer=c.optimizer,
                        options=options,
                        first_batch=first,
                        last_batch=last,
                        steps=c.steps,
                        record_every=c.record_every or self.record_every,
                        seed=seed,
                    )
                    found.append(TrainingCell(settings))
        return found


def make_optimizer(settings: TrainingSettings) -> Any:
    """The optimiser of a run.

    Raises
    ------
    InputError
        For an unknown optimiser, an option that it does not take, or batch sizes that shrink.
    """
    from ngd_theory import optim
    from ngd_theory.optim.optimizers import OPTIONS, build
    from ngd_theory.optim.problems import problem

    s = settings
    optim.batch_sizes(s.first_batch, s.last_batch, s.steps)
    seed = {"seed": s.seed} if "seed" in OPTIONS.get(s.optimizer, ()) else {}
    options = {**seed, **s.options}
    chosen = problem(s.problem)
    return build(s.optimizer, chosen.network, chosen.loss, s.l2, options)


def measure_cell(cell: TrainingCell) -> list[dict[str, Any]]:
    """Train once; a row a record."""
    import jax
    import jax.numpy as jnp

    from ngd_theory import optim
    from ngd_theory.optim.problems import problem
    from ngd_theory.optim.training import train

    s = cell.settings
    cell.require_precision()
    optimizer, chosen = make_optimizer(s), problem(s.problem)
    x, y = (
        jnp.asarray(rows.astype(s.precision)) for rows in _rows(s.problem, s.num_images, s.data_dir)
    )
    _, _, records = train(
        chosen.network,
        chosen.init(chosen.network, jax.random.key(s.seed), s.init_scale, s.precision),
        x,
        y,
        optimizer,
        chosen.loss,
        batch_sizes=optim.batch_sizes(s.first_batch, s.last_batch, s.steps),
        error=chosen.error,
        seed=s.seed,
        record_every=s.record_every,
    )
    return [asdict(record) for record in records]


def config_row(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings columns of a stored cell."""
    options = json.dumps(settings["options"], sort_keys=True)
    return {name: settings[name] for name in CONFIG_COLUMNS} | {"options": options}


def evaluate(study: TrainingStudy, frame: pd.DataFrame) -> tuple[StudyVerdict, ...]:
    """Judge every claim of a study, for each of its labels."""
    return tuple(_judge(study, c, label, frame) for c in study.claims for label in c.labels)


def _judge(
    study: TrainingStudy, claim: TrainingClaim, label: str, frame: pd.DataFrame
) -> StudyVerdict:
    names = claim.statement, label, claim.what, claim.rule, claim.expect
    for needed in (label, *claim.compared):
        runs = sum(cell.settings.label == needed for cell in study.cells())
        left = runs - frame.loc[frame["label"] == needed, "cell"].nunique()
        if left > 0:
            why = f"{left} of the {runs} runs of {needed} are not finished"
            return StudyVerdict(*names, Outcome.INCONCLUSIVE, None, why)
    estimate = seed_mean(_values(claim, label, frame))
    judgement = judge(estimate, Rule.parse(claim.rule))
    return StudyVerdict(*names, judgement.outcome, estimate, judgement.why)


def _values(claim: TrainingClaim, label: str, frame: Any) -> list[float]:
    """The claim's statistic of every seed that both labels have."""
    values = []
    for _, rows in frame.groupby("seed"):
        mine = rows[rows["label"] == label]
        if mine.empty:
            continue
        if claim.than is None:
            values.append(float(best_run(mine)["error"].iloc[-1]))
            continue
        rival = rows[rows["label"] == claim.than]
        if rival.empty:
            continue
        best = best_run(rival)
        final, column = float(best["error"].iloc[-1]), _COLUMN_OF[claim.statistic]
        # How long the rival took to get there first, not its whole budget; NaN if it got nowhere.
        values.append(
            _reached(best, final, column) / _reached(mine, final, column)
            if np.isfinite(final)
            else np.nan
        )
    return values


#: Statistic -> the column whose ratio it is.
_COLUMN_OF = {"fewer-steps": "step", "less-time": "seconds"}


def best_run(rows):
    """The rows of the run with the least final error; one that stopped early has not a finite one."""
    # Not last(), which passes over what is not a number.
    final = rows.sort_values("step").groupby("cell")["error"].agg(lambda errors: errors.iloc[-1])
    return rows[rows["cell"] == final.fillna(np.inf).idxmin()].sort_values("step")


def _reached(rows, target: float, column: str) -> float:
    """Least ``column`` after a step at which the error is at most ``target``; infinite if none gets there."""
    there = rows[(rows["step"] > 0) & (rows["error"] <= target)]
    return float(there[column].min()) if len(there) else np.inf


@lru_cache(maxsize=2)
def _rows(name: str, num_images: int | None, data_dir: Path | None):
    from ngd_theory.optim.problems import problem

    return problem(name).load(num_images, data_dir)
