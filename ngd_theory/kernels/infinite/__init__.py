"""Infinite-width kernels of networks, and what natural gradient descent does in that limit."""

from ngd_theory.kernels.infinite.bridge import Stax, params_from_stax, params_to_stax, to_stax
from ngd_theory.kernels.infinite.distance import layerwise_distance
from ngd_theory.kernels.infinite.evaluate import layer_kernels, layerwise_ntk, nngp, ntk
from ngd_theory.kernels.infinite.limit import linearize
from ngd_theory.kernels.infinite.predict import Ensemble, Predictor, ensemble, predictor
from ngd_theory.kernels.infinite.recursion import LayerKernels
from ngd_theory.kernels.infinite.sources import source_table

__all__ = [
    "Ensemble",
    "LayerKernels",
    "Predictor",
    "Stax",
    "ensemble",
    "layer_kernels",
    "layerwise_distance",
    "layerwise_ntk",
    "linearize",
    "nngp",
    "ntk",
    "params_from_stax",
    "params_to_stax",
    "predictor",
    "source_table",
    "to_stax",
]
