"""Infinite-width kernels of networks."""

from ngd_theory.kernels.infinite.bridge import Stax, params_from_stax, params_to_stax, to_stax
from ngd_theory.kernels.infinite.distance import layerwise_distance
from ngd_theory.kernels.infinite.evaluate import layer_kernels, layerwise_ntk, nngp, ntk
from ngd_theory.kernels.infinite.limit import linearize
from ngd_theory.kernels.infinite.recursion import LayerKernels
from ngd_theory.kernels.infinite.sources import source_table

__all__ = [
    "LayerKernels",
    "Stax",
    "layer_kernels",
    "layerwise_distance",
    "layerwise_ntk",
    "linearize",
    "nngp",
    "ntk",
    "params_from_stax",
    "params_to_stax",
    "source_table",
    "to_stax",
]
