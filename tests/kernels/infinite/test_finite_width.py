"""The limit against averages over finite networks.

Gate: in expectation over initialisations a network of width M differs from the limit by O(1/M), well below the
standard error of 20 seeds (a network spreads by 5-8 % at M = 1024, so the mean by 1-2 %). Per layer one
statistic, the kernel's mean over pairs against its standard error over seeds: Student's t with 19 degrees of
freedom. BOUND is its two-sided quantile at FALSE_ALARM / number of statistics (Bonferroni), so that a correct
program fails anywhere in this file with probability below FALSE_ALARM.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ngd_theory import kernels
from ngd_theory.kernels import infinite
from ngd_theory.networks import linearize, mlp

FALSE_ALARM = 1e-4
SEEDS, WIDTH, SLOW_WIDTH = 20, 1024, 4096
CASES = [
    ("relu", 0.0, 2),
    ("relu", 0.3, 5),
    ("erf", 0.0, 4),
    ("erf", 0.3, 2),
    ("tanh", 0.0, 3),
    ("tanh", 0.3, 6),
]
SLOW_CASES = [("erf", 0.0, 3)]
NUM_TESTS = sum(depth for _, _, depth in CASES + SLOW_CASES)
BOUND = stats.t.isf(FALSE_ALARM / NUM_TESTS / 2, SEEDS - 1)


def sampled(net, x, seeds=SEEDS):
    """(seeds, L, N, N) kernels of random networks; numpy draws N(0, 1) faster than JAX on a CPU."""
    generator = np.random.default_rng(7)

    @jax.jit
    def one(params):
        return kernels.layerwise_ntk(linearize(net, params, x))

    def draw():
        shapes = [block.affine.layout.shapes for block in net.blocks]
        return tuple(
            {k: generator.standard_normal(v, "float32") for k, v in layer.items()}
            for layer in shapes
        )

    return jnp.stack([one(draw()) for _ in range(seeds)])


@pytest.mark.parametrize(
    ("activation", "bias_std", "depth", "width"),
    [(*case, WIDTH) for case in CASES]
    + [pytest.param(*case, SLOW_WIDTH, marks=pytest.mark.slow) for case in SLOW_CASES],
)
def test_every_layer_is_the_mean_over_wide_networks(activation, bias_std, depth, width, x):
    x = x[:3].astype("float32")
    net = mlp(5, [width] * (depth - 1), 1, activation, 2**0.5, bias_std)
    limit = infinite.layerwise_ntk(net, x)
    # Pairs weighted by the sign of the limit, so that opposite entries do not cancel.
    values = np.asarray(jnp.mean(sampled(net, x) * jnp.sign(limit), axis=(2, 3)), float)
    exact = np.asarray(jnp.mean(jnp.abs(limit), axis=(1, 2)), float)
    spread = values.std(axis=0, ddof=1) / SEEDS**0.5
    # The input layer of a linear readout may have no spread at all: allow for rounding.
    deviation = np.abs(values.mean(axis=0) - exact) / np.hypot(spread, 1e-5 * exact)
    assert deviation.max() < BOUND, deviation


def test_a_wrong_derivative_kernel_would_be_caught(x):
    # Negative control: the limit of another weight_std, 5 % off, is outside the gate.
    x = x[:3].astype("float32")
    net, wrong = (mlp(5, [WIDTH] * 2, 1, "relu", s * 2**0.5, 0.0) for s in (1, 1.05))
    values = np.asarray(jnp.mean(sampled(net, x), axis=(2, 3)), float)
    exact = np.asarray(jnp.mean(infinite.layerwise_ntk(wrong, x), axis=(1, 2)), float)
    spread = values.std(axis=0, ddof=1) / SEEDS**0.5
    assert (np.abs(values.mean(axis=0) - exact) / spread).max() > BOUND


@pytest.mark.slow
def test_distance_to_the_limit_shrinks_as_the_root_of_the_width(x):
    x = x[:3].astype("float32")
    widths, seeds = (32, 128, 512), 100
    distances = []
    for width in widths:
        net = mlp(5, [width] * 2, 1, "relu", 2**0.5, 0.3)
        limit = infinite.layerwise_ntk(net, x)
        error = jnp.sum((sampled(net, x, seeds) - limit) ** 2, axis=(2, 3))
        distances.append(np.sqrt(np.mean(np.asarray(error, float), axis=0)))
    slopes = np.polyfit(np.log(widths), np.log(distances), 1)[0]
    # A distance is known to about 1/sqrt(2 seeds) = 7 % or, with heavy tails, 14 %: the slope to 0.07.
    assert (np.abs(slopes + 0.5) < 0.25).all(), slopes
