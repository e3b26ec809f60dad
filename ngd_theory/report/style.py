"""One look for all figures: colours that survive colour-blindness, print and grey."""

from typing import Any

from ngd_theory.fisher import APPROXIMATIONS, Approximation, Look

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
    """Name of an approximation in figures; any other text is returned unchanged."""
    return _look(name).label or name


def colour(name: str) -> str:
    """Colour of an approximation."""
    return _look(name).colour


def marker(name: str) -> str:
    """Marker of an approximation."""
    return _look(name).marker


def _look(name: str) -> Look:
    return APPROXIMATIONS.get(name, Approximation).look
