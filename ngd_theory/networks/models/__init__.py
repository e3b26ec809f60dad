"""Models of equinox and flax, linearised layer by layer."""

from ngd_theory.networks.models.linearize import linearize_model

__all__ = ["linearize_model"]
