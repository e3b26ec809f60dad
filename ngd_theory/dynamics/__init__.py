"""Floor 4: function-space predictions and parameter-space training."""

from ngd_theory.dynamics.batches import contraction_bound, draw_batches
from ngd_theory.dynamics.ensembles import Ensemble, ensemble
from ngd_theory.dynamics.limit import Predictor, predict_limit, predictor
from ngd_theory.dynamics.momentum import Momentum, spectral_radius, spring
from ngd_theory.dynamics.predict import predict, predict_from_maps
from ngd_theory.dynamics.risk import Risk, ensemble_risk, prior_risk, risk, risk_from_maps
from ngd_theory.dynamics.train import train
from ngd_theory.dynamics.trajectory import Trajectory

__all__ = [
    "Ensemble",
    "Momentum",
    "Predictor",
    "Risk",
    "Trajectory",
    "contraction_bound",
    "draw_batches",
    "ensemble",
    "ensemble_risk",
    "predict",
    "predict_from_maps",
    "predict_limit",
    "predictor",
    "prior_risk",
    "risk",
    "risk_from_maps",
    "spectral_radius",
    "spring",
    "train",
]
