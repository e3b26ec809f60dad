"""Studies of the theory: networks of many settings, each measured as ``verify`` measures one."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ngd_theory.data import DataError
from ngd_theory.errors import InputError, choose
from ngd_theory.estimates import Estimate, power_law, seed_mean
from ngd_theory.experiment.building import (
    DataSize,
    broken_premises,
    data_digest,
    data_size,
    load_data,
    make_approximation,
    make_network,
)
from ngd_theory.experiment.claim import NotApplicableError
from ngd_theory.experiment.columns import COLUMNS, Column, rows
from ngd_theory.experiment.experiment import Experiment
from ngd_theory.experiment.pipeline import measure
from ngd_theory.experiment.settings import LATER, LATER_NETWORK, Settings
from ngd_theory.fisher import PREMISES
from ngd_theory.sweeps.base import AnyClaim, AnyStudy
from ngd_theory.sweeps.cells import (
    Cell,
    canonical,
    require_distinct,
    require_few,
    settings_columns,
)
from ngd_theory.sweeps.statistics import contraction_rate
from ngd_theory.sweeps.validation import error_lines, listed

#: What a study may measure, and the parts of an experiment that it takes.
MEASUREMENTS: Mapping[str, tuple[str, ...]] = {
    "isotropy": (),
    "trajectory": ("training",),
    "gap": ("training",),
    "lazy": ("training", "lazy", "step", "regime"),
    "rivals": ("training",),
    "movement": ("training",),
    "kernel-drift": ("training", "drift"),
    "eigenvalues": (),
    "limit": ("training", "limit"),
    "layers": ("layers",),
    "batches": ("training", "batches"),
    "generalisation": ("generalisation",),
    "features": ("training", "features"),
}
Measurement = Literal[
    "isotropy",
    "trajectory",
    "gap",
    "lazy",
    "rivals",
    "movement",
    "kernel-drift",
    "eigenvalues",
    "limit",
    "layers",
    "batches",
    "generalisation",
    "features",
]
assert get_args(Measurement) == tuple(MEASUREMENTS)
#: Measurements whose prediction is that of a fixed map.
_MSE_MEASUREMENTS = frozenset(("rivals", "limit", "batches", "generalisation"))

#: Measurements that know of no mini-batches and no momentum.
_PLAIN_MEASUREMENTS = frozenset(("limit", "generalisation"))

#: Which settings each table of the file may hold. `GRID` may vary anything but what a process has one of.
NETWORK = (
    *("activation", "weight_std", "bias_std", "width", "depth", "architecture", "kernel_size"),
    *("stride", "pool", "padding", "readout", "sharing", *LATER_NETWORK),
)
DATA = (
    *("dataset", "classes", "num_train", "num_test", "forster", "input_dim", "output_dim"),
    *("image_size", "image_channels", "data_dir", "seed"),
)
_NOT_VARIED = ("approximations", "precision", "data_dir", "kernel", "laziness")
GRID = settings_columns(Settings, *_NOT_VARIED)
#: Settings that the rows of a data set depend on.
_ROWS = (
    *("dataset", "classes", "num_train", "num_test", "seed", "loss", "data_dir", "input_dim"),
    *("output_dim", "image_size", "image_channels"),
)
#: Settings that the sizes of a data set depend on.
_SIZES = tuple(name for name in _ROWS if name not in ("num_train", "num_test", "seed"))
#: Settings that change the numbers of a cell but not the programs compiled for it.
_NOT_SHAPES = frozenset(("seed", "damping", "step_scale", "data_dir"))
#: Columns by which a claim tells layers apart.
_OF_LAYERS = ("place", "layer_name", "full_rank")
#: Grid points named in one error.
_SHOWN = 3


@dataclass(frozen=True)
class TheoryCell(Cell):
    """One configuration of network, data and training, and what to measure on it.

    Attributes
    ----------
    settings : Settings
        Network, data, damping and training, and the approximations to measure.
    measured : tuple of str
        Names in `MEASUREMENTS`.
    """

    kind: ClassVar[str] = "theory"
    format: ClassVar[int] = 4
    settings: Settings
    measured: tuple[str, ...] = ()

    @property
    def config(self) -> dict[str, Any]:
        """Everything that determines the cell's numbers but the data; order of names left out."""
        found = super().config
        found["settings"]["approximations"] = sorted(self.settings.chosen_approximations)
        if "lazy" not in self.measured:
            del found["settings"]["laziness"]  # of runs that are not made
        for name in LATER:
            if getattr(self.settings, name) == Settings.model_fields[name].default:
                del found["settings"][name]
        return {**found, "measure": sorted(self.measured)}

    @property
    def description(self) -> str:
        """For progress."""
        s = self.settings
        return f"M = {s.width}, L = {s.depth}, N = {s.num_train}, {s.activation}, seed {s.seed}"

    @property
    def shape(self) -> str:
        """All settings but `_NOT_SHAPES`, and whether rho is 0."""
        settings = self.settings.model_dump(mode="json", exclude=set(_NOT_SHAPES))
        return canonical({**settings, "damped": self.settings.damping > 0})

    @property
    def data_key(self) -> str:
        """The settings that choose the rows."""
        return canonical(self.settings.model_dump(mode="json", include=set(_ROWS)))

    def read_digest(self) -> str:
        """Of the rows before they are transformed."""
        return data_digest(self.settings)

    def measure(self) -> list[dict[str, Any]]:
        """A row an approximation and step, and a row a layer and one an epsilon if those are measured.

        Raises
        ------
        InputError
            For data that cannot be had or are not those of the cell, or a precision other than JAX's.
        SingularKernelError
            When a solve breaks down.
        """
        self.require_precision()
        parts = {part for name in self.measured for part in MEASUREMENTS[name]}
        dataset = load_data(self.settings)
        self.require_data(dataset.digest)
        tested = bool({"training", "generalisation"} & parts)
        experiment = Experiment.begin(self.settings, dataset, trained=tested)
        names = self.settings.chosen_approximations
        evidence = {name: measure(experiment, name, parts) for name in names}
        return [row for e in evidence.values() for row in rows(e, evidence, self.measured)]


