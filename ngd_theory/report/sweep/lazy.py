"""Figure of the gap to the prediction over epsilon, at a few points of the grid."""

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ngd_theory.report.lazy import draw_gaps, finish_gaps
from ngd_theory.report.style import RC, colour
from ngd_theory.report.sweep.curves import spread
from ngd_theory.report.sweep.panels import title_of
from ngd_theory.report.sweep.trajectories import Point, some_points
from ngd_theory.sweeps.theory import Study

#: Grid points side by side.
_MOST_POINTS = 4


@dataclass(frozen=True)
class LazyGaps:
    """Rows to draw.

    Attributes
    ----------
    points : tuple of (dict, DataFrame)
        See `some_points`; one row for each epsilon.
    fixed : dict
        The other varying settings and the value they have here.
    """

    points: tuple[Point, ...]
    fixed: dict[str, Any]


def lazy_gaps(study: Study, frame: Any) -> LazyGaps | None:
    """Rows of the lazy family of at most four grid points, over all seeds; None if it was not measured.

    Activations are compared before widths, as the order of the gap depends on them.
    """
    rows = frame[frame["applicable"] & frame["epsilon"].notna()]
    if "lazy" not in study.measure or rows.empty:
        return None
    return LazyGaps(*some_points(rows, ("activation", "width"), _MOST_POINTS))


def draw_lazy_gaps(found: LazyGaps) -> Figure:
    """One panel for each grid point, one line for each approximation."""
    with mpl.rc_context(RC):
        count = len(found.points)
        figure = Figure(figsize=(2.4 * count + 1.6, 3.0), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(1, count, squeeze=False, sharey=True)[0]
        for axes, (where, rows) in zip(grid, found.points, strict=True):
            for name, group in rows.groupby("approximation", sort=False):
                _draw_curve(axes, str(name), group)
            finish_gaps(axes)
            axes.set_title(title_of(where), parse_math=False)
        grid[0].set_ylabel("largest gap, relative")
        handles = {h.get_label(): h for axes in grid for h in axes.get_lines()}
        named = {k: h for k, h in handles.items() if not str(k).startswith("_")}
        figure.legend(named.values(), named.keys(), loc="outside right upper")
        return figure


def _draw_curve(axes, name: str, rows: Any) -> None:
    """Draw geometric means over seeds with a band; marks are hollow if a seed's gap may be rounding."""
    band = spread(rows.assign(value=rows["epsilon_gap"]), "epsilon", geometric=True)
    seen = rows.assign(seen=rows["epsilon_gap"] > rows["epsilon_rounding"])
    shown = seen.groupby("epsilon")["seen"].all().reindex(band.index).to_numpy(bool)
    x = band.index.to_numpy(float)
    axes.fill_between(x, band["low"], band["high"], color=colour(name), alpha=0.12, lw=0, zorder=1)
    draw_gaps(axes, name, x, band["centre"].to_numpy(float), np.asarray(shown))
