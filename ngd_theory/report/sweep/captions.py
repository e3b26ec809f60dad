"""What a figure shows, in words, and its numbers as a table."""

from math import isinf
from typing import Any, NamedTuple

import numpy as np

from ngd_theory.report.style import label
from ngd_theory.report.sweep.axes import name_of
from ngd_theory.report.sweep.curves import Panel, Series, spread
from ngd_theory.report.sweep.lazy import LazyGaps
from ngd_theory.report.sweep.panels import is_logarithmic_above, title_of
from ngd_theory.report.sweep.trajectories import Trajectories
from ngd_theory.report.table import number
from ngd_theory.sweeps import Estimate


class Numbers(NamedTuple):
    """A table as text; the title is empty if there is only one table."""

    title: str
    header: list[str]
    rows: list[list[str]]


def caption(series: Series) -> str:
    """What a claim's figure shows."""
    what = series.statistic.meaning.format(name_of(series.claim.of or ""))
    if series.axis is None:
        parts = [f"Every cell: {what}; a bar at the mean"]
    else:
        mean = "geometric mean" if series.statistic.fitted else "mean"
        over = " and ".join(["the seeds", *map(name_of, series.pooled)])
        parts = [
            f"Against the {name_of(series.axis)}, {what}",
            f"markers: {mean} over {over}, band: smallest to largest",
        ]
    parts.append(series.statistic.dashes)
    if series.claim.where:
        parts.append(f"where {title_of(series.claim.where)}")
    parts.append(f"together: {series.statistic.judged}, as in the verdicts")
    if any(_damped_otherwise(cells) for panel in series.panels for cells in panel.curves.values()):
        parts.append(
            "ρ is the study's, and K-FAC is given its square (`damping_used` in the table)"
        )
    if series.claim.outside_premise:
        parts.append("grid points outside the theory's premises")
    if hidden := _hidden(series):
        parts.append(f"{hidden} numbers that are not finite, or not positive, are not drawn")
    return "; ".join(parts) + "."


def _damped_otherwise(cells: Any) -> bool:
    """Whether an approximation was given another damping than the study's."""
    return bool((cells["damping_used"] != cells["damping"]).any())


def trajectories_caption(found: Trajectories) -> str:
    """What the figure of trajectories shows."""
    names = " and ".join(map(name_of, found.columns))
    first = names[0].upper() + names[1:]
    held = f" Held at {title_of(found.fixed)}." if found.fixed else ""
    return (
        f"{first} after every step; markers: geometric mean over the seeds, band: smallest to "
        "largest; dashed: the prediction in function space." + held
    )


def lazy_caption(found: LazyGaps) -> str:
    """What the figure of the lazy family shows."""
    held = f" Held at {title_of(found.fixed)}." if found.fixed else ""
    return (
        "Largest gap to the prediction over all steps, on both sets, of the network rescaled by ε (1: as it is). "
        "Markers: geometric mean over the seeds, band: smallest to largest; hollow: within rounding for at "
        "least one seed; dashed: slope 1, dotted: slope ½." + held
    )


def numbers(series: Series) -> tuple[Numbers, ...]:
    """The numbers of a claim's figure: one table for each panel."""
    make = _by_approximation if series.axis is None else _by_axis
    return tuple(Numbers(title_of(panel.where), *make(series, panel)) for panel in series.panels)


def estimate_text(estimate: Estimate | None) -> str:
    """Value and interval; the text says if there is no interval."""
    if estimate is None:
        return "–"
    if isinf(estimate.low) or isinf(estimate.high):
        return f"{estimate.value:.4g} (no interval)"
    return str(estimate)


def _by_axis(series: Series, panel: Panel) -> tuple[list[str], list[list[str]]]:
    """One row for each value of the axis, one column for each approximation."""
    assert series.axis is not None
    geometric = series.statistic.fitted
    bands = {name: spread(cells, series.axis, geometric) for name, cells in panel.curves.items()}
    rows = [
        [number(x), *(_cell(band.loc[x]) if x in band.index else "–" for band in bands.values())]
        for x in sorted(set().union(*(band.index for band in bands.values())))
    ]
    rows.append(["together", *(_judged(panel, name) for name in bands)])
    return [name_of(series.axis), *map(label, bands)], rows


def _by_approximation(series: Series, panel: Panel) -> tuple[list[str], list[list[str]]]:
    """One row for each approximation."""
    rows = []
    for name, cells in panel.curves.items():
        values = cells["value"].to_numpy(float)
        shown = (f"{v:.3g}" for v in (values.mean(), values.min(), values.max()))
        rows.append([label(name), *shown, str(len(values)), _judged(panel, name)])
    return ["approximation", "mean", "smallest", "largest", "cells", "together"], rows


def _judged(panel: Panel, name: str) -> str:
    return estimate_text(panel.estimates.get(name))


def _cell(band: Any) -> str:
    low, high = f"{band['low']:.3g}", f"{band['high']:.3g}"
    return f"{band['centre']:.3g} [{low}, {high}], n = {band['count']:.0f}"


def _hidden(series: Series) -> int:
    values = series.values.astype(float)
    drawn = np.isfinite(values) & (values > 0 if is_logarithmic_above(series) else True)
    return int((~drawn).sum())
