"""Convolutions and pooling over images (N, H, W, C), in the NTK parameterisation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.networks.layers import Affine, AnyArray
from ngd_theory.networks.layout import ParameterLayout


def _valid(size: int, kernel: int, stride: int) -> tuple[int, int]:
    return 0, 0


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Rows to add before and after, so that there are ``ceil(size/stride)`` positions."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


#: Padding -> (how much before and after, what `jax.numpy.pad` fills it with).
PADDINGS: MappingProxyType[str, tuple[Callable[[int, int, int], tuple[int, int]], str]] = (
    MappingProxyType(
        {"same": (_same, "constant"), "valid": (_valid, "constant"), "circular": (_same, "wrap")}
    )
)


def _numpy_of(array) -> Any:
    """An array of the host stays there: `geometry` counts without compiling anything."""
    return np if isinstance(array, np.ndarray) else jnp


@dataclass(frozen=True)
class Convolution(Affine):
    """A convolution: T = H'W' positions share a weight (k, k, C_in, M), fan-in k^2 C_in.

    Its inputs a are the patches that the kernel sees, in the weight's own order (row, column, channel).

    Attributes
    ----------
    input_shape : (H, W, C_in)
    units : int
        M, the output channels.
    kernel_size, stride : int
        Both square.
    padding : {"same", "valid", "circular"}
        Zeros, nothing, or the image as a torus; the first and the last give ``ceil(H/stride)`` rows.
    weight_std, bias_std : float
        See `Affine`.
    """

    takes_numpy = True
    input_shape: tuple[int, int, int]
    units: int
    kernel_size: int
    stride: int
    padding: str
    weight_std: float
    bias_std: float

    @property
    def layout(self) -> ParameterLayout:
        """A weight in HWIO order."""
        k = self.kernel_size
        shape = (k, k, self.input_shape[-1], self.units)
        return ParameterLayout(shape, has_bias=self.bias_std > 0)

    @property
    def positions(self) -> int:
        """T = H'W'."""
        height, width, _ = self.output_shape
        return height * width

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """``(H', W', M)``."""
        sizes = [
            (size + sum(pad) - self.kernel_size) // self.stride + 1
            for size, pad in zip(self.input_shape, self._pads, strict=False)
        ]
        return sizes[0], sizes[1], self.units

    @property
    def thin(self) -> "Convolution":
        """One channel to one."""
        return replace(self, input_shape=(*self.input_shape[:2], 1), units=1)

    def patches(self, h: Float[AnyArray, "N H W C"]) -> Float[AnyArray, "N T fan_in"]:
        """k^2 shifted copies of the image side by side: k^2/stride^2 times its memory."""
        stack = _numpy_of(h).stack
        return stack(list(self._shifts(h)), axis=3).reshape(len(h), self.positions, -1)

    def weigh(self, weight, h):
        """By patches and one matmul on a CPU, where XLA's convolutions have slow gradients; else XLA's own."""
        return jax.lax.platform_dependent(
            weight, h, cpu=self._by_patches, default=self._by_convolution
        )

    def _by_patches(self, weight, h):
        u = self.patches(h) @ weight.reshape(-1, self.units)
        return u.reshape(len(h), *self.output_shape)

    def _by_convolution(self, weight, h):
        return jax.lax.conv_general_dilated(
            self._padded(h),
            weight,
            (self.stride, self.stride),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    @property
    def _pads(self) -> tuple[tuple[int, int], tuple[int, int]]:
        needed, _ = PADDINGS[self.padding]
        height, width, _ = self.input_shape
        return (
            needed(height, self.kernel_size, self.stride),
            needed(width, self.kernel_size, self.stride),
        )

    def _padded(self, h: Float[AnyArray, "N H W C"]):
        return _numpy_of(h).pad(h, ((0, 0), *self._pads, (0, 0)), mode=PADDINGS[self.padding][1])

    def _shifts(self, h: Float[AnyArray, "N H W C"]):
        """What each place of the kernel sees of the image, (N, H', W', C)."""
        padded, s = self._padded(h), self.stride
        height, width, _ = self.output_shape
        for i in range(self.kernel_size):
            for j in range(self.kernel_size):
                rows = slice(i, i + (height - 1) * s + 1, s)
                columns = slice(j, j + (width - 1) * s + 1, s)
                yield padded[:, rows, columns]


@dataclass(frozen=True)
class AveragePool:
    """Means over windows that do not overlap; what is left at the edge is dropped.

    Attributes
    ----------
    window : int
        Rows and columns of a window.
    """

    #: Whether it does to every channel what it does to one.
    each_channel: ClassVar[bool] = True
    smooth: ClassVar[bool] = True
    window: int

    def __call__(self, h: Float[Array, "N H W C"]) -> Float[Array, "N _ _ C"]:
        """Pool."""
        n, height, width, channels = h.shape
        w = self.window
        rows, columns = height // w, width // w
        kept = h[:, : rows * w, : columns * w]
        return kept.reshape(n, rows, w, columns, w, channels).mean((2, 4))


@dataclass(frozen=True)
class GlobalAveragePool:
    """Mean over all positions."""

    each_channel: ClassVar[bool] = True
    smooth: ClassVar[bool] = True

    def __call__(self, h: Float[Array, "N H W C"]) -> Float[Array, "N C"]:
        """Pool."""
        return h.mean((1, 2))


@dataclass(frozen=True)
class Flatten:
    """All positions and channels as one vector."""

    each_channel: ClassVar[bool] = True
    smooth: ClassVar[bool] = True

    def __call__(self, h: Float[Array, "N *S"]) -> Float[Array, "N D"]:
        """Flatten, the channels fastest."""
        return h.reshape(len(h), -1)
