"""Infinite-width kernels of perceptrons in NumPy, one pair at a time: closed forms of extended precision, or a grid."""

import numpy as np
from scipy.special import ndtr


def arc_cosine(k, c, k2):
    angle = np.arctan2(np.sqrt(np.maximum(k * k2 - c * c, 0)), c)
    second = np.sqrt(k * k2) * np.sin(angle) + (np.pi - angle) * c
    return second / (2 * np.pi), np.where(k * k2 > 0, np.pi - angle, 0) / (2 * np.pi)


def arc_sine(k, c, k2):
    product = (1 + 2 * k) * (1 + 2 * k2)
    # (1+2k)(1+2k') - 4c^2 without two large terms that cancel where k = c = k'.
    rest = 1 + 2 * (k + k2) + 4 * (k * k2 - c * c)
    pi = np.longdouble(np.pi)
    return 2 / pi * np.arcsin(2 * c / np.sqrt(product)), 4 / pi / np.sqrt(rest)


def by_grid(function, slope):
    """Trapezoidal rule over both variables."""
    nodes = np.linspace(-9, 9, 121)
    weights = np.exp(-(nodes**2) / 2) / np.exp(-(nodes**2) / 2).sum()

    def moments(k, c, k2):
        k, c, k2 = (np.asarray(v, float)[..., None, None] for v in (k, c, k2))
        along = c / np.sqrt(np.where(k > 0, k, 1))
        u = np.sqrt(k) * nodes[:, None]
        v = along * nodes[:, None] + np.sqrt(np.maximum(k2 - along**2, 0)) * nodes
        return [
            np.einsum("...ij,i,j->...", f(u) * f(v), weights, weights) for f in (function, slope)
        ]

    return moments


MOMENTS = {
    "relu": arc_cosine,
    "erf": arc_sine,
    "tanh": by_grid(np.tanh, lambda u: 1 - np.tanh(u) ** 2),
    "gelu": by_grid(
        lambda u: u * ndtr(u), lambda u: ndtr(u) + u * np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)
    ),
    "identity": lambda k, c, k2: (c, np.ones_like(c)),
}


def reference(activation, depth, bias_std, x, y):
    """NNGP and NTK of pairs (..., 3): (2, ...), of one variance 2 of the weights a layer."""
    moments = MOMENTS[activation]
    k, c, k2 = (2 * (a * b).sum(-1) / 3 + bias_std**2 for a, b in ((x, x), (x, y), (y, y)))
    ntk = c
    for _ in range(depth - 1):
        second, slope = moments(k, c, k2)
        k, k2 = (2 * moments(v, v, v)[0] + bias_std**2 for v in (k, k2))
        c = 2 * second + bias_std**2
        ntk = 2 * slope * ntk + c
    return np.stack([c, ntk])
