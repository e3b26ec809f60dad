"""Claims of a study of the theory, and the statistics by which they are judged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import model_validator

from ngd_theory.errors import InputError, choose
from ngd_theory.estimates import Estimate, power_law, seed_mean
from ngd_theory.experiment.building import make_approximation, make_network
from ngd_theory.experiment.claim import NotApplicableError
from ngd_theory.experiment.columns import COLUMNS, Column
from ngd_theory.sweeps.base import AnyClaim
from ngd_theory.sweeps.cells import Cell
from ngd_theory.sweeps.statistics import contraction_rate
from ngd_theory.sweeps.theory_cells import CONFIG_COLUMNS, known_size

#: Columns that tell layers apart in a claim.
_OF_LAYERS = ("place", "layer_name", "full_rank")


@dataclass(frozen=True)
class Statistic:
    """How rows become one number for each cell, how cells become an estimate, and how a figure shows them.

    Attributes
    ----------
    cells : ``(claim, rows) -> table``
        One row for each cell, with its number as ``value``.
    seeds : ``(claim, that table) -> Estimate``
    heading : str
        Of the figure's vertical axis; ``{}`` is the column.
    meaning : str
        What the figure shows for a cell.
    judged : str
        The estimate from all cells, in the verdict.
    dashes : str
        What the dashed lines are.
    axis : {"log", "linear", "wide"}
        The figure's vertical axis; wide: logarithmic where the numbers span a decade.
    lines : tuple of {"theory", "tolerance", "bounds"}
        What is drawn beside the numbers.
    fitted : bool
        Whether every curve has a fitted power law. Its centres are then geometric means.
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
    """Reduce the claim's column over the steps of every cell; a NaN in one step gives NaN."""

    def cells(claim: "StudyClaim", rows: Any) -> pd.DataFrame:
        groups = rows.groupby("cell", sort=False)
        values = groups[claim.of].agg(lambda v: reduce(v.to_numpy(float)))
        return groups.first().assign(value=values).reset_index()

    return cells


def _over_cells(reduce: Callable[[Any], float]) -> Callable[["StudyClaim", Any], Estimate]:
    """Reduce the cells of each seed to one number, and average over seeds."""
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
    """Among cells that differ only in the step scale, the one with the smallest last number.

    Its ``value`` is the step size: NaN if a number is missing, or if the best is at an end of the grid, as a better one
    may lie beyond.
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
    """Exponent of the numbers as a power of the claim's ``over``."""
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
        Setting over which the exponent is fitted. "best-step" fits the exponent of the step size with the smallest
        ``of`` after the last step, among the step scales of the grid.
    approximations : tuple of str
        One verdict each; all of the study when left out.
    where : dict
        Settings, and for layers also ``place``, ``layer_name`` and ``full_rank``. Without a place or a name the claim
        is about whole networks.
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
            # Rows of the lazy family are only for the figure. Claims read the network's own numbers of it.
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
        """Whether the claim needs a map that is a sum over layers."""
        place = self.where.get("place", "network")
        return place != "network" or bool({"full_rank", "layer_name"} & set(self.where))

    @property
    def row_filters(self) -> Mapping[str, Column]:
        """Columns that tell layers apart."""
        return {name: COLUMNS[name] for name in _OF_LAYERS}

    def subjects(self, study: Any) -> Sequence[str]:
        """The approximations."""
        return self.approximations or study.approximations

    def rows(self, subject: str, rows: Any) -> Any:
        """Rows on which the claim is judged, among those of the cells that it concerns.

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
        """Estimate from the rows by the claim's statistic."""
        statistic = STATISTICS[self.statistic]
        return statistic.seeds(self, statistic.cells(self, self.rows(subject, rows)))

    def check(self, study: Any, cells: Sequence[Cell]) -> None:
        """Also check that the study measures what the claim reads."""
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
                if not by_layers(name):
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


def by_layers(name: str) -> bool:
    """Whether the approximation's map is a sum over layers."""
    return make_approximation(name, "mse").by_layers


def _layer_names(cells: Sequence[Any]) -> tuple[str, ...]:
    """Names of the layers of all networks; empty if data are not on this machine."""
    found: dict[str, None] = {}
    for cell in {cell.shape: cell for cell in cells}.values():
        size = known_size(cell.settings)
        if size is None:
            return ()
        found |= dict.fromkeys(make_network(cell.settings, size).names)
    return tuple(found)
