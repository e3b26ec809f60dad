"""Floor 2: neural tangent kernels."""

from ngd_theory.kernels import infinite
from ngd_theory.kernels.empirical import layer_kernel, layerwise_ntk, ntk

__all__ = ["infinite", "layer_kernel", "layerwise_ntk", "ntk"]
