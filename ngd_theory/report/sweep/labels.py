"""Labels at the right end of curves, moved apart so that they do not overlap."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

_SIZE = 8.0
#: A label's height over its font size.
_LEADING = 1.45
#: Farthest a label may lie from its curve's end, as a fraction of the axes' height.
_FARTHEST = 0.3


@dataclass(frozen=True)
class Label:
    """A text for the point (x, y), in data coordinates, where its curve ends."""

    text: str
    colour: str
    x: float
    y: float


def label_ends(axes: Axes, labels: list[Label]) -> bool:
    """Write the labels beside the axes. If there is no room for them, write nothing and return False.

    Call it when scales and limits are final.
    """
    figure: Any = axes.figure
    figure.draw_without_rendering()
    ends = [
        axes.transAxes.inverted().transform(axes.transData.transform((m.x, m.y))) for m in labels
    ]
    points = axes.get_window_extent().height / figure.dpi * 72
    wanted = np.clip([y for _, y in ends], 0.0, 1.0)
    placed = spaced(wanted, _SIZE * _LEADING / points)
    if placed is None or np.abs(placed - wanted).max(initial=0) > _FARTHEST:
        return False
    for label, (x, y), height in zip(labels, ends, placed, strict=True):
        axes.annotate(
            label.text,
            xy=(x, np.clip(y, 0, 1)),
            xycoords="axes fraction",
            xytext=(1.04, height),
            textcoords="axes fraction",
            va="center",
            fontsize=_SIZE,
            color=label.colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": label.colour,
                "lw": 0.5,
                "shrinkA": 1,
                "shrinkB": 3,
            },
        )
    return True


def spaced(wanted: np.ndarray, gap: float) -> np.ndarray | None:
    """Heights in [0, 1], in the order of ``wanted`` and near it, at least ``gap`` apart; None if too many."""
    count = len(wanted)
    if (count - 1) * gap > 1:
        return None
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(count)
    # Isotonic fit: heights minus their least offsets must not fall, so pool neighbours that do.
    blocks: list[list[float]] = []
    for value in np.asarray(wanted, float)[order] - steps:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    fitted = np.concatenate([[value] * int(n) for value, n in blocks]) if blocks else np.zeros(0)
    placed = np.empty(count)
    placed[order] = np.clip(fitted, 0.0, 1 - gap * max(count - 1, 0)) + steps
    return placed
