"""How a setting or a measured column looks on an axis."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ngd_theory.report.table import number

#: Names on axes; others are shown with spaces for underscores.
NAMES = {
    "width": "width M",
    "depth": "depth L",
    "num_train": "training samples N",
    "input_dim": "input dimension",
    "damping": "damping ρ",
    "step_scale": "step scale ηα",
    "constant": "constant α",
    "constant_error": "relative error of α",
    "dispersion": "dispersion of K",
    "residual": "residual / first residual",
    "gap": "gap to the prediction",
    "test_gap": "gap to the prediction, test set",
    "distance": "distance moved",
    "movement": "distance moved / norm",
    "kernel_drift": "drift of the kernel",
    "lazy_gap": "gap at the smallest ε",
    "gap_order": "order of the gap in ε",
    "correction": "finite-width correction g₁",
    "train_loss": "training loss",
    "label_variance": "variance of outputs / of labels",
    "variance_over_descent": "variance / gradient descent's",
    "bias_over_descent": "bias / gradient descent's",
    "population_variance_over_descent": "variance, population Fisher / gradient descent's",
    "population_bias_over_descent": "bias, population Fisher / gradient descent's",
    "population_misaligned_over_descent": "misaligned bias, population Fisher / gradient descent's",
    "population_variance_over_rivals": "variance, population Fisher / the least of others",
    "population_misaligned_over_rivals": "misaligned bias, population Fisher / the least of others",
    "fresh_variance_over_descent": "variance at fresh inputs / gradient descent's",
    "fresh_bias_over_descent": "bias at fresh inputs / gradient descent's",
}

#: Settings whose values are spaced by factors.
_LOGARITHMIC = ("width", "num_train", "num_test", "input_dim", "output_dim", "damping")
#: At most this many ticks stand at the grid's own values.
_MOST_TICKS = 8
#: Largest over smallest value from which an axis is logarithmic.
_LOG_RATIO = 10.0
#: Up to so many decades a logarithmic axis has more ticks than powers of ten, and the ticks of a linear one.
_FEW_DECADES, _NO_DECADE = 2.0, 0.6


def name_of(column: str) -> str:
    """What a setting or column is called on an axis."""
    return NAMES.get(column, column.replace("_", " "))


def scale_x(axes: Axes, setting: str, values: Any) -> None:
    """Set name, scale and ticks of a horizontal axis with the values of a setting."""
    values = np.unique(np.asarray(values, float))
    axes.set_xlabel(name_of(setting))
    if setting in _LOGARITHMIC and len(values) > 1:
        positive = values[values > 0]
        if len(positive) == len(values):
            axes.set_xscale("log")
        else:
            # A damping of 0 must be visible beside powers of ten.
            axes.set_xscale("symlog", linthresh=positive[0])
    if len(values) <= _MOST_TICKS:
        axes.xaxis.set_major_locator(FixedLocator(list(values)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.xaxis.set_minor_locator(NullLocator())


def tick_y(axes: Axes) -> None:
    """Write plain numbers on a logarithmic vertical axis of few decades. Call it when the limits are final."""
    low, high = axes.get_ylim()
    if axes.get_yscale() != "log" or (decades := np.log10(high / low)) > _FEW_DECADES:
        return
    close = decades <= _NO_DECADE
    locator = MaxNLocator(nbins=5) if close else LogLocator(subs=(1, 2, 5))
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.yaxis.set_minor_locator(NullLocator())


def is_logarithmic(values: Any) -> bool:
    """Whether an axis for these values should be logarithmic: they are positive and span at least a decade."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    # A few exact zeros among small errors are not drawn; a negative value forbids the logarithm.
    if not len(positive) or (values < 0).any():
        return False
    return bool(positive.max() / positive.min() >= _LOG_RATIO)
