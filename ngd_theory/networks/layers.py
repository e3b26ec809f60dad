"""Affine layers in the NTK parameterisation.

A layer maps h to ``u = (weight_std / sqrt(fan_in)) W h + bias_std b`` at each of its T positions. The rest of the
package sees only its scaled, bias-augmented inputs ``a (N, T, P)`` and how its P x M matrix of parameters is stored.
So a new layer type is one subclass of `Affine`, or of `Layer` if its parameters are not such a matrix.
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.arguments import checked_fields
from ngd_theory.errors import InputError
from ngd_theory.networks.checks import require_scales, require_size
from ngd_theory.networks.layout import Layout, ParameterLayout

#: An array on a device or on the host.
AnyArray = Array | np.ndarray


class Layer(abc.ABC):
    """What a network needs of a layer: parameters, pre-activations, and factors of its Jacobian.

    Attributes
    ----------
    units : int
        M, the size of the last axis of its pre-activations.
    """

    units: int

    @property
    @abc.abstractmethod
    def parts(self) -> tuple[Layout, ...]:
        """How parameters are stored: one layout per part. Only layers side by side have more than one part."""

    @property
    @abc.abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each stored array."""

    @abc.abstractmethod
    def __call__(self, params: dict, h: Float[Array, "*_"]) -> Float[Array, "*_"]:
        """Pre-activations of the layer, from (N, ...) to (N, ..., M)."""

    @abc.abstractmethod
    def init(self, key, dtype) -> dict:
        """Draw the layer's parameters."""

    @abc.abstractmethod
    def factors(self, given: Sequence[Array], deltas: Sequence[Array]) -> list[tuple]:
        """Its factors of the Jacobian: one ``(inputs, sensitivities, layout)`` per part.

        Parameters
        ----------
        given : sequence of (N, ...) arrays
            Input of the layer at each call.
        deltas : sequence of (K, N, ...) arrays
            Derivatives of K combinations of the outputs with respect to the pre-activations of that call.

        Returns
        -------
        list of ((N, T, P), (N, K, T, M), Layout)
            T counts the positions of all calls, one call after the other.
        """

    @abc.abstractmethod
    def standard(self) -> "Layer":
        """The layer with ``u = W h + b``: no factor in front, and a bias if the layer has one."""

    def split(self, params: dict[str, Array]) -> tuple[dict[str, Array], ...]:
        """The layer's parameters, or a dict like them, as one dict per part."""
        return (params,)

    def join(self, parts: Sequence[dict[str, Array]]) -> dict[str, Array]:
        """The inverse of `split`."""
        return parts[0]


