"""Beside dynamics: K-FAC as a practical optimiser, in optax's interface."""

from ngd_theory.optim.checkpoint import load_state, save_state
from ngd_theory.optim.kfac import KFACState, averaged_params, kfac
from ngd_theory.optim.schedule import batch_sizes

__all__ = ["KFACState", "averaged_params", "batch_sizes", "kfac", "load_state", "save_state"]
