"""Training curves of the optimisers of a study, over steps and over seconds."""

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ngd_theory.report.style import RC
from ngd_theory.sweeps.training import best_run

CAPTION = (
    "Error of the training set (mean squared reconstruction error, or cross-entropy) against steps and against "
    "seconds spent in steps. Thick: each label's run of least final error, one line for each seed; thin: its other "
    "options."
)
#: Okabe and Ito's palette, in the order of the labels.
_COLOURS = ("#D55E00", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#000000")


def draw_training(frame: pd.DataFrame) -> Figure:
    """Draw two panels of one training study; ``frame`` is what `ngd_theory.sweeps.load` returns."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, column in ((left, "step"), (right, "seconds")):
            for i, (label, rows) in enumerate(frame.groupby("label", sort=False)):
                _draw(axes, column, str(label), rows, _COLOURS[i % len(_COLOURS)])
            axes.set_yscale("log")
            axes.set_xlabel(column)
            axes.set_xlim(left=0)
        left.set_ylabel("training error")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
        return figure


def _draw(axes: Axes, column: str, label: str, rows: Any, colour: str) -> None:
    best = {str(best_run(of_seed)["cell"].iloc[0]) for _, of_seed in rows.groupby("seed")}
    named = False
    for cell, run in rows.groupby("cell", sort=False):
        run = run.sort_values("step")
        thick = str(cell) in best
        axes.plot(
            run[column],
            run["error"],
            color=colour,
            lw=1.4 if thick else 0.5,
            alpha=1 if thick else 0.4,
            label=label if thick and not named else None,
        )
        named |= thick
