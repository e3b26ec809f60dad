"""Constant and dispersion of every layer against the channels of a layers study."""

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ngd_theory.report.style import RC

CAPTION = (
    "Dispersion of each layer's own map, and its constant over that of the rank condition, against the channels M, "
    "means over seeds. One row of panels a layer, the network last; one line an image size and number of samples. "
    "Filled: rank(a) = NT and rank(delta) = NCT."
)
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Below it is rounding.
_FLOOR = 1e-16


def draw_layers(frame: pd.DataFrame) -> Figure:
    """Two panels a layer; ``frame`` as `ngd_theory.sweeps.load` returns it."""
    layers = sorted(frame["layer"].unique(), key=lambda index: (index == 0, index))
    with mpl.rc_context(RC):
        figure = Figure(figsize=(8.4, 2.3 * len(layers)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(layers), 2, sharex=True, squeeze=False)
        for (left, right), layer in zip(grid, layers, strict=True):
            rows: Any = frame[frame["layer"] == layer]
            groups = rows.groupby(["approximation", "image_size", "num_samples"])
            for i, (key, group) in enumerate(groups):
                mean = group.groupby("channels")[
                    ["dispersion", "constant", "predicted_constant"]
                ].mean()
                full = group.groupby("channels")["full_rank"].all()
                colour = _COLOURS[i % len(_COLOURS)]
                ratio = mean["constant"] / mean["predicted_constant"]
                label = f"{key[0]}, {key[1]} x {key[1]}, N = {key[2]}"
                for axes, values in ((left, mean["dispersion"].clip(lower=_FLOOR)), (right, ratio)):
                    axes.plot(values.index, values, color=colour, label=label)
                    for channels, value in values.items():
                        face = colour if full[channels] else "white"
                        axes.plot(channels, value, "o", color=colour, markerfacecolor=face)
            name = "network" if layer == 0 else f"layer {layer}"
            left.set_title(f"{name}: dispersion", loc="left")
            right.set_title(f"{name}: constant / predicted", loc="left")
            left.set_xscale("log", base=2)
            left.set_yscale("log")
            left.set_ylim(_FLOOR / 2, max(2, left.get_ylim()[1]))
            low, high = right.get_ylim()
            right.set_ylim(min(low, 0.9), max(high, 1.1))
        for axes in grid[-1]:
            axes.set_xlabel("channels M")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
        return figure
