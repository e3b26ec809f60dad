"""Floor 2: neural tangent kernels."""

from ngd_theory.kernels.empirical import layer_kernel, layerwise_ntk, ntk

__all__ = ["layer_kernel", "layerwise_ntk", "ntk"]
