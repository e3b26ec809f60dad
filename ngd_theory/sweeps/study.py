"""A study: a validated TOML file that says what to vary, what to measure and what to claim of it."""

import itertools
import json
from collections.abc import Iterator
from math import prod
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ngd_theory.claims import Settings
from ngd_theory.errors import InputError, choose
from ngd_theory.sweeps.cells import Cell, require_distinct, require_few
from ngd_theory.sweeps.premises import PREMISES, broken_premise
from ngd_theory.sweeps.statistics import Rule
from ngd_theory.sweeps.table import COLUMNS, CONFIG_COLUMNS
from ngd_theory.sweeps.validation import InWords, error_lines, listed

Measurement = Literal[
    "isotropy",
    "trajectory",
    "gap",
    "rivals",
    "movement",
    "kernel-drift",
    "eigenvalues",
    "limit",
]
Premise = Literal["input-rank", "width"]
Statistic = Literal["exponent", "max", "min", "mean", "rate", "rate-error"]

MEASUREMENTS: tuple[str, ...] = get_args(Measurement)
assert get_args(Premise) == tuple(PREMISES)

#: Which settings each table of the file may hold. `GRID` may vary anything but what a process has one of.
NETWORK = ("activation", "weight_std", "bias_std", "width", "depth")
DATA = (
    *("dataset", "classes", "num_train", "num_test", "forster", "input_dim", "output_dim"),
    *("data_dir", "seed"),
)
GRID = tuple(
    name
    for name in Settings.model_fields
    if name not in ("approximations", "precision", "data_dir", "kernel")
)

#: Measurements whose prediction is that of a fixed map.
_MSE_MEASUREMENTS = frozenset(("rivals", "limit"))
#: Grid points named in one error.
_SHOWN = 3


def _without_coupling(names: Any) -> Any:
    """Drop what earlier versions took for a premise: the depth of block-tridiagonal."""
    listed_all = isinstance(names, list | tuple)
    return tuple(name for name in names if name != "coupling") if listed_all else names


Values = Annotated[tuple[Any, ...], BeforeValidator(listed), Field(min_length=1)]


class StudyClaim(BaseModel):
    """One statement about the measured table, with the statistic and the rule that judge it.

    Attributes
    ----------
    statement : str
    statistic : {"exponent", "max", "min", "mean", "rate", "rate-error"}
        See `ngd_theory.sweeps.verdicts.STATISTICS`.
    of : str
        Column of the table, such as ``gap`` or ``dispersion``; not for the rates.
    over : str
        Settings name whose power the exponent is of.
    rule : str
        ``"<= x"``, ``">= x"`` or ``"in [a, b]"``; see `ngd_theory.sweeps.statistics.Rule`.
    approximations : tuple of str
        One verdict each; all of the study when left out.
    where : dict
        Settings that the rows must have.
    each : tuple of str
        Settings; one verdict for each of their values.
    expect : {"PASS", "FAIL"}
        FAIL for a negative control: a statement that the theory says is false.
    outside_premise : bool
        Judge the rows marked NOT APPLICABLE instead of the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    statement: str = Field(min_length=1)
    statistic: Statistic
    of: str | None = None
    over: str = "width"
    rule: str
    approximations: tuple[str, ...] = ()
    where: dict[str, Any] = {}
    each: tuple[str, ...] = ()
    expect: Literal["PASS", "FAIL"] = "PASS"
    outside_premise: bool = False

    @model_validator(mode="after")
    def _known_names(self) -> "StudyClaim":
        Rule.parse(self.rule)
        for name in (*self.where, *self.each, self.over):
            choose(dict.fromkeys(n for n in CONFIG_COLUMNS if n != "classes"), name, "setting")
        if self.statistic.startswith("rate"):
            if self.of is not None:
                raise InputError(f"statistic {self.statistic!r} is of the residual; leave `of` out")
        else:
            choose(dict.fromkeys(COLUMNS), self.of, "column in `of`")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The measured columns that the statistic reads."""
        return ("residual",) if self.of is None else (self.of,)


