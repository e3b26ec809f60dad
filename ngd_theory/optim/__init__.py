"""Beside dynamics: K-FAC as a practical optimiser, in optax's interface."""

from ngd_theory.optim.kfac import KFACState, averaged_params, kfac

__all__ = ["KFACState", "averaged_params", "kfac"]
