"""Scale and shift of every unit: what normalisation layers learn."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.arguments import checked_fields
from ngd_theory.errors import InputError
from ngd_theory.networks.checks import require_size
from ngd_theory.networks.layers import Layer, by_position
from ngd_theory.networks.layout import GroupLayout


@checked_fields
@dataclass(frozen=True)
class ScaleShift(Layer):
    """``u = gamma * h + beta``, unit by unit: the parameters that a normalisation usually learns.

    Each unit has its own input, so the layer is not a matrix. It is a small group of 2 M parameters, with the constant
    input 1 and the columns of its Jacobian as sensitivities. So K-FAC uses its exact block, and unit-wise treats every
    parameter as a unit. gamma starts at 1 and beta at 0.

    Attributes
    ----------
    units : int
        M, the size of the last axis.
    shift : bool
        Whether there is a beta.
    """

    units: int
    shift: bool = True

    def __post_init__(self):
        require_size("units", self.units)

    @property
    def parts(self):
        """A scale (M,) and a shift (M,), as one group."""
        names = ("scale", "shift") if self.shift else ("scale",)
        return (GroupLayout(tuple((name, (self.units,)) for name in names)),)

    @property
    def shapes(self):
        """Shapes of the scale and the shift."""
        return self.parts[0].shapes

    def standard(self):
        """Itself."""
        return self

    def __call__(self, params, h: Float[Array, "N *T M"]):
        """``gamma * h + beta``."""
        if h.shape[-1] != self.units:
            raise InputError(
                f"ScaleShift of {self.units} units is given an array of shape {h.shape}, whose last axis differs"
            )
        u = params["scale"] * h
        return u + params["shift"] if self.shift else u

    def init(self, key, dtype):
        """Ones and zeros."""
        fill = {"scale": jnp.ones, "shift": jnp.zeros}
        return {name: fill[name](shape, dtype) for name, shape in self.shapes.items()}

    def factors(self, given, deltas):
        """One pair, for the group of its parameters."""
        total = 0.0
        for h, delta in zip(given, deltas, strict=True):
            delta = by_position([delta])
            columns = [jnp.einsum("nktm,ntm->nkm", delta, h.reshape(len(h), -1, self.units))]
            columns += [delta.sum(2)] * self.shift
            total = total + jnp.concatenate(columns, axis=-1)
        sensitivities = jnp.asarray(total)[:, :, None]
        return [
            (
                jnp.ones((len(sensitivities), 1, 1), sensitivities.dtype),
                sensitivities,
                self.parts[0],
            )
        ]
