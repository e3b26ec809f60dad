"""The figure of a claim. Its kind follows from the statistic."""

from collections.abc import Callable
from math import ceil, isfinite
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ngd_theory.report.style import RC, colour, label, marker
from ngd_theory.report.sweep.axes import is_logarithmic, name_of, scale_x, tick_y
from ngd_theory.report.sweep.curves import Panel, Series, spread
from ngd_theory.report.sweep.labels import Label, label_ends
from ngd_theory.report.table import number
from ngd_theory.sweeps import Estimate, Rule, power_law

#: Style of theory, bounds and fits.
DASHED: dict[str, Any] = {"linestyle": (0, (4, 2)), "lw": 1.2}
_GREY = "0.35"
_COLUMNS = 3


def draw(series: Series) -> Figure:
    """Draw a claim's curves, a panel for each value of the claim's ``each``."""
    with mpl.rc_context(RC):
        count = len(series.panels)
        columns = min(count, _COLUMNS)
        rows = ceil(count / columns)
        size = (5.8, 3.4) if count == 1 else (2.4 * columns + 0.4, 2.5 * rows + 0.3)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        panels = list(zip(grid.flat, series.panels, strict=False))
        labels = [_draw_panel(axes, series, panel) for axes, panel in panels]
        for axes, _ in panels:
            tick_y(axes)
            axes.label_outer()
        _name_curves(series, [axes for axes, _ in panels], labels)
        for axes in grid.flat[count:]:
            axes.set_axis_off()
        return figure


def is_logarithmic_above(series: Series) -> bool:
    """Whether the figure's vertical axis is logarithmic."""
    if series.statistic.axis != "wide":
        return series.statistic.axis == "log"
    rule = Rule.parse(series.claim.rule)
    bounds = [end for end in (rule.low, rule.high) if end > 0]
    return is_logarithmic([*series.values, *bounds])


def title_of(where: dict[str, Any]) -> str:
    """Settings of a panel in words."""
    return ", ".join(f"{name_of(name)} = {value}" for name, value in where.items())


def _draw_panel(axes: Axes, series: Series, panel: Panel) -> list[Label]:
    statistic = series.statistic
    if is_logarithmic_above(series):
        axes.set_yscale("log")
    axes.set_ylabel(statistic.heading.format(name_of(series.claim.of or "")))
    curves: list[Label] = []
    if series.axis is None:
        _draw_dots(axes, panel)
    else:
        scale_x(axes, series.axis, pd.concat(panel.curves.values())[series.axis])
        for name, cells in panel.curves.items():
            curves += _draw_curve(axes, series.axis, name, cells, statistic.fitted)
    # A dollar sign in a value must not start mathematics.
    axes.set_title(title_of(panel.where), parse_math=False)
    return curves + [text for line in statistic.lines for text in _LINES[line](axes, series, panel)]


def _name_curves(series: Series, axes: list[Axes], labels: list[list[Label]]) -> None:
    """Write labels beside the curves of a single panel that has room; else in a title or a legend."""
    if len(axes) == 1 and label_ends(axes[0], labels[0]):
        return
    fitted = series.statistic.fitted
    for one, texts in zip(axes, labels, strict=True):
        if fitted and len(texts) == 1:
            one.set_title(f"{one.get_title()}\n{texts[0].text}", parse_math=False)
        elif texts and (fitted or one is axes[0]):
            one.legend(fontsize=7, handlelength=1.8)


def _draw_dots(axes: Axes, panel: Panel) -> None:
    """Draw the numbers of every cell above the approximation's name, and a bar at their mean."""
    for place, (name, cells) in enumerate(panel.curves.items()):
        values = cells["value"].to_numpy(float)
        axes.plot(
            np.full(len(values), place),
            values,
            linestyle="none",
            marker=marker(name),
            markerfacecolor="none",
            markersize=5,
            color=colour(name),
            zorder=3,
        )
        axes.plot([place - 0.2, place + 0.2], [values.mean()] * 2, color=colour(name), lw=2)
    names = [label(name) for name in panel.curves]
    # Long names stand on two lines, so that they do not run into each other.
    names = [n.replace("-", "-\n").replace(" ", "\n") if len(n) > 8 else n for n in names]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(panel.curves) - 0.4)