@dataclass(frozen=True)
class Statistic:
    """How rows become one number a cell, cells one number a seed, and how a figure shows them.

    Attributes
    ----------
    cells : ``(claim, rows) -> table``
        A row a cell with its number as ``value``.
    seeds : ``(claim, that table) -> Estimate``
    heading : str
        Of the figure's vertical axis; ``{}`` is the column.
    meaning : str
        What stands for a cell in the figure.
    judged : str
        What the verdict makes of all cells.
    dashes : str
        What the dashed lines are.
    axis : {"log", "linear", "wide"}
        The figure's vertical axis; wide: logarithmic where the numbers span a decade.
    lines : tuple of {"theory", "tolerance", "bounds"}
        What is drawn beside the numbers.
    fitted : bool
        Whether every curve has a fitted power law; its centres are geometric means then.
    first_axis : str
        Setting that is the figure's horizontal axis if it varies.
    """

    cells: Callable[["StudyClaim", Any], pd.DataFrame]
    seeds: Callable[["StudyClaim", Any], Estimate]
    heading: str
    meaning: str
    judged: str
    dashes: str = "dashed: the rule's bound"
    axis: Literal["log", "linear", "wide"] = "wide"
    lines: tuple[str, ...] = ("bounds",)
    fitted: bool = False
    first_axis: str = "width"


def _reduced(reduce: Callable[[Any], float]) -> Callable[["StudyClaim", Any], pd.DataFrame]:
    """The claim's column over the steps of every cell; NaN if one of them is."""

    def cells(claim: "StudyClaim", rows: Any) -> pd.DataFrame:
        groups = rows.groupby("cell", sort=False)
        values = groups[claim.of].agg(lambda v: reduce(v.to_numpy(float)))
        return groups.first().assign(value=values).reset_index()

    return cells


def _over_cells(reduce: Callable[[Any], float]) -> Callable[["StudyClaim", Any], Estimate]:
    """Each seed's number, averaged over seeds."""
    return lambda claim, cells: seed_mean(
        cells.groupby("seed")["value"].agg(lambda v: reduce(v.to_numpy(float)))
    )


def contraction_rates(claim: "StudyClaim", rows: Any) -> pd.DataFrame:
    """The first row of every cell and, as ``value``, its residual's `contraction_rate`."""
    rows = rows.sort_values(["cell", "step"], kind="stable")
    cells = rows.drop_duplicates("cell")
    starts = np.flatnonzero(~rows["cell"].duplicated().to_numpy())
    trajectories = np.split(rows["residual"].to_numpy(float), starts[1:])
    floors = [1e3 * float(np.finfo(np.dtype(p)).eps) for p in cells["precision"]]
    found = [contraction_rate(r, floor) for r, floor in zip(trajectories, floors, strict=True)]
    return cells.assign(value=found)


