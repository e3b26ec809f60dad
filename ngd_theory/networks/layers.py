"""Affine layers in the NTK parameterisation.

A layer maps h to ``u = (weight_std / sqrt(fan_in)) W h + bias_std b`` at each of its T positions. It
shows the rest of the package only its scaled, bias-augmented inputs ``a (N, T, P)`` and how the
P x M matrix of its parameters is stored, so a new layer type is one class with these members.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.networks.layout import ParameterLayout


@dataclass(frozen=True)
class Dense:
    """A fully connected layer: one position (T = 1), fan-in P_w, M units.

    Attributes
    ----------
    fan_in, units : int
    weight_std, bias_std : float
        sigma_w and sigma_b of docs/theory.md section 1. ``bias_std == 0`` means the layer has no bias.
    """

    fan_in: int
    units: int
    weight_std: float
    bias_std: float

    @property
    def layout(self) -> ParameterLayout:
        """How the layer's (P, M) parameter matrix is stored."""
        return ParameterLayout((self.fan_in, self.units), has_bias=self.bias_std > 0)

    @property
    def positions(self) -> int:
        """T, the number of positions that share the weights."""
        return 1

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one sample's pre-activation."""
        return (self.units,)

    def inputs(self, h: Float[Array, "N fan_in"]) -> Float[Array, "N 1 P"]:
        """Scaled, bias-augmented layer inputs ``[weight_std/sqrt(fan_in) h ; bias_std]``."""
        a = (self.weight_std / self.fan_in**0.5) * h[:, None, :]
        if not self.layout.has_bias:
            return a
        return jnp.concatenate([a, jnp.full((*a.shape[:2], 1), self.bias_std, a.dtype)], axis=-1)

    def __call__(self, params: dict, h: Float[Array, "N fan_in"]) -> Float[Array, "N units"]:
        """Pre-activations of the layer."""
        u = ((self.weight_std / self.fan_in**0.5) * h) @ params["weight"]
        return u + self.bias_std * params["bias"] if self.layout.has_bias else u

    def init(self, key, dtype) -> dict:
        """Draw the layer's parameters from N(0, 1)."""
        weight_key, bias_key = jax.random.split(key)
        params = {"weight": jax.random.normal(weight_key, self.layout.weight_shape, dtype)}
        if self.layout.has_bias:
            params["bias"] = jax.random.normal(bias_key, (self.units,), dtype)
        return params
