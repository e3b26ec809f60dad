"""Small networks with their data, shared by the tests; cases are data."""

from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import DenseFisher

import ngd_theory as ngd

APPROXIMATIONS = tuple(ngd.fisher.APPROXIMATIONS)
#: The program of one is several times as large as any other: it is compiled with --whole only.
LARGE_LATER = tuple(
    pytest.param(name, marks=pytest.mark.slow) if name == "kfac-tridiagonal" else name
    for name in APPROXIMATIONS
)
#: Accuracy at rho = 0 of an approximation that takes its limit at a small damping, whose square divides the rounding.
LIMIT_TOLERANCE = {"kfac-tridiagonal": 1e-3}


@dataclass(frozen=True)
class Case:
    """A perceptron and the number of samples to linearise it at."""

    name: str
    input_dim: int
    hidden: tuple[int, ...]
    output_dim: int
    activation: str
    num_samples: int
    bias_std: float = 0.0
    weight_std: float = 2**0.5
    num_test: int | None = None  # as many as training samples: the maps share a compiled program

    @property
    def depth(self):
        return len(self.hidden) + 1

    def __str__(self):
        return self.name


@dataclass(frozen=True)
class Problem:
    """A case with numbers: parameters, inputs, cotangent, linearisations and the dense reference."""

    case: Case
    network: object
    params: tuple
    x: jax.Array
    x_test: jax.Array
    targets: jax.Array
    lin: object
    at: object
    dense: DenseFisher
    jacobian_at: jax.Array

    @property
    def residual(self):
        return self.lin.outputs - self.targets


#: Depth, outputs, biases, activations; N below and above the widths and M_0.
CASES = (
    Case("L1 C3, N<M0", 5, (), 3, "identity", 4),
    Case("L1 C1 bias, N>M0", 4, (), 1, "relu", 9, bias_std=0.5),
    Case("L2 C1 identity, M0<N<M", 3, (9,), 1, "identity", 6),
    Case("L2 C3 tanh bias", 6, (7,), 3, "tanh", 5, bias_std=0.3, num_test=3),
    Case("L3 C1 erf, N>M", 5, (8, 7), 1, "erf", 10, weight_std=1.5),
    Case("L3 C3 gelu bias", 6, (9, 8), 3, "gelu", 4, bias_std=0.4),
    Case("L4 C1 tanh bias", 5, (8, 7, 9), 1, "tanh", 6, bias_std=0.2),
    Case("L5 C1 relu bias", 6, (7, 8, 9, 8), 1, "relu", 5, bias_std=0.3),
)
BY_NAME = {case.name: case for case in CASES}


def make_network(case):
    return ngd.networks.mlp(
        case.input_dim,
        case.hidden,
        case.output_dim,
        activation=case.activation,
        weight_std=case.weight_std,
        bias_std=case.bias_std,
    )


@cache
def problem(case, seed=0):
    """Gaussian inputs and targets; everything computed once."""
    rng = np.random.default_rng(seed)
    network = make_network(case)
    n, num_test = case.num_samples, case.num_test or case.num_samples

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape))

    x, x_test = normal(n, case.input_dim), normal(num_test, case.input_dim)
    params = jax.jit(network.init)(jax.random.key(seed))
    linearize = jax.jit(partial(ngd.networks.linearize, network))
    everywhere = DenseFisher.of(
        network,
        case.activation,
        case.weight_std,
        case.bias_std,
        params,
        jnp.concatenate([x, x_test]),
    )
    return Problem(
        case,
        network,
        params,
        x,
        x_test,
        normal(n, case.output_dim),
        linearize(params, x),
        linearize(params, x_test),
        everywhere.first(n),
        everywhere.rows(slice(n, None)),
    )


def relative_error(actual, expected):
    """``||actual - expected|| / ||expected||`` in the Frobenius norm."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)