def _rate_errors(claim: "StudyClaim", cells: Any) -> Estimate:
    errors = (cells["value"] - (1 - cells["step_scale"]).abs()).abs()
    return seed_mean(errors.groupby(cells["seed"]).agg(lambda v: np.max(v.to_numpy(float))))


def _best_steps(claim: "StudyClaim", rows: Any) -> pd.DataFrame:
    """Of cells that differ in the step scale alone, the one with the smallest last number; ``value``: its step size.

    NaN where a number is missing, and where the best is at an end of the grid: it may lie beyond.
    """
    others = [name for name in CONFIG_COLUMNS if name != "step_scale"]
    last = rows.sort_values("step", kind="stable").drop_duplicates("cell", keep="last")
    groups = last.sort_values("step_scale").groupby(others, dropna=False, sort=False)
    best = {}
    for _, cells in groups:
        values = cells[claim.of].to_numpy(float)
        place = int(np.argmin(values))  # of a NaN, if there is one
        inside = 0 < place < len(values) - 1 and not np.isnan(values[place])
        best[cells.index[place]] = cells["step_size"].iloc[place] if inside else np.nan
    return last.loc[list(best)].assign(value=list(best.values())).reset_index(drop=True)


def _power(claim: "StudyClaim", cells: Any) -> Estimate:
    """Exponent of the numbers in what the claim is over."""
    return power_law(cells[claim.over], cells["value"], cells["seed"])


_RATE: dict[str, Any] = {
    "heading": "contraction of the residual a step",
    "meaning": "the factor by which the residual shrinks a step",
    "axis": "linear",
    "first_axis": "step_scale",
}
_EXPONENT: dict[str, Any] = {
    "judged": "the mean over seeds of the exponent",
    "dashes": "dashed: fitted power law, its exponent with the half-width of its interval beside it",
    "axis": "log",
    "lines": (),
    "fitted": True,
}
#: By the name that a claim gives; numpy's reductions keep NaN.
STATISTICS: Mapping[str, Statistic] = {
    "exponent": Statistic(
        _reduced(np.max), _power, "{}", "the largest {} over the steps", **_EXPONENT
    ),
    "best-step": Statistic(
        _best_steps,
        _power,
        "step size η with the smallest {}",
        "the step size with the smallest {} after the last step, of those of the grid",
        **_EXPONENT,
    ),
    "max": Statistic(
        _reduced(np.max),
        _over_cells(np.max),
        "{}",
        "the largest {} over the steps",
        "the mean over seeds of each one's largest number",
    ),
    "min": Statistic(
        _reduced(np.min),
        _over_cells(np.min),
        "{}",
        "the smallest {} over the steps",
        "the mean over seeds of each one's smallest number",
    ),
    "mean": Statistic(
        _reduced(np.mean),
        _over_cells(np.mean),
        "mean {}",
        "the mean {} over the steps",
        "the mean over seeds of each one's mean",
    ),
    "rate": Statistic(
        contraction_rates,
        _over_cells(np.max),
        judged="the mean over seeds of each one's largest number",
        dashes="dashed: theory and the rule's bound",
        lines=("theory", "bounds"),
        **_RATE,
    ),
    "rate-error": Statistic(
        contraction_rates,
        _rate_errors,
        judged="the mean over seeds of each one's largest distance to |1 − ηα|",
        dashes="dashed: theory, in grey what the rule allows around it",
        lines=("theory", "tolerance"),
        **_RATE,
    ),
}