class Study(BaseModel, metaclass=InWords):
    """What a study file holds; see `ngd_theory.sweeps.read`.

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
        Those left out have the defaults of `ngd_theory.claims.Settings`.
    grid : dict of str to tuple
        Settings that vary; the cells are the Cartesian product.
    measure : tuple of str
    allow : tuple of str
        Names in `PREMISES`: run grid points that break them, marked NOT APPLICABLE.
    claims : tuple of StudyClaim
    """

    made_by: ClassVar[str] = 'ngd.sweeps.read("my.toml")'
    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["theory"] = "theory"
    title: str = Field(min_length=1)
    statement: str = Field(min_length=1)
    approximations: tuple[str, ...] = Field(min_length=1)
    network: dict[str, Any] = {}
    data: dict[str, Any] = {}
    damping: Values | None = None
    step_scales: Values | None = None
    steps: int | None = None
    loss: str | None = None
    precision: str = "float64"
    grid: dict[str, Values] = {}
    measure: tuple[Measurement, ...] = Field(min_length=1)
    allow: Annotated[tuple[Premise, ...], BeforeValidator(_without_coupling)] = ()
    claims: tuple[StudyClaim, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> "Study":
        if "\n" in self.title + self.statement:
            raise InputError("title and statement are one line each")
        require_few(self.num_cells)
        axes, _ = self._axes()
        if "dataset" not in axes:
            raise InputError(
                'the study names no data: write dataset = "mnist" under [data] (or "gaussian"; ngd_theory.data.'
                "source_names() lists all)"
            )
        for claim in self.claims:
            for name in claim.approximations:
                if name not in self.approximations:
                    raise InputError(
                        f"claim {claim.statement!r} is about {name!r}, which is not in approximations: "
                        + ", ".join(self.approximations)
                    )
            for column in claim.columns:
                needed = COLUMNS[column].measured_by
                if needed is not None and needed not in self.measure:
                    raise InputError(
                        f"claim {claim.statement!r} needs {needed!r} in measure: {column!r} is part of it"
                    )
            if claim.statistic == "exponent" and len(axes.get(claim.over, ())) < 3:
                raise InputError(
                    f"claim {claim.statement!r}: an exponent over {claim.over!r} takes at least 3 values "
                    f"of it in the grid"
                )
        cells = self.cells()
        for name in _MSE_MEASUREMENTS & set(self.measure):
            if any(cell.settings.loss != "mse" for cell in cells):
                raise InputError(f"measure {name!r} is defined for the MSE loss only")
        if "rivals" in self.measure:
            if len(self.approximations) < 2:
                raise InputError("measure 'rivals' takes at least two approximations")
            if any(not cell.settings.num_test for cell in cells):
                raise InputError("measure 'rivals' compares test outputs: set data.num_test")
        for claim in self.claims:
            for name, value in claim.where.items():
                known = dict.fromkeys(getattr(cell.settings, name) for cell in cells)
                if value not in known:
                    raise InputError(
                        f"claim {claim.statement!r}: no grid point has where.{name} = {value!r}; there "
                        f"are {', '.join(map(str, known))}"
                    )
        return self

    @property
    def num_cells(self) -> int:
        """How many grid points there are."""
        return prod(len(values) for values in self._axes()[0].values())

    def cells(self) -> list[Cell]:
        """Every grid point, in the order of the file, the last axis fastest.

        Raises
        ------
        InputError
            For a value that no run can have, or grid points that break a premise that `allow` leaves out.
        """
        axes, places = self._axes()
        for name, values in axes.items():
            for value in values:
                _settings({name: value}, places)
        measure = tuple(self.measure)
        cells = [
            Cell(_settings(dict(zip(axes, point, strict=True)), places), measure)
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

    def _refused(self, cells: list[Cell]) -> Iterator[tuple[str, str]]:
        for cell in cells:
            for name in cell.settings.chosen_approximations:
                found = broken_premise(cell.settings, name)
                if found is not None and found[0] not in self.allow:
                    yield found

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


def _settings(values: dict[str, Any], places: dict[str, str]) -> Settings:
    try:
        return Settings.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise InputError("; ".join(error_lines(error, places=places))) from None
