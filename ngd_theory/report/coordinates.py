"""The figure of a coordinate check."""

from math import isfinite
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ngd_theory.arguments import checked
from ngd_theory.files import written
from ngd_theory.report.style import RC, colour, label, marker
from ngd_theory.theory import CoordinateCheck

#: Kind of change and label of the axis, for each row of panels.
_ROWS = (
    ("features", "Δh, relative"),
    ("preactivations", "Δu, relative"),
)


@checked
def draw_coordinates(check: CoordinateCheck, path: Path, step: int = -1) -> None:
    """Draw relative changes over the width, one panel for each layer: geometric means over seeds, fitted exponents.

    The upper row shows what the next layer gets, the lower row the layer's own pre-activations. Slopes of 0 and -1/2
    are grey.

    Parameters
    ----------
    check : CoordinateCheck
        With at least two widths.
    path : path
        Of the PNG file.
    step : int
        As in `CoordinateCheck.exponents`.

    Raises
    ------
    InputError
        As `CoordinateCheck.exponents`.
    """
    exponents = {kind: check.exponents(kind, step=step) for kind, _ in _ROWS}
    layers = len(check.layers)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(2.6 * layers + 1.6, 5.0), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(2, layers, squeeze=False, sharex=True, sharey="row")
        for row, (kind, heading) in zip(grid, _ROWS, strict=True):
            changes = check.changes(kind)[:, :, :, step]
            for layer, axes in enumerate(row):
                if layer == changes.shape[3]:  # the last layer has no features
                    axes.set_axis_off()
                    continue
                for a, name in enumerate(check.approximations):
                    fit = exponents[kind][name][layer]
                    _curve(axes, name, check.widths, changes[a, :, :, layer], fit.value)
                _guides(axes, check.widths)
                axes.set_title(f"layer {check.layers[layer]}", parse_math=False)
                axes.legend(fontsize=6.5, handlelength=1.2)
            row[0].set_ylabel(heading)
        for axes in grid[1]:
            axes.set_xlabel("width M")
        made = range(1, check.features.shape[3] + 1)[step]
        seeds = f"{len(check.seeds)} seed{'s' * (len(check.seeds) > 1)}"
        figure.suptitle(f"after {made} step{'s' * (made > 1)}, {seeds}", fontsize=10)
        with written(path) as temporary:
            figure.savefig(temporary, format="png")


def _curve(axes: Axes, name: str, widths, changes: np.ndarray, exponent: float) -> None:
    """Draw one approximation's means of (W, S) changes; a mean that is not positive and finite has no mark."""
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = np.exp(np.log(changes).mean(axis=1))
    drawn = np.where(np.isfinite(centre) & (centre > 0), centre, np.nan)
    power = f"  {exponent:z.2f}".replace("-", "−") if isfinite(exponent) else ""
    look = {"color": colour(name), "marker": marker(name), "markersize": 4.5, "lw": 1.2}
    axes.plot(widths, drawn, label=f"{label(name)}{power}", gid=f"change-{name}", **look)


def _guides(axes: Axes, widths) -> None:
    """Draw slopes 0 and -1/2 a little above the largest change, and set the scales of the axes."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()])
    high = 1.3 * np.nanmax(drawn, initial=0.0) or 1.0
    ratio = np.asarray(widths, float) / min(widths)
    order = np.argsort(ratio)
    for power, dashes in ((0.0, "--"), (-0.5, ":")):
        guide = high * ratio[order] ** power
        axes.plot(np.sort(widths), guide, dashes, color="0.6", lw=1, gid=f"slope{power:g}")
    axes.set_xscale("log")
    axes.set_xticks(widths, [str(m) for m in widths])
    axes.set_xticks([], minor=True)
    axes.set_yscale("log")
