"""Verification of natural-gradient theory in wide neural networks."""

from ngd_theory import data, dynamics, errors, fisher, kernels, losses, networks, theory

__version__ = "0.1.0"

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
