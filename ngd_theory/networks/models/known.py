"""Layers of other libraries, described by layers of this package."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import jax.numpy as jnp
from jaxtyping import Array

from ngd_theory.networks.convolution import Convolution
from ngd_theory.networks.embedding import Embedding
from ngd_theory.networks.layers import Dense, Layer, joined


@dataclass(frozen=True)
class Place:
    """Where an array of our layer is stored in a model.

    Attributes
    ----------
    key : str
        Its key in our layer: "weight" or "bias".
    leaf : str
        Name of the model's leaf.
    shape : tuple of int
        Our array is first reshaped to this shape.
    axes : tuple of int, optional
        The axes of this shape in the order of the leaf; None if the order is the same.
    """

    key: str
    leaf: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None

    def to_leaf(self, value: Array) -> Array:
        """Convert our array to the model's leaf."""
        value = value.reshape(self.shape)
        return value if self.axes is None else jnp.transpose(value, self.axes)

    def from_leaf(self, value: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `to_leaf`; ``shape`` is that of our array."""
        if self.axes is not None:
            value = jnp.transpose(value, [self.axes.index(i) for i in range(len(self.axes))])
        return value.reshape(shape)


@dataclass(frozen=True)
class Known:
    """A layer whose factors we know.

    Attributes
    ----------
    name : str
        Its place in the model.
    kind : str
        Its type, for reports.
    places : tuple of Place
    affine : ``input shape -> Layer``
        Makes our layer for an input shape without the axes of samples and other maps.
    inputs, outputs : int
        How many of the last axes of its input and output belong to the layer itself.
    channels_first : bool
        Whether the first of these axes is the channels.
    """

    name: str
    kind: str
    places: tuple[Place, ...]
    affine: Callable[[tuple[int, ...]], Layer]
    inputs: int = 1
    outputs: int = 1
    channels_first: bool = False

    def factors(self, given: Sequence[Array], deltas: Sequence[Array]) -> tuple[Layer, list[tuple]]:
        """Our layer, and its factors of inputs (N, *mapped, ...) and sensitivities (K, N, *mapped, ...)."""
        by_layer: dict[Layer, list] = {}
        for h, delta in zip(given, deltas, strict=True):
            shape = h.shape[h.ndim - self.inputs :]
            mapped = h.shape[1 : h.ndim - self.inputs]
            layer = self.affine((*shape[1:], shape[0]) if self.channels_first else shape)
            pairs = [(h, delta)]
            if isinstance(layer, Convolution):
                h = h.reshape(len(h), prod(mapped), *shape)
                made = delta.shape[delta.ndim - self.outputs :]
                delta = delta.reshape(*delta.shape[:2], prod(mapped), *made)
                pairs = [(h[:, i], delta[:, :, i]) for i in range(prod(mapped))]
                if self.channels_first:
                    pairs = [(jnp.moveaxis(a, 1, -1), jnp.moveaxis(d, 2, -1)) for a, d in pairs]
            elif isinstance(layer, Dense):
                # Several axes of features become one.
                h = h.reshape(*h.shape[: h.ndim - self.inputs], -1)
                pairs = [(h, delta.reshape(*delta.shape[: delta.ndim - self.outputs], -1))]
            by_layer.setdefault(layer, []).extend(pairs)
        found = [layer.factors(*zip(*pairs, strict=True)) for layer, pairs in by_layer.items()]
        # A convolution applied to images of several sizes has one layer per size.
        parts = [
            (joined([a for a, _, _ in part], 1), joined([d for _, d, _ in part], 2), part[0][2])
            for part in zip(*found, strict=True)
        ]
        return next(iter(by_layer)), parts


def dense(
    name: str,
    kind: str,
    weight: Place,
    bias: Place | None,
    sizes: tuple[int, int],
    inputs=1,
    outputs=1,
) -> Known:
    """A dense layer ``u = W h + b`` of (fan-in, units) ``sizes``."""
    fan_in, units = sizes
    layer = Dense(fan_in, units, weight_std=float(fan_in) ** 0.5, bias_std=float(bias is not None))
    return Known(name, kind, _places(weight, bias), _Always(layer), inputs, outputs)


def embedding(name: str, kind: str, weight: Place, vocabulary: int, units: int) -> Known:
    """A table of vectors."""
    return Known(name, kind, (weight,), _Always(Embedding(vocabulary, units, 1.0)), inputs=0)


def convolution(
    name: str, kind: str, weight: Place, bias: Place | None, options: dict, first=False
) -> Known:
    """A convolution ``u = W * h + b`` with the options of `Convolution` except its input shape."""
    make = _Convolution(tuple(options.items()), float(bias is not None))
    dimensions = len(options["kernel_size"])
    own = dimensions + 1
    return Known(name, kind, _places(weight, bias), make, own, own, channels_first=first)


def _places(weight: Place, bias: Place | None) -> tuple[Place, ...]:
    return (weight,) if bias is None else (weight, bias)


@dataclass(frozen=True)
class _Always:
    layer: Layer

    def __call__(self, shape):
        return self.layer


@dataclass(frozen=True)
class _Convolution:
    options: tuple[tuple[str, object], ...]
    bias_std: float

    def __call__(self, shape):
        layer = Convolution(tuple(shape), **dict(self.options), bias_std=self.bias_std)  # pyright: ignore[reportArgumentType]
        return layer.standard()
