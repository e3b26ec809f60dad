"""Floor 4: function-space predictions and parameter-space training."""

from ngd_theory.dynamics.batches import contraction_bound, draw_batches
from ngd_theory.dynamics.ensembles import Ensemble, ensemble
from ngd_theory.dynamics.limit import Predictor, predict_limit, predictor
from ngd_theory.dynamics.momentum import Momentum, spectral_radius, spring
from ngd_theory.dynamics.predict import predict, predict_from_maps
from ngd_theory.dynamics.train import train
from ngd_theory.dynamics.trajectory import Trajectory

__all__ = [
    "Ensemble",
    "Momentum",
    "Predictor",
    "Trajectory",
    "contraction_bound",
    "draw_batches",
    "ensemble",
    "predict",
    "predict_from_maps",
    "predict_limit",
    "predictor",
    "spectral_radius",
    "spring",
    "train",
]
