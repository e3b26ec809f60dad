"""One look for all figures: colours that survive colour-blindness, print and grey."""

from typing import Any

#: Okabe and Ito's palette, fixed per approximation so that every figure reads alike.
COLOURS = {
    "identity": "#7f7f7f",
    "exact": "#000000",
    "block-diagonal": "#0072B2",
    "block-tridiagonal": "#56B4E9",
    "kfac": "#D55E00",
    "kfac-tridiagonal": "#E69F00",
    "unit-wise": "#009E73",
    "entry-wise": "#CC79A7",
}
MARKERS = {
    "identity": "x",
    "exact": "o",
    "block-diagonal": "s",
    "block-tridiagonal": "D",
    "kfac": "^",
    "kfac-tridiagonal": ">",
    "unit-wise": "v",
    "entry-wise": "P",
}
LABELS = {"identity": "gradient descent", "kfac": "K-FAC", "kfac-tridiagonal": "K-FAC, tridiagonal"}

RC: dict[Any, Any] = {
    "figure.dpi": 120,
    "savefig.dpi": 160,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def label(name: str) -> str:
    """Name of an approximation as a figure shows it."""
    return LABELS.get(name, name)


def colour(name: str) -> str:
    """Colour of an approximation; olive for one that is not in the table."""
    return COLOURS.get(name, "#999900")


def marker(name: str) -> str:
    """Marker of an approximation."""
    return MARKERS.get(name, "*")
