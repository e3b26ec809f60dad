"""Small convolutional networks and a slow reference for their factors, written apart from the package.

Patches are cut out one position at a time from an image that is padded by hand; the forward pass multiplies them
with the kernel as a matrix; sensitivities are `jax.jacrev` by shifts of the pre-activations.
"""

from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from dense import DenseFisher

import ngd_theory as ngd

SLOPES = {"tanh": jnp.tanh, "relu": lambda u: jnp.maximum(u, 0), "identity": lambda u: u}


@dataclass(frozen=True)
class ConvolutionCase:
    name: str
    input_shape: tuple[int, int, int]
    channels: tuple[int, ...]
    output_dim: int
    num_samples: int
    kernel_size: int = 3
    stride: int = 1
    padding: str = "same"
    activation: str = "tanh"
    readout: str = "flatten"
    pool: int = 1
    bias_std: float = 0.0
    weight_std: float = 2**0.5

    def __str__(self):
        return self.name

    @property
    def network(self):
        return ngd.networks.cnn(
            self.input_shape,
            self.channels,
            self.output_dim,
            self.kernel_size,
            self.stride,
            self.padding,
            self.activation,
            self.readout,
            self.weight_std,
            self.bias_std,
            pool=self.pool,
        )


#: Paddings, strides, readouts, pooling, biases; layers where Gram matrices are cheaper, and where rows are.
CASES = (
    ConvolutionCase("same", (3, 3, 2), (4, 3), 2, 3),
    ConvolutionCase("valid, bias", (5, 4, 1), (3,), 1, 4, padding="valid", bias_std=0.4),
    ConvolutionCase("circular, stride 2", (4, 5, 2), (3, 4), 1, 3, stride=2, padding="circular"),
    ConvolutionCase("relu, average pooling", (6, 5, 1), (4, 3), 2, 3, activation="relu", pool=2),
    ConvolutionCase("global pooling, even kernel", (4, 3, 2), (3,), 3, 2, 2, readout="pool"),
    ConvolutionCase("wide, bias", (2, 2, 1), (10, 8), 1, 3, bias_std=0.3),
)


def padded(image, kernel, stride, padding):
    """An image (H, W, C) with what lies around it, and the number of positions (H', W')."""
    if padding == "valid":
        return image, tuple((size - kernel) // stride + 1 for size in image.shape[:2])
    counts, before, whole = [], [], []
    for size in image.shape[:2]:
        count = int(np.ceil(size / stride))
        extra = max((count - 1) * stride + kernel - size, 0)
        counts.append(count)
        before.append(extra // 2)
        whole.append(size + extra)
    rows = np.arange(whole[0]) - before[0]
    columns = np.arange(whole[1]) - before[1]
    out = image[rows % image.shape[0]][:, columns % image.shape[1]]
    if padding == "same":
        inside = np.ix_(
            (rows >= 0) & (rows < image.shape[0]), (columns >= 0) & (columns < image.shape[1])
        )
        mask = np.zeros(out.shape[:2])
        mask[inside] = 1
        out = out * mask[:, :, None]
    return out, tuple(counts)


def patches(image, kernel, stride, padding):
    """(T, kernel * kernel * C), a position at a time."""
    whole, (height, width) = padded(image, kernel, stride, padding)
    rows = []
    for i in range(height):
        for j in range(width):
            window = whole[i * stride : i * stride + kernel, j * stride : j * stride + kernel]
            rows.append(window.ravel())
    return jnp.stack(rows), (height, width)


def average(image, window):
    """Means over windows, one at a time."""
    height, width, _ = image.shape
    return jnp.stack(
        [
            jnp.stack(
                [
                    image[i * window : (i + 1) * window, j * window : (j + 1) * window].mean((0, 1))
                    for j in range(width // window)
                ]
            )
            for i in range(height // window)
        ]
    )


def forward(case, params, image, shifts):
    """Outputs (C,) of one image and the layer inputs, pre-activations shifted."""
    inputs, h = [], image
    for index, layer in enumerate(params):
        last = index == len(params) - 1
        weight = layer["weight"].reshape(-1, layer["weight"].shape[-1])
        if last:
            h = h.mean((0, 1)) if case.readout == "pool" else h.ravel()
            rows, grid = h[None], ()
        else:
            rows, grid = patches(h, case.kernel_size, case.stride, case.padding)
        a = case.weight_std / np.sqrt(len(weight)) * rows
        u = a @ weight
        if "bias" in layer:
            u = u + case.bias_std * layer["bias"]
            a = jnp.concatenate([a, jnp.full((len(a), 1), case.bias_std)], axis=1)
        inputs.append(a)
        u = u + shifts[index]
        if last:
            return u[0], inputs
        h = SLOPES[case.activation](u).reshape(*grid, -1)
        h = average(h, case.pool)
    raise AssertionError


def factors(case, params, x):
    """Outputs (N, C), inputs [(N, T, P)] and sensitivities [(N, C, T, M)]."""

    def of_one(params, image):
        _, a = forward(case, params, image, [jnp.zeros(())] * len(params))
        shapes = [(len(rows), p["weight"].shape[-1]) for rows, p in zip(a, params, strict=True)]

        def shifted(shifts):
            outputs, _ = forward(case, params, image, shifts)
            return outputs, outputs

        delta, outputs = jax.jacrev(shifted, has_aux=True)([jnp.zeros(s) for s in shapes])
        return outputs, a, delta

    # Compiled: an image's operations one by one take seconds.
    found = jax.jit(jax.vmap(of_one, in_axes=(None, 0)))(params, x)
    return jax.tree.map(np.asarray, found)


@dataclass(frozen=True)
class ConvolutionProblem:
    case: ConvolutionCase
    network: object
    params: tuple
    x: jax.Array
    targets: jax.Array
    lin: object
    at: object
    outputs: np.ndarray
    dense: DenseFisher
    jacobian_at: np.ndarray

    @property
    def residual(self):
        return self.lin.outputs - self.targets


@cache
def problem(case, seed=0):
    """Gaussian images and targets, as many test images as training ones."""
    rng = np.random.default_rng(seed)
    network, n = case.network, case.num_samples
    x = jnp.asarray(rng.normal(size=(2 * n, *case.input_shape)))
    params = jax.jit(network.init)(jax.random.key(seed))
    linearize = jax.jit(lambda p, x: ngd.networks.linearize(network, p, x))
    outputs, a, delta = factors(case, params, x)
    everywhere = DenseFisher.from_factors(network, params, x, a, delta)
    return ConvolutionProblem(
        case,
        network,
        params,
        x[:n],
        jnp.asarray(rng.normal(size=(n, case.output_dim))),
        linearize(params, x[:n]),
        linearize(params, x[n:]),
        outputs[:n],
        everywhere.first(n),
        everywhere.rows(slice(n, None)),
    )
