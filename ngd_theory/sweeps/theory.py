"""Studies of the theory: networks with many settings, each measured as in ``verify``."""

import itertools
import json
from collections.abc import Iterator, Mapping
from math import prod
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ngd_theory.errors import InputError, choose
from ngd_theory.experiment.building import DataSize, broken_premises, make_network
from ngd_theory.experiment.columns import COLUMNS, Column
from ngd_theory.experiment.settings import LATER, Settings
from ngd_theory.fisher import PREMISES
from ngd_theory.sweeps.base import AnyStudy
from ngd_theory.sweeps.cells import canonical, require_distinct, require_few
from ngd_theory.sweeps.theory_cells import (
    CONFIG_COLUMNS,
    DATA,
    GRID,
    MSE_MEASUREMENTS,
    NETWORK,
    PLAIN_MEASUREMENTS,
    SIZES,
    Measurement,
    TheoryCell,
    known_size,
)
from ngd_theory.sweeps.theory_claims import StudyClaim, by_layers
from ngd_theory.sweeps.validation import error_lines, listed

#: Grid points named in one error.
_SHOWN = 3


def _without_coupling(names: Any) -> Any:
    """Drop the premise "coupling" of earlier versions, about the depth of block-tridiagonal."""
    given = isinstance(names, list | tuple)
    return tuple(name for name in names if name != "coupling") if given else names


Values = Annotated[tuple[Any, ...], BeforeValidator(listed), Field(min_length=1)]
Premise = Literal["input-rank", "width"]
assert get_args(Premise) == PREMISES


class Study(AnyStudy):
    """Contents of a study file of the theory; see `ngd_theory.sweeps.read`.

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
        for name in MSE_MEASUREMENTS & set(self.measure):
            if any(cell.settings.loss != "mse" for cell in cells):
                raise InputError(f"measure {name!r} is defined for the MSE loss only")
        if "limit" in self.measure and any(c.settings.parameterization != "ntk" for c in cells):
            raise InputError("measure 'limit': parameterization = mup has no kernel limit")
        if "rivals" in self.measure:
            if len(self.approximations) < 2:
                raise InputError("measure 'rivals' takes at least two approximations")
            if any(not cell.settings.num_test for cell in cells):
                raise InputError("measure 'rivals' compares test outputs: set data.num_test")
        for name in PLAIN_MEASUREMENTS & set(self.measure):
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
            if not any(by_layers(name) for name in self.approximations):
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
            For a value that a setting does not accept (the message names its place in the file), and for grid points
            that break a premise which `allow` does not name.
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
            of_data = canonical(settings.model_dump(mode="json", include=set(SIZES)))
            if of_data not in sizes:
                sizes[of_data] = known_size(settings)
            size = sizes[of_data]
            if size is None:
                continue
            network = make_network(settings, size)
            for name in settings.chosen_approximations:
                for premise, why in broken_premises(settings, network, name).items():
                    if premise not in self.allow:
                        yield premise, why

    def _axes(self) -> tuple[dict[str, tuple], dict[str, str]]:
        """Values of every setting that the file names, and its place in the file."""
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
