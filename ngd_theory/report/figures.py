"""Figures of a verification run."""

from math import ceil
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ngd_theory.experiment import Report
from ngd_theory.files import written
from ngd_theory.report.lazy import draw_gaps, finish_gaps
from ngd_theory.report.style import RC, colour, label, marker

#: Losses above this are not drawn: the axis of a run that diverges would leave the range of floats.
_CEILING = 1e100


def draw_dynamics(report: Report, path: Path) -> None:
    """Training and test loss of every approximation, measured (markers) and predicted (dashes)."""
    with mpl.rc_context(RC):
        has_test = report.dataset.num_test > 0
        figure = Figure(figsize=(9.0 if has_test else 5.2, 4.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 2 if has_test else 1, squeeze=False)[0]
        # Below the round-off of the outputs a loss is noise.
        floor = 1e-16 if report.settings.precision == "float64" else 1e-9
        for axis, split in zip(axes, ("training", "test"), strict=False):
            for name in report.evidence:
                evidence = report.evidence[name]
                measured, *theory = (
                    evidence.losses(run, split) for run in ("training", "prediction", "limit")
                )
                for curve, dashes in zip(theory, ("--", ":"), strict=True):
                    if curve is not None:
                        shown = _shown(curve, floor)
                        axis.plot(shown, dashes, color=colour(name), lw=1.2, zorder=2)
                assert measured is not None
                axis.plot(
                    _shown(measured, floor),
                    linestyle="none",
                    marker=marker(name),
                    markersize=5,
                    markerfacecolor="none",
                    color=colour(name),
                    label=label(name) if split == "training" else None,
                    zorder=3,
                )
            axis.set_yscale("log")
            axis.set_xlabel("step")
            axis.set_title(f"{split} loss")
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0].plot([], [], "--", color="0.4", label="prediction")
        if report.settings.kernel == "infinite":
            axes[0].plot([], [], ":", color="0.4", label="infinite width")
        figure.legend(loc="outside right center")
        figure.suptitle(
            f"{report.dataset.name}, N = {report.dataset.num_train}, depth {report.network.depth}, "
            f"width {report.settings.width}, {report.settings.activation}, "
            f"ηα = {report.settings.step_scale:g}",
            fontsize=10,
        )
        with written(path) as temporary:
            figure.savefig(temporary, format="png")


def draw_lazy(report: Report, path: Path) -> None:
    """Largest gap to the prediction over epsilon, for every approximation, and lines of slope 1 and 1/2."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=(6.2, 4.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for name, e in report.evidence.items():
            runs = e.lazy_gaps
            epsilons = np.array([run.epsilon for run in runs])
            gaps = np.array([run.gap for run in runs])
            draw_gaps(
                axes, name, epsilons, gaps, np.array([run.gap > run.rounding for run in runs])
            )
        finish_gaps(axes)
        axes.set_ylabel("largest gap to the prediction, relative")
        figure.legend(loc="outside right center")
        figure.suptitle(
            f"{report.dataset.name}, N = {report.dataset.num_train}, depth {report.network.depth}, "
            f"width {report.settings.width}, {report.settings.activation}; hollow: within rounding",
            fontsize=10,
        )
        with written(path) as temporary:
            figure.savefig(temporary, format="png")


def _shown(curve: np.ndarray, floor: float) -> np.ndarray:
    """A loss as it is drawn: at least ``floor``, and NaN from `_CEILING` on."""
    curve = np.asarray(curve, float)
    return np.where(curve < _CEILING, np.maximum(curve, floor), np.nan)


def draw_isotropy(report: Report, path: Path) -> None:
    """Heat maps of K over its mean eigenvalue, one for each approximation, on one colour scale."""
    with mpl.rc_context(RC):
        maps = {name: e.map for name, e in report.evidence.items() if e.map is not None}
        names = list(maps)
        columns = min(4, len(names))
        rows = ceil(len(names) / columns)
        figure = Figure(figsize=(2.3 * columns + 0.6, 2.5 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False)
        image = None
        for axis, name in zip(grid.flat, names, strict=False):
            k = maps[name]
            size = min(len(k), 200)
            image = axis.imshow(
                k[:size, :size] / (np.trace(k) / len(k)),
                cmap="RdBu_r",
                vmin=-1,
                vmax=1,
                interpolation="nearest",
            )
            dispersion = float(report.evidence[name].isotropy.dispersion)
            axis.set_title(f"{label(name)}\ndispersion {dispersion:.2g}")
            axis.spines[:].set_visible(False)
            axis.set_xticks([])
            axis.set_yticks([])
        for axis in grid.flat[len(names) :]:
            axis.set_axis_off()
        if image is not None:
            figure.colorbar(image, ax=grid, shrink=0.6, label=r"$K/\bar\alpha$")
        with written(path) as temporary:
            figure.savefig(temporary, format="png")
