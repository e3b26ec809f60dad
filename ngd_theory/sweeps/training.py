"""Studies of optimisers, which train the same network on the same data, each with a grid of options."""

import itertools
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ngd_theory.data.loading import rounded_digest
from ngd_theory.errors import InputError, choose
from ngd_theory.estimates import MIN_SEEDS, Estimate, seed_mean
from ngd_theory.experiment.columns import Column
from ngd_theory.experiment.settings import NonNegative, Positive, PositiveInt, Seed
from ngd_theory.sweeps.base import AnyClaim, AnyStudy
from ngd_theory.sweeps.cells import Cell, require_distinct, require_few, settings_columns

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
    "machine": Column("string", "where it ran: host, processor or device, and how many of them"),
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
        Scale of the effective initial weights; that of the problem when None.
    label : str
        Name of the run in figures and claims. Runs of one label differ in their options.
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
    seed: Seed = 0
    precision: Literal["float32", "float64"] = "float32"


@dataclass(frozen=True)
class TrainingCell(Cell):
    """One training run of a study."""

    kind: ClassVar[str] = "training"
    format: ClassVar[int] = 3
    settings: TrainingSettings

    @property
    def shape(self) -> str:
        """The label, so that runs of one label are neighbours."""
        return self.settings.label

    @property
    def description(self) -> str:
        """Problem, label, options and seed, for progress."""
        s = self.settings
        return f"{s.problem}, {s.label} {json.dumps(s.options)}, seed {s.seed}"

    @property
    def data_key(self) -> str:
        """Problem, number of images and folder."""
        return f"{self.settings.problem} {self.settings.num_images} {self.settings.data_dir}"

    def read_digest(self) -> str:
        """Digest of the images and targets."""
        return rounded_digest(*self._rows())

    def _rows(self):
        from ngd_theory.optim.problems import problem

        s = self.settings
        return problem(s.problem).load(s.num_images, s.data_dir)

    def measure(self) -> list[dict[str, Any]]:
        """Train once; one row for each record."""
        import jax
        import jax.numpy as jnp

        from ngd_theory import optim
        from ngd_theory.optim.problems import problem
        from ngd_theory.optim.training import train

        s = self.settings
        self.require_precision()
        optimizer, chosen = make_optimizer(s), problem(s.problem)
        images, targets = self._rows()
        self.require_data(rounded_digest(images, targets))
        x, y = (jnp.asarray(rows.astype(s.precision)) for rows in (images, targets))
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
        return [{**asdict(record), "machine": machine()} for record in records]


@lru_cache
def machine() -> str:
    """The machine of this process in words. Seconds can be compared on one machine only."""
    import jax

    device = jax.devices()[0]
    return f"{platform.node()}, {jax.device_count()} x {device.device_kind}, {os.cpu_count()} cores"


