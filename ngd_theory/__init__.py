"""Verification of natural-gradient theory in wide neural networks."""

from importlib import import_module

from ngd_theory import data, dynamics, errors, fisher, kernels, losses, networks, theory

__version__ = "0.2.0"

#: Imported when first used: most need pydantic, optax, pandas or matplotlib.
_LAZY = ("experiment", "optim", "references", "report", "sweeps", "testing")

__all__ = [
    "__version__",
    "data",
    "dynamics",
    "errors",
    "fisher",
    "kernels",
    "losses",
    "networks",
    "theory",
]


def __getattr__(name: str):
    if name in _LAZY:
        return import_module(f"ngd_theory.{name}")
    raise AttributeError(f"module 'ngd_theory' has no attribute {name!r}")
