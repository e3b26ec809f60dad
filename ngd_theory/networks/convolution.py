"""Convolutions and pooling over images (N, *sizes, C), in the NTK parameterisation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.arguments import checked_fields
from ngd_theory.errors import InputError, choose
from ngd_theory.networks.checks import require_size
from ngd_theory.networks.layers import Affine, AnyArray, joined, require_layer
from ngd_theory.networks.layout import ParameterLayout


def _valid(size: int, kernel: int, stride: int) -> tuple[int, int]:
    return 0, 0


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Rows to add before and after, so that there are ``ceil(size/stride)`` positions."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


#: Padding -> (function for the amounts before and after, mode of `jax.numpy.pad`).
PADDINGS: MappingProxyType[str, tuple[Callable[[int, int, int], tuple[int, int]], str]] = (
    MappingProxyType(
        {"same": (_same, "constant"), "valid": (_valid, "constant"), "circular": (_same, "wrap")}
    )
)


def _numpy_of(array) -> Any:
    """NumPy for arrays on the host, so that `geometry` compiles nothing; JAX's NumPy for others."""
    return np if isinstance(array, np.ndarray) else jnp


@checked_fields
@dataclass(frozen=True)
class Convolution(Affine):
    """A convolution of one, two, three or more dimensions: T positions share a weight (*k, C_in/G, M).

    Its inputs a are the patches that the kernel sees, in the order of the weight (row, column, channel). The fan-in is
    ``prod(k) C_in / G``. With G > 1 groups of channels the layer is G convolutions side by side, each of them one part.

    Attributes
    ----------
    input_shape : (*sizes, C_in)
        (length, C_in), (H, W, C_in) or (D, H, W, C_in).
    units : int
        M, the output channels.
    kernel_size, stride, dilation : int, or one int per dimension
        A dilation of d leaves d - 1 places between neighbours of the kernel.
    padding : {"same", "valid", "circular"}, or (before, after) of every dimension
        Zeros, no padding, or wrap-around (the image as a torus). "same" and "circular" give ``ceil(size/stride)``
        positions. Pairs say how many zeros to add.
    weight_std, bias_std : float
        See `Affine`.
    groups : int
        G, a divisor of C_in and of M.
    """

    takes_numpy = True
    input_shape: tuple[int, ...]
    units: int
    kernel_size: int | tuple[int, ...] = 3
    stride: int | tuple[int, ...] = 1
    padding: str | tuple[tuple[int, int], ...] = "same"
    weight_std: float = 2**0.5
    bias_std: float = 0.0
    dilation: int | tuple[int, ...] = 1
    groups: int = 1

    def __post_init__(self):
        if isinstance(self.padding, str):
            choose(PADDINGS, self.padding, "padding")
        elif len(self.padding) != self.dimensions:
            raise InputError(
                f"padding is {self.padding} for {self.dimensions} dimensions; give one pair a dimension, or a name"
            )
        if len(self.input_shape) < 2:
            raise InputError(
                f"input_shape is {self.input_shape}; it must be sizes and channels, such as (28, 28, 1)"
            )
        for name in ("kernel_size", "stride", "dilation"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.dimensions:
                raise InputError(
                    f"{name} is {value} for {self.dimensions} dimensions; give one number, or one a dimension"
                )
            for size in value if isinstance(value, tuple) else (value,):
                require_size(name, size)
        require_layer(self, "units", "groups")
        if min(self.output_shape) < 1:
            kernel, image = (
                " x ".join(map(str, s))
                for s in (self._each(self.kernel_size), self.input_shape[:-1])
            )
            raise InputError(
                f"a kernel of {kernel} does not fit into an image of {image}: use a smaller one, or padding "
                '"same"'
            )
        for what, channels in (("channels", self.input_shape[-1]), ("units", self.units)):
            if channels % self.groups:
                raise InputError(f"{channels} {what} are no multiple of the {self.groups} groups")

    @property
    def dimensions(self) -> int:
        """The number of axes that the kernel moves along."""
        return len(self.input_shape) - 1

    def _each(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        """One number per dimension."""
        return value if isinstance(value, tuple) else (value,) * self.dimensions

    @property
    def layout(self) -> ParameterLayout:
        """A weight in the order (*kernel, input channels, units)."""
        channels = self.input_shape[-1] // self.groups
        shape = (*self._each(self.kernel_size), channels, self.units)
        return ParameterLayout(shape, has_bias=self.bias_std > 0)

    @property
    def _part(self) -> "Convolution":
        """The convolution of one group."""
        shape = (*self.input_shape[:-1], self.input_shape[-1] // self.groups)
        return replace(self, input_shape=shape, units=self.units // self.groups, groups=1)

    @property
    def parts(self) -> tuple[ParameterLayout, ...]:
        """One layout per group of channels."""
        return (self._part.layout,) * self.groups

    def split(self, params):
        """Columns of each group."""
        pieces = {k: jnp.split(v, self.groups, axis=-1) for k, v in params.items()}
        return tuple({k: v[g] for k, v in pieces.items()} for g in range(self.groups))

    def join(self, parts):
        """Columns side by side."""
        return {k: joined([part[k] for part in parts], -1) for k in parts[0]}

    def factors(self, given, deltas):
        """One pair per group, because groups share neither inputs nor units."""
        if self.groups == 1:
            return super().factors(given, deltas)
        images = [jnp.split(h, self.groups, axis=-1) for h in given]
        pulled = [jnp.split(d, self.groups, axis=-1) for d in deltas]
        return [
            self._part.factors([h[g] for h in images], [d[g] for d in pulled])[0]
            for g in range(self.groups)
        ]

    @property
    def positions(self) -> int:
        """T, the product of the output's sizes."""
        return prod(self.output_shape[:-1])

    @property
    def _extents(self) -> tuple[int, ...]:
        """Extent of the dilated kernel in each dimension, from its first place to its last."""
        pairs = zip(self._each(self.kernel_size), self._each(self.dilation), strict=True)
        return tuple((k - 1) * d + 1 for k, d in pairs)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """``(*sizes, M)``."""
        found = zip(
            self.input_shape, self._pads, self._extents, self._each(self.stride), strict=False
        )
        return (*((size + sum(pad) - k) // s + 1 for size, pad, k, s in found), self.units)

    @property
    def thin(self) -> "Convolution":
        """The same convolution from one channel to one channel."""
        return replace(self, input_shape=(*self.input_shape[:-1], 1), units=1, groups=1)

    def patches(self, h: Float[AnyArray, "N *S C"]) -> Float[AnyArray, "N T fan_in"]:
        """Shifted copies of the image side by side, in prod(k/stride) times its memory. For one group only."""
        stack = _numpy_of(h).stack
        found = stack(list(self._shifts(h)), axis=-2)
        return found.reshape(len(h), self.positions, -1)

    def weigh(self, weight, h):
        """By patches and one matmul on a CPU, where XLA's convolutions have slow gradients; elsewhere by XLA's own."""
        if self.groups > 1:
            return self._by_convolution(weight, h)
        return jax.lax.platform_dependent(
            weight, h, cpu=self._by_patches, default=self._by_convolution
        )

    def _by_patches(self, weight, h):
        u = self.patches(h) @ weight.reshape(-1, self.units)
        return u.reshape(len(h), *self.output_shape)

    def _by_convolution(self, weight, h):
        axes = "DHW"[-self.dimensions :] if self.dimensions < 4 else "UVWXYZ"[: self.dimensions]
        return jax.lax.conv_general_dilated(
            self._padded(h),
            weight,
            self._each(self.stride),
            "VALID",
            rhs_dilation=self._each(self.dilation),
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
            feature_group_count=self.groups,
        )

    @property
    def _pads(self) -> tuple[tuple[int, int], ...]:
        if not isinstance(self.padding, str):
            return self.padding
        needed, _ = PADDINGS[self.padding]
        found = zip(self.input_shape, self._extents, self._each(self.stride), strict=False)
        return tuple(needed(*each) for each in found)

    def _padded(self, h: Float[AnyArray, "N *S C"]):
        mode = PADDINGS[self.padding][1] if isinstance(self.padding, str) else "constant"
        return _numpy_of(h).pad(h, ((0, 0), *self._pads, (0, 0)), mode=mode)

    def _shifts(self, h: Float[AnyArray, "N *S C"]):
        """For each place of the kernel, the part of the image that it sees, (N, *sizes, C)."""
        padded = self._padded(h)
        sizes, strides = self.output_shape[:-1], self._each(self.stride)
        dilations = self._each(self.dilation)
        for place in product(*map(range, self._each(self.kernel_size))):
            starts = [i * d for i, d in zip(place, dilations, strict=True)]
            cut = [
                slice(start, start + (size - 1) * s + 1, s)
                for start, size, s in zip(starts, sizes, strides, strict=True)
            ]
            yield padded[:, *cut]


def _windows(h: Float[Array, "N *S C"], window: int) -> tuple[Array, tuple[int, ...]]:
    """Split each spatial axis into windows and places within a window; also return the axes of the places."""
    sizes = [size // window for size in h.shape[1:-1]]
    kept = h[:, *(slice(size * window) for size in sizes)]
    split = [n for size in sizes for n in (size, window)]
    axes = tuple(2 + 2 * i for i in range(len(sizes)))
    return kept.reshape(len(h), *split, h.shape[-1]), axes


@dataclass(frozen=True)
class AveragePool:
    """Means over windows that do not overlap; an incomplete window at the edge is dropped.

    Attributes
    ----------
    window : int
        Length of a window along each spatial axis.
    """

    #: Whether it acts on every channel separately and in the same way.
    each_channel: ClassVar[bool] = True
    smooth: ClassVar[bool] = True
    window: int

    def __call__(self, h: Float[Array, "N *S C"]) -> Float[Array, "N *_ C"]:
        """Pool."""
        windows, axes = _windows(h, self.window)
        return windows.mean(axes)


@dataclass(frozen=True)
class MaxPool:
    """Maxima over windows that do not overlap; an incomplete window at the edge is dropped.

    Attributes
    ----------
    window : int
        Length of a window along each spatial axis.
    """

    each_channel: ClassVar[bool] = True
    window: int

    def __call__(self, h: Float[Array, "N *S C"]) -> Float[Array, "N *_ C"]:
        """Pool; of equal entries the first one is chosen."""
        windows, axes = _windows(h, self.window)
        # By index, not by comparison with the maximum: a compiler may compute an entry twice with other rounding.
        flat = jnp.moveaxis(windows, axes, range(-len(axes), 0))
        flat = flat.reshape(*flat.shape[: -len(axes)], -1)
        place = jnp.argmax(flat, axis=-1, keepdims=True)
        return jnp.take_along_axis(flat, place, axis=-1)[..., 0]


@dataclass(frozen=True)
class GlobalAveragePool:
    """Mean over all positions."""

    each_channel: ClassVar[bool] = True
    smooth: ClassVar[bool] = True

    def __call__(self, h: Float[Array, "N *S C"]) -> Float[Array, "N C"]:
        """Pool."""
        return h.mean(tuple(range(1, h.ndim - 1)))


@dataclass(frozen=True)
class Flatten:
    """All positions and channels as one vector."""

    each_channel: ClassVar[bool] = True
    smooth: ClassVar[bool] = True

    def __call__(self, h: Float[Array, "N *S"]) -> Float[Array, "N D"]:
        """Flatten; the channel index varies fastest."""
        return h.reshape(len(h), -1)
