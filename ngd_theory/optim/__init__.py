"""Beside the floor of dynamics: K-FAC as a practical optimiser, with optax's interface."""

from ngd_theory.optim.algorithm import KFACState
from ngd_theory.optim.checkpoint import load_state, save_state
from ngd_theory.optim.kfac import STATIC_ARGS, averaged_params, kfac
from ngd_theory.optim.optimizers import nesterov_momentum
from ngd_theory.optim.schedule import batch_sizes
from ngd_theory.optim.training import Record, train

__all__ = [
    "STATIC_ARGS",
    "KFACState",
    "Record",
    "averaged_params",
    "batch_sizes",
    "kfac",
    "load_state",
    "nesterov_momentum",
    "save_state",
    "train",
]