class StudyClaim(AnyClaim):
    """A statement about a column of the table, or about the rate at which the residual shrinks.

    Attributes
    ----------
    statistic : {"exponent", "max", "min", "mean", "rate", "rate-error", "best-step"}
        See `STATISTICS`.
    of : str
        Column of the table, such as ``gap`` or ``dispersion``; not for the rates.
    over : str
        Settings name whose power the exponent is of; "best-step" is the exponent of the step size with the smallest
        ``of`` after the last step, among the step scales of the grid.
    approximations : tuple of str
        One verdict each; all of the study when left out.
    where : dict
        Settings; beside them ``place``, ``layer_name`` and ``full_rank``, of layers. Without a place or a name a claim
        is about the networks.
    outside_premise : bool
        Judge the rows marked NOT APPLICABLE instead of the others.
    """

    statistic: Literal["exponent", "max", "min", "mean", "rate", "rate-error", "best-step"]
    of: str | None = None
    over: str = "width"
    approximations: tuple[str, ...] = ()
    outside_premise: bool = False

    @model_validator(mode="after")
    def _known_names(self):
        choose(dict.fromkeys(n for n in CONFIG_COLUMNS if n != "classes"), self.over, "setting")
        if self.statistic.startswith("rate"):
            if self.of is not None:
                raise InputError(f"statistic {self.statistic!r} is of the residual; leave `of` out")
        else:
            numbers = {n: c for n, c in COLUMNS.items() if c.kind in ("float64", "int64")}
            # The rows of the lazy family are for the figure; a network's numbers of it are `last`.
            choose({n: c for n, c in numbers.items() if not c.lazy}, self.of, "column in `of`")
        return self

    @property
    def column(self) -> Column:
        """The measured column that the statistic reads."""
        return COLUMNS[self.of or "residual"]

    @property
    def what(self) -> str:
        """The statistic in words."""
        of = self.statistic if self.of is None else f"{self.statistic} of {self.of}"
        return f"{of} over {self.over}" if STATISTICS[self.statistic].fitted else of

    @property
    def _one_layer(self) -> bool:
        """Whether rows of layers count, and not only those of networks."""
        return bool({"place", "layer_name"} & set(self.where))

    @property
    def _of_shares(self) -> bool:
        """Whether it reads what only a sum of layers has."""
        place = self.where.get("place", "network")
        return place != "network" or bool({"full_rank", "layer_name"} & set(self.where))

    @property
    def row_filters(self) -> Mapping[str, Column]:
        """What tells layers apart."""
        return {name: COLUMNS[name] for name in _OF_LAYERS}

    def subjects(self, study: "Study") -> Sequence[str]:
        """The approximations."""
        return self.approximations or study.approximations

    def rows(self, subject: str, rows: Any) -> Any:
        """The rows that count, of those of the cells that the claim concerns.

        Raises
        ------
        NotApplicableError
            If there are none.
        """
        rows = rows[(rows["approximation"] == subject) & rows["epsilon"].isna()]
        if not self._one_layer:
            rows = rows[rows["layer"].fillna(0) == 0]
        if rows.empty:
            raise NotApplicableError("no layer is as the claim says")
        kept = rows[rows["applicable"] != self.outside_premise]
        if kept.empty:
            why = (
                "no grid point breaks a premise" if self.outside_premise else rows["reason"].iloc[0]
            )
            raise NotApplicableError(why)
        if self.column.of_a_constant:
            kept = kept[kept["predicted_constant"].notna()]
            if kept.empty:
                raise NotApplicableError(f"the theory states no constant of {subject} here")
        if self.column.last:
            kept = kept.loc[kept.groupby("cell")["step"].idxmax()]
        return kept

    def estimate(self, subject: str, rows: Any) -> Estimate:
        """By the statistic."""
        statistic = STATISTICS[self.statistic]
        return statistic.seeds(self, statistic.cells(self, self.rows(subject, rows)))

    def check(self, study: Any, cells: Sequence[Cell]) -> None:
        """Also that what the claim reads is measured."""
        for name in self.approximations:
            if name not in study.approximations:
                raise InputError(
                    f"claim {self.statement!r} is about {name!r}, which is not in approximations: "
                    + ", ".join(study.approximations)
                )
        of_layers = set(_OF_LAYERS) & set(self.where)
        read = {"layers": min(of_layers)} if of_layers else {}
        if self.column.measured_by and not (of_layers and self.column.layered):
            read[self.column.measured_by] = self.of or "residual"
        for name, column in read.items():
            if name not in study.measure:
                raise InputError(
                    f"claim {self.statement!r} needs {name!r} in measure: {column!r} is part of it"
                )
        if of_layers and not self.column.layered:
            raise InputError(
                f"claim {self.statement!r}: {self.of!r} is of the network, not of layers"
            )
        if self._of_shares:
            for name in self.subjects(study):
                if not _by_layers(name):
                    raise InputError(
                        f"claim {self.statement!r}: {name!r} couples the layers; its map is no sum of theirs. Name "
                        "others under approximations"
                    )
        if "layer_name" in self.where:
            known = _layer_names(cells)
            if known:
                choose(dict.fromkeys(known), self.where["layer_name"], "layer_name")
        if "place" in self.where:
            places = dict.fromkeys(("first", "hidden", "output", "network"))
            choose(places, self.where["place"], "place")
        if not isinstance(self.where.get("full_rank", True), bool):
            raise InputError(
                f"where.full_rank is {self.where['full_rank']!r}; it must be true or false"
            )
        least = {self.over: "an exponent"} if STATISTICS[self.statistic].fitted else {}
        if self.statistic == "best-step":
            least["step_scale"] = "a best step"
        for name, what in least.items():
            if len({getattr(cell.settings, name) for cell in cells}) < 3:
                raise InputError(
                    f"claim {self.statement!r}: {what} over {name!r} takes at least 3 values of it in the grid"
                )
        super().check(study, cells)