def _draw_curve(axes: Axes, axis: str, name: str, cells: pd.DataFrame, fitted: bool) -> list[Label]:
    """Draw centres with a band and, if ``fitted``, a power law; return the label at its end."""
    band = spread(cells, axis, geometric=fitted)
    if band.empty:
        return []
    x, text = band.index.to_numpy(float), label(name)
    look: dict[str, Any] = {"color": colour(name)}
    fit = power_law(cells[axis], cells["value"], cells["seed"]) if fitted else None
    # There is no exponent if a number is not positive and finite.
    if fit is not None and isfinite(fit.value):
        text += f"  {_exponent(fit)}"
        middle, level = np.exp(np.log(cells[[axis, "value"]].to_numpy(float)).mean(axis=0))
        axes.plot(x, level * (x / middle) ** fit.value, gid=f"fit-{name}", **look, **DASHED)
    axes.fill_between(x, band["low"], band["high"], alpha=0.18, lw=0, zorder=1, **look)
    axes.plot(
        x,
        band["centre"],
        linestyle="none" if fitted else "-",
        lw=1.2,
        marker=marker(name),
        markersize=4.5,
        label=text,
        gid=f"centre-{name}",
        zorder=3,
        **look,
    )
    return [Label(text, look["color"], float(x[-1]), float(band["centre"].iloc[-1]))]


def _exponent(fit: Estimate) -> str:
    text = f"{fit.value:z.2f}".replace("-", "−")
    if not isfinite(fit.low):
        return text
    half = (fit.high - fit.low) / 2
    return f"{text} ± {half:.2f}" if half >= 0.005 else f"{text} ± {number(half)}"


def _bounds(axes: Axes, series: Series, panel: Panel) -> list[Label]:
    """Draw the ends of the rule's range."""
    rule = Rule.parse(series.claim.rule)
    return [
        _level(axes, f"rule: {sign} {number(end)}", end)
        for sign, end in (("≥", rule.low), ("≤", rule.high))
        if isfinite(end) and (end > 0 or axes.get_yscale() == "linear")
    ]


def _contraction(axes: Axes, series: Series, panel: Panel) -> list[Label]:
    """Draw ``|1 - eta alpha|``, if the step scale is on the axis or is the same in the whole panel."""
    scales = np.unique(pd.concat(panel.curves.values())["step_scale"])
    if series.axis == "step_scale":
        x = np.linspace(scales[0], scales[-1], 201)
        theory = np.abs(1 - x)
        axes.plot(x, theory, color=_GREY, label="|1 − ηα|", gid="theory", zorder=2, **DASHED)
        return [Label("|1 − ηα|", _GREY, float(x[-1]), float(theory[-1]))]
    if len(scales) == 1:
        return [_level(axes, f"|1 − ηα| = {number(abs(1 - scales[0]))}", abs(1 - scales[0]))]
    return []


def _tolerance(axes: Axes, series: Series, panel: Panel) -> list[Label]:
    """Shade what the rule allows around the theory, whose line was drawn last."""
    tolerance, lines = Rule.parse(series.claim.rule).high, axes.lines
    if not (lines and lines[-1].get_gid() in ("theory", "level") and isfinite(tolerance)):
        return []
    x, y = lines[-1].get_data()
    # A level runs from 0 to 1 of the axes' width.
    level = lines[-1].get_gid() == "level"
    across: dict[str, Any] = {"transform": axes.get_yaxis_transform()} if level else {}
    low, high = np.asarray(y) - tolerance, np.asarray(y) + tolerance
    axes.fill_between(
        np.asarray(x),
        np.maximum(low, 0),
        high,
        color=_GREY,
        alpha=0.12,
        lw=0,
        zorder=0,
        **across,
    )
    return []


def _level(axes: Axes, text: str, y: float) -> Label:
    axes.axhline(y, color=_GREY, label=text, gid="level", zorder=2, **DASHED)
    return Label(text, _GREY, axes.get_xlim()[1], y)


#: What a statistic draws beside its numbers; each returns its labels.
_LINES: dict[str, Callable[[Axes, Series, Panel], list[Label]]] = {
    "theory": _contraction,
    "tolerance": _tolerance,
    "bounds": _bounds,
}
