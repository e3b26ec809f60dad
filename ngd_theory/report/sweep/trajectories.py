"""Losses against the step, measured and predicted, at a few points of the grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ngd_theory.report.style import RC, colour, label, marker
from ngd_theory.report.sweep.axes import name_of, tick_y
from ngd_theory.report.sweep.curves import matching, spread
from ngd_theory.report.sweep.panels import DASHED, title_of
from ngd_theory.sweeps.theory import Study
from ngd_theory.sweeps.theory_cells import CONFIG_COLUMNS

#: Curves stop at this share of their first value, below which round-off decides.
_FLOORS = {"float64": 1e-15, "float32": 1e-7}
#: Grid points side by side.
_MOST_POINTS = 3


#: The grid point's value on the axis that is compared, and its rows.
Point = tuple[dict[str, Any], pd.DataFrame]


@dataclass(frozen=True)
class Trajectories:
    """Rows to draw.

    Attributes
    ----------
    points : tuple of (dict, DataFrame)
        See `some_points`.
    fixed : dict
        The other varying settings and the value they have here.
    columns : tuple of str
        Measured columns; each has a ``predicted_`` one.
    """

    points: tuple[Point, ...]
    fixed: dict[str, Any]
    columns: tuple[str, ...]


def trajectories(study: Study, frame: pd.DataFrame) -> Trajectories | None:
    """Rows of at most three grid points, over all seeds; None if nothing was trained.

    Step scales are compared if they vary, else widths, else the setting with most values. The other settings that vary
    are held at their last value (the widest network, the last activation).
    """
    rows: Any = frame[frame["applicable"] & frame["train_loss"].notna()]
    if "trajectory" not in study.measure or rows.empty:
        return None
    points, fixed = some_points(rows, ("step_scale", "width"), _MOST_POINTS)
    first = "residual" if rows["residual"].notna().any() else "train_loss"
    columns = [name for name in (first, "test_loss") if rows[name].notna().any()]
    return Trajectories(points, fixed, tuple(columns))


def some_points(
    rows: Any, first: Sequence[str], most: int
) -> tuple[tuple[Point, ...], dict[str, Any]]:
    """Rows of some grid points that differ in one setting, over all seeds, and the other settings that vary.

    The setting is the first of ``first`` that varies, else the one with most values. At most ``most`` of its values are
    taken, both ends among them. The others are held at their last value (the widest network, the last activation).
    """
    varying = [n for n in CONFIG_COLUMNS if n != "seed" and rows[n].nunique(dropna=False) > 1]
    compared = max(
        varying,
        key=lambda n: (*(n == name for name in first), rows[n].nunique()),
        default=None,
    )
    fixed = {}
    for name in varying:
        if name != compared:
            fixed[name] = rows[name].iloc[-1]
            rows = matching(rows, {name: fixed[name]})
    if compared is None:
        return (({}, rows),), fixed
    values = list(rows[compared].drop_duplicates().sort_values())
    kept = sorted({-(-i * (len(values) - 1) // (most - 1)) for i in range(most)})
    points = (({compared: values[i]}, rows[rows[compared] == values[i]]) for i in kept)
    return tuple(points), fixed


def draw_trajectories(found: Trajectories) -> Figure:
    """One column of panels for each grid point, one row for each quantity; a single point has one row of panels."""
    with mpl.rc_context(RC):
        shape = (len(found.columns), len(found.points))
        if shape[1] == 1:
            shape = shape[::-1]
        figure = Figure(figsize=(2.5 * shape[1] + 1.2, 2.4 * shape[0] + 0.5), layout="constrained")
        FigureCanvasAgg(figure)
        sharey = "row" if len(found.points) > 1 else False
        grid = figure.subplots(*shape, squeeze=False, sharey=sharey)
        panels = [(c, where, rows) for c in found.columns for where, rows in found.points]
        for axes, (column, where, rows) in zip(grid.flat, panels, strict=True):
            _draw_panel(axes, column, rows)
            axes.set_xlabel("step")
            axes.set_ylabel(name_of(column))
            if axes in grid[0]:
                axes.set_title(title_of(where), parse_math=False)
        for axes in grid.flat:
            _trim(axes)
            tick_y(axes)
            if len(found.points) > 1:
                axes.label_outer()
        handles = {h.get_label(): h for axes in grid.flat for h in axes.get_lines()}
        named = {k: h for k, h in handles.items() if not str(k).startswith("_")}
        figure.legend(named.values(), named.keys(), loc="outside right upper")
        return figure


def _draw_panel(axes: Axes, column: str, rows: pd.DataFrame) -> None:
    axes.set_yscale("log")
    floor = _FLOORS[rows["precision"].iloc[0]] * float(rows[column].iloc[0])
    for name, group in rows.groupby("approximation", sort=False):
        look: dict[str, Any] = {"color": colour(str(name))}
        predicted = spread(group.assign(value=group[f"predicted_{column}"]), "step", geometric=True)
        x = predicted.index.to_numpy(float)
        axes.plot(x, np.maximum(predicted["centre"], floor), zorder=2, **look, **DASHED)
        measured = spread(group.assign(value=group[column]), "step", geometric=True)
        x = measured.index.to_numpy(float)
        axes.fill_between(x, measured["low"], measured["high"], alpha=0.12, lw=0, zorder=1, **look)
        axes.plot(
            x,
            measured["centre"],
            linestyle="none",
            marker=marker(str(name)),
            markerfacecolor="none",
            markersize=5,
            label=label(str(name)),
            gid=f"centre-{name}",
            zorder=3,
            **look,
        )
    axes.plot([], [], color="0.35", label="prediction", **DASHED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _trim(axes: Axes) -> None:
    """Limit the axis, so that a prediction of zero (step scale 1) does not squeeze the measured curves."""
    shared = axes.get_shared_y_axes().get_siblings(axes)
    measured = [y for one in shared for y in _measured(one)]
    low, _ = axes.get_ylim()
    if measured and low < min(measured) / 10:
        axes.set_ylim(bottom=min(measured) / 10)


def _measured(axes: Axes) -> np.ndarray:
    lines = [line for line in axes.get_lines() if str(line.get_gid()).startswith("centre-")]
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in lines] or [[]])
    return values[np.isfinite(values) & (values > 0)]