def _by_layers(name: str) -> bool:
    """Whether the approximation's map is a sum over layers."""
    return make_approximation(name, "mse").by_layers


def _layer_names(cells: Sequence[Any]) -> tuple[str, ...]:
    """Names of the layers of all networks; none where data are not here."""
    found: dict[str, None] = {}
    for cell in {cell.shape: cell for cell in cells}.values():
        size = _known_size(cell.settings)
        if size is None:
            return ()
        found |= dict.fromkeys(make_network(cell.settings, size).names)
    return tuple(found)


#: Settings that are columns too.
CONFIG_COLUMNS = settings_columns(Settings, "approximations", "data_dir", "kernel", "laziness")


def _without_coupling(names: Any) -> Any:
    """Drop what earlier versions took for a premise: the depth of block-tridiagonal."""
    given = isinstance(names, list | tuple)
    return tuple(name for name in names if name != "coupling") if given else names


Values = Annotated[tuple[Any, ...], BeforeValidator(listed), Field(min_length=1)]
Premise = Literal["input-rank", "width"]
assert get_args(Premise) == PREMISES


class Study(AnyStudy):
    """What a study file of the theory holds; see `ngd_theory.sweeps.read`.

    Attributes
    ----------
    kind : "theory"
    title, statement : str
        One line each; the statement is what the study tests.
    approximations : tuple of str
    network, data : dict
        Settings that do not vary: those in `NETWORK` and `DATA`.
    damping, step_scales : tuple of float
        Short for ``grid.damping`` and ``grid.step_scale``.
    steps : int
    loss, precision : str
        Those left out have the defaults of `ngd_theory.experiment.Settings`.
    grid : dict of str to tuple
        Settings that vary; the cells are the Cartesian product.
    measure : tuple of str
    allow : tuple of str
        Names in `ngd_theory.fisher.PREMISES`: run grid points that break them, marked NOT APPLICABLE.
    claims : tuple of StudyClaim
    """

    columns: ClassVar[Mapping[str, Column]] = COLUMNS
    config_columns: ClassVar[tuple[str, ...]] = CONFIG_COLUMNS
    config_defaults: ClassVar[dict[str, Any]] = {n: Settings.model_fields[n].default for n in LATER}

    kind: Literal["theory"] = "theory"
    approximations: tuple[str, ...] = Field(min_length=1)
    network: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    damping: Values | None = None
    step_scales: Values | None = None
    steps: int | None = None
    loss: str | None = None
    precision: str = "float64"
    grid: dict[str, Values] = Field(default_factory=dict)
    measure: tuple[Measurement, ...] = Field(min_length=1)
    allow: Annotated[tuple[Premise, ...], BeforeValidator(_without_coupling)] = ()
    claims: tuple[StudyClaim, ...] = ()

    @model_validator(mode="after")
    def _whole(self):
        require_few(self.num_cells)
        axes, _ = self._axes()
        if "dataset" not in axes:
            raise InputError(
                'the study names no data: write dataset = "mnist" under [data] (or "gaussian"; ngd_theory.data.'
                "source_names() lists all)"
            )
        cells = self.cells()
        for name in _MSE_MEASUREMENTS & set(self.measure):
            if any(cell.settings.loss != "mse" for cell in cells):
                raise InputError(f"measure {name!r} is defined for the MSE loss only")
        if "limit" in self.measure and any(c.settings.parameterization != "ntk" for c in cells):
            raise InputError("measure 'limit': parameterization = mup has no kernel limit")
        if "rivals" in self.measure:
            if len(self.approximations) < 2:
                raise InputError("measure 'rivals' takes at least two approximations")
            if any(not cell.settings.num_test for cell in cells):
                raise InputError("measure 'rivals' compares test outputs: set data.num_test")
        for name in _PLAIN_MEASUREMENTS & set(self.measure):
            if any(cell.settings.batch_size or cell.settings.momentum for cell in cells):
                raise InputError(
                    f"measure {name!r} is of plain steps on the full batch: leave batch_size and momentum out"
                )
        if "generalisation" in self.measure and any(cell.settings.num_test < 2 for cell in cells):
            raise InputError(
                "measure 'generalisation' takes half of the test inputs as unlabelled and half as fresh: set "
                "data.num_test to 2 at least"
            )
        if "layers" in self.measure:
            if not any(_by_layers(name) for name in self.approximations):
                named = " and ".join(map(repr, self.approximations))
                raise InputError(
                    f"measure 'layers': {named} couples the layers; its map is no sum of theirs"
                )
        for claim in self.claims:
            claim.check(self, cells)
        return self

    @property
    def num_cells(self) -> int:
        """How many grid points there are."""
        axes, _ = self._axes()
        return prod(map(len, axes.values()))

    def cells(self) -> list[TheoryCell]:
        """Every grid point; the last axis of the file varies fastest.

        Raises
        ------
        InputError
            For values that a setting does not take, naming its place in the file, and for grid points that break a
            premise which `allow` does not name.
        """
        axes, places = self._axes()
        measured = tuple(self.measure)
        cells = [
            TheoryCell(_settings(dict(zip(axes, point, strict=True)), places), measured=measured)
            for point in itertools.product(*axes.values())
        ]
        broken = list(dict.fromkeys(self._refused(cells)))
        if broken:
            shown = "; ".join(why for _, why in broken[:_SHOWN])
            rest = f"; and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
            names = sorted({name for name, _ in broken})
            raise InputError(
                f"impossible grid points: {shown}{rest}. To run them marked NOT APPLICABLE: "
                f"allow = {json.dumps(names)}"
            )
        require_distinct(cells, "a grid point")
        return cells

    def _refused(self, cells: list[TheoryCell]) -> Iterator[tuple[str, str]]:
        sizes: dict[str, DataSize | None] = {}
        # Seeds have the same shape.
        for cell in {cell.shape: cell for cell in cells}.values():
            settings = cell.settings
            of_data = canonical(settings.model_dump(mode="json", include=set(_SIZES)))
            if of_data not in sizes:
                sizes[of_data] = _known_size(settings)
            size = sizes[of_data]
            if size is None:
                continue
            network = make_network(settings, size)
            for name in settings.chosen_approximations:
                for premise, why in broken_premises(settings, network, name).items():
                    if premise not in self.allow:
                        yield premise, why

    def _axes(self) -> tuple[dict[str, tuple], dict[str, str]]:
        """Values of every setting the file names, and the place in the file of each."""
        tables = {
            "network": ({k: (v,) for k, v in self.network.items()}, NETWORK),
            "data": ({k: (v,) for k, v in self.data.items()}, DATA),
            "grid": (self.grid, GRID),
        }
        alone = {
            "approximations": (self.approximations,),
            "precision": (self.precision,),
            "steps": None if self.steps is None else (self.steps,),
            "loss": None if self.loss is None else (self.loss,),
            "damping": self.damping,
            "step_scale": self.step_scales,
        }
        axes = {name: values for name, values in alone.items() if values is not None}
        places = {name: "step_scales" if name == "step_scale" else name for name in axes}
        for table, (entries, allowed) in tables.items():
            for name, values in entries.items():
                choose(dict.fromkeys(allowed), name, f"key in [{table}]")
                if name in axes:
                    raise InputError(f"{name} is set twice: in {places[name]} and {table}.{name}")
                axes[name], places[name] = values, f"{table}.{name}"
        return axes, places


def _known_size(settings: Settings) -> DataSize | None:
    """Of the data, or None where they are not here: then nobody knows before they are read."""
    try:
        return data_size(settings)
    except (DataError, OSError):
        return None


def _settings(values: dict[str, Any], places: dict[str, str]) -> Settings:
    try:
        return Settings.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise InputError("; ".join(error_lines(error, places=places))) from None