class Affine(Layer):
    """A layer whose parameters are one matrix (inputs by units), applied at each of its positions.

    Attributes
    ----------
    units : int
        M, units or channels.
    weight_std, bias_std : float
        sigma_w and sigma_b of docs/theory.md section 1. ``bias_std == 0`` means the layer has no bias.
    """

    #: Whether `patches` keeps NumPy arrays on the host, so that counting sizes (`geometry`) compiles nothing.
    takes_numpy: ClassVar[bool] = False
    #: Whether there is one position that sees every input exactly once, so that nothing has to be counted.
    sees_all: ClassVar[bool] = False
    weight_std: float
    bias_std: float

    @property
    @abc.abstractmethod
    def layout(self) -> ParameterLayout:
        """How the layer's (P, M) parameter matrix is stored."""

    @property
    @abc.abstractmethod
    def positions(self) -> int:
        """T, the number of positions that share the weights."""

    @property
    @abc.abstractmethod
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one sample's pre-activation; the last axis is M."""

    @abc.abstractmethod
    def patches(self, h: Float[AnyArray, "N *S"]) -> Float[AnyArray, "N T fan_in"]:
        """The entries of h that each position sees, in the order of the weight's rows."""

    @abc.abstractmethod
    def weigh(
        self, weight: Float[Array, "*_ M"], h: Float[Array, "N *S"]
    ) -> Float[Array, "N *T M"]:
        """``patches(h) @ weight``, shaped like the pre-activations."""

    @property
    def parts(self) -> tuple[ParameterLayout, ...]:
        """Its one layout."""
        return (self.layout,)

    @property
    def shapes(self):
        """A weight and perhaps a bias."""
        return self.layout.shapes

    @property
    def thin(self) -> "Affine | None":
        """The layer with one input channel and one unit; None if it may not treat all channels alike.

        `geometry` counts on this layer, whatever the number of channels.
        """
        return None

    @property
    def scale(self) -> float:
        """``weight_std / sqrt(fan_in)``."""
        return self.weight_std / self.layout.fan_in**0.5

    def inputs(self, h: Float[Array, "N *S"]) -> Float[Array, "N T P"]:
        """Scaled, bias-augmented layer inputs ``[scale * patch ; bias_std]``."""
        a = jnp.asarray(self.scale * self.patches(h))
        if not self.layout.has_bias:
            return a
        return jnp.concatenate([a, jnp.full((*a.shape[:2], 1), self.bias_std, a.dtype)], axis=-1)

    def factors(self, given, deltas):
        """One pair, with its `inputs`."""
        inputs = joined([self.inputs(h) for h in given], 1)
        return [(inputs, by_position(deltas), self.layout)]

    def __call__(self, params, h):
        """``scale W patches(h) + bias_std b``."""
        u = self.weigh(params["weight"], self.scale * h)
        if not self.layout.has_bias:
            return u
        bias = self.bias_std * params["bias"]
        return u + bias.reshape((1,) * (u.ndim - 1) + bias.shape)

    def standard(self) -> "Affine":
        """With ``weight_std = sqrt(fan_in)`` and, where there is a bias, ``bias_std = 1``."""
        return replace(
            self,  # pyright: ignore[reportArgumentType]  (every layer type is a dataclass)
            weight_std=self.layout.fan_in**0.5,
            bias_std=float(self.layout.has_bias),
        )

    def init(self, key, dtype):
        """Draw the layer's parameters from N(0, 1)."""
        weight_key, bias_key = jax.random.split(key)
        params = {"weight": jax.random.normal(weight_key, self.layout.weight_shape, dtype)}
        if self.layout.has_bias:
            params["bias"] = jax.random.normal(bias_key, (self.units,), dtype)
        return params


def require_layer(layer: Layer, *sizes: str) -> None:
    """Raise `InputError` unless the sizes and scales of a layer are valid."""
    for name in sizes:
        require_size(name, getattr(layer, name))
    require_scales(getattr(layer, "weight_std", 1.0), getattr(layer, "bias_std", 0.0))


def by_position(deltas: Sequence[Array]) -> Float[Array, "N K T M"]:
    """Join derivatives (K, N, *T, M), one array per call, into sensitivities over all positions."""
    found = [jnp.moveaxis(d, 0, 1).reshape(d.shape[1], d.shape[0], -1, d.shape[-1]) for d in deltas]
    return joined(found, 2)


def joined(arrays: Sequence[Array], axis: int) -> Array:
    """Concatenate along ``axis``; a single array is returned as it is."""
    return arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays, axis)


@checked_fields
@dataclass(frozen=True)
class Dense(Affine):
    """A fully connected layer of M units, on the last axis of its input.

    An input (N, fan_in) has one position (T = 1). For (N, *positions, fan_in) the layer is applied at each position.

    Attributes
    ----------
    fan_in, units : int
    weight_std, bias_std : float
        See `Affine`.
    """

    takes_numpy = True
    sees_all = True
    fan_in: int
    units: int
    weight_std: float = 2**0.5
    bias_std: float = 0.0

    def __post_init__(self):
        require_layer(self, "fan_in", "units")

    @property
    def layout(self) -> ParameterLayout:
        """A weight (fan_in, M)."""
        return ParameterLayout((self.fan_in, self.units), has_bias=self.bias_std > 0)

    @property
    def positions(self) -> int:
        """1."""
        return 1

    @property
    def output_shape(self) -> tuple[int, ...]:
        """``(M,)``."""
        return (self.units,)

    @property
    def thin(self):
        """Itself, because nothing is counted for a dense layer."""
        return self

    def patches(self, h):
        """The last axis of h, at each position."""
        return h.reshape(h.shape[0], -1, h.shape[-1])

    def weigh(self, weight, h):
        """``h @ weight``."""
        if h.shape[-1] != self.fan_in:
            raise InputError(
                f"Dense({self.fan_in}, {self.units}) is given an array of shape {h.shape}, whose last axis differs"
            )
        return h @ weight