class Contender(BaseModel):
    """An optimiser of the study, with the options that its runs vary.

    Attributes
    ----------
    label : str
        Entries with the same label are one contender, whose best run counts.
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


class TrainingClaim(AnyClaim):
    """A statement that compares two labels, or one with a number.

    Attributes
    ----------
    statistic : {"error", "fewer-steps", "less-time", "less-error", "less-error-in-time"}
        "error": the final error of the best run. "fewer-steps" and "less-time": steps or seconds of the best run of
        ``than`` over those of this best run, to the error that both reach (the larger of the two final ones),
        interpolated between records (`reached`). "less-error" and "less-error-in-time": error of ``than`` over error of
        this run, at the last step or second that both have. Seconds can be compared only on one machine at the same
        load; if runs come from several machines, seconds are not judged.
    labels : tuple of str
        Labels of optimizers; one verdict for each.
    than : str or None
        The label to compare with; None for "error".
    """

    statistic: Literal["error", "fewer-steps", "less-time", "less-error", "less-error-in-time"]
    labels: tuple[str, ...] = Field(min_length=1)
    than: str | None = None

    @model_validator(mode="after")
    def _paired(self):
        if (self.than is None) != (self.statistic == "error"):
            others = ", ".join([*_COMPARISONS])
            raise InputError(f"give `than` with {others}, and only with these")
        return self

    def subjects(self, study: Any) -> Sequence[str]:
        """The labels."""
        return self.labels

    def concerns(self, subject: str, settings: TrainingSettings) -> bool:
        """Whether a run has the label, or the label to compare with."""
        return settings.label in (subject, self.than)

    @property
    def what(self) -> str:
        """The statistic in words."""
        if self.statistic == "error":
            return "final training error"
        unit = _COMPARISONS[self.statistic][2]
        if self.statistic.startswith("less-error"):
            return f"error of {self.than} over error, at the last {unit} that both have"
        return f"{unit}s of {self.than} over {unit}s, to the error that both reach"

    def check(self, study: Any, cells: Sequence[Cell]) -> None:
        """Also check that the labels exist and have seeds in common."""
        seeds: dict[str, set[int]] = {}
        for cell in cells:
            seeds.setdefault(cell.settings.label, set()).add(cell.settings.seed)
        for label in self.labels:
            both = [label, *([self.than] if self.than else [])]
            shared = [choose(seeds, name, "label of an optimizer") for name in both]
            if len(set.intersection(*shared)) < MIN_SEEDS:
                raise InputError(
                    f"claim {self.statement!r}: {' and '.join(both)} have fewer than {MIN_SEEDS} seeds in common, too "
                    "few for an interval"
                )
        super().check(study, cells)

    def estimate(self, subject: str, rows: Any) -> Estimate:
        """One number for every seed that both labels have."""
        values = []
        for _, of_seed in rows.groupby("seed"):
            mine, rival = (of_seed[of_seed["label"] == name] for name in (subject, self.than))
            if mine.empty or (self.than and rival.empty):
                continue
            best = best_run(mine)
            if self.than is None:
                values.append(float(best["error"].iloc[-1]))
            else:
                values.append(self._ratio(best, best_run(rival)))
        return seed_mean(values)

    def _ratio(self, mine: Any, rival: Any) -> float:
        if not all(np.isfinite(run["error"].iloc[-1]) for run in (mine, rival)):
            return np.nan
        column, compare, _ = _COMPARISONS[self.statistic]
        if column == "seconds":
            machines = sorted({*mine["machine"], *rival["machine"]})
            if len(machines) > 1:
                raise InputError(
                    f"seconds of different machines do not compare: {'; '.join(machines)}"
                )
        return compare(mine, rival, column)


class TrainingStudy(AnyStudy):
    """Contents of a study file with ``kind = "training"``."""

    columns: ClassVar[Mapping[str, Column]] = COLUMNS
    config_columns: ClassVar[tuple[str, ...]] = settings_columns(TrainingSettings, "data_dir")

    kind: Literal["training"]
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
        for claim in self.claims:
            claim.check(self, cells)
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


def best_run(rows: Any) -> Any:
    """Rows of the run with the least final error. An error that is not finite, of a stopped run, counts as infinite."""
    # Not last(), which skips NaN.
    final = rows.sort_values("step").groupby("cell")["error"].agg(lambda errors: errors.iloc[-1])
    return rows[rows["cell"] == final.fillna(np.inf).idxmin()].sort_values("step")


def _times_faster(mine: Any, rival: Any, column: str) -> float:
    """Steps or seconds of ``rival`` over those of ``mine``, to the error that both reach."""
    target = max(float(run["error"].iloc[-1]) for run in (mine, rival))
    took = reached(mine, target, column)
    return reached(rival, target, column) / took if took > 0 else np.nan


def _times_less(mine: Any, rival: Any, column: str) -> float:
    """Error of ``rival`` over that of ``mine``, at the last step or second that both have."""
    last = min(float(run[column].iloc[-1]) for run in (mine, rival))
    errors = [np.interp(last, run[column], np.log(run["error"])) for run in (mine, rival)]
    return float(np.exp(errors[1] - errors[0]))


#: Statistic -> the column, the comparison of two runs along it, and a unit of it in words.
_COMPARISONS: Mapping[str, tuple[str, Callable[[Any, Any, str], float], str]] = {
    "fewer-steps": ("step", _times_faster, "step"),
    "less-time": ("seconds", _times_faster, "second"),
    "less-error": ("step", _times_less, "step"),
    "less-error-in-time": ("seconds", _times_less, "second"),
}


def reached(rows: Any, target: float, column: str) -> float:
    """Value of ``column`` at which the error of a run first comes down to ``target``; NaN if it never does.

    Between two records the logarithm of the error is interpolated linearly, so that nothing is rounded to records.

    Parameters
    ----------
    rows : DataFrame
        Of one run, in the order of its steps.
    """
    errors, places = rows["error"].to_numpy(float), rows[column].to_numpy(float)
    there = np.flatnonzero((rows["step"].to_numpy() > 0) & (errors <= target))
    if not len(there):
        return np.nan
    last = int(there[0])
    high, low = errors[last - 1 : last + 1] if last else (np.inf, errors[last])
    if not (np.isfinite(high) and high > target and low > 0):
        return float(places[last])
    share = np.log(high / target) / np.log(high / low)
    return float(places[last - 1] + share * (places[last] - places[last - 1]))
