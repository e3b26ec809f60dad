"""Closed forms and quadratures against a two-dimensional quadrature that shares no code with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ngd_theory.kernels.infinite.moments import ErfMoments, Pair, ReluMoments, Size
from ngd_theory.kernels.infinite.quadrature import QuadratureMoments
from ngd_theory.kernels.infinite.sources import CLOSED_FORMS, moments_of
from ngd_theory.networks import ACTIVATIONS
from ngd_theory.networks.activations import Activation

CASES = [(1.0, 0.3, 2.0), (0.5, -0.4, 0.5), (2.0, 2.0, 2.0), (1.5, -1.5, 1.5), (0.1, 0.0, 4.0)]
SMOOTH = ["erf", "tanh", "gelu", "identity"]


def derivative(activation):
    return jax.vmap(jax.grad(activation.function))


def two_dimensional(activation, k, c, k2):
    """Trapezoidal rule over both variables."""
    a = np.linspace(-12, 12, 601)
    w = np.exp(-(a**2) / 2)
    w = np.outer(w, w) / w.sum() ** 2
    u = np.sqrt(k) * a
    v = c / np.sqrt(k) * a[:, None] + np.sqrt(max(k2 - c**2 / k, 0)) * a
    return [
        float((w * np.asarray(f(u))[:, None] * np.asarray(f(v.ravel())).reshape(v.shape)).sum())
        for f in (activation, derivative(activation))
    ]


def size(k):
    k = jnp.asarray(k)
    return Size(k, jnp.sqrt(k))


def pairs(moments, k, c, k2):
    """Both moments of all pairs."""
    scale = jnp.sqrt(k[:, None] * k2)
    second, _, slope = moments.pair(size(k), Pair(c, c / scale), size(k2))
    return second, slope


def pair(moments, k, c, k2):
    values = pairs(moments, *map(jnp.asarray, ([k], [[c]], [k2])))
    return [float(v[0, 0]) for v in values]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SMOOTH)
def test_moments_equal_two_dimensional_quadrature(name, case):
    activation = ACTIVATIONS[name]
    assert pair(moments_of(activation), *case) == pytest.approx(
        two_dimensional(activation, *case), abs=1e-10
    )


@pytest.mark.parametrize("name", ["erf", "identity"])
def test_quadrature_equals_closed_form(name):
    k, k2 = jnp.linspace(0.1, 3, 5), jnp.linspace(0.2, 4, 7)
    c = jnp.linspace(-1, 1, 35).reshape(5, 7) * jnp.sqrt(k[:, None] * k2)
    exact = pairs(CLOSED_FORMS[name], k, c, k2)
    found = pairs(QuadratureMoments(ACTIVATIONS[name]), k, c, k2)
    np.testing.assert_allclose(found, exact, atol=1e-10)


def test_relu_equals_sampling():
    z = np.random.default_rng(0).normal(size=(2, 400_000))
    u, v = z[0], 0.6 * z[0] + 0.8 * z[1]
    second, slope = pair(ReluMoments(), 1.0, 0.6, 1.0)
    products = np.maximum(u, 0) * np.maximum(v, 0), (u > 0) & (v > 0)
    for exact, sample in zip((second, slope), products, strict=True):
        assert abs(sample.mean() - exact) < 4 * sample.std() / len(u) ** 0.5


@pytest.mark.parametrize("moments", [ReluMoments(), ErfMoments(), moments_of(ACTIVATIONS["tanh"])])
def test_a_sample_with_itself_is_the_pair_at_correlation_one(moments):
    k = jnp.asarray([0.3, 1.0, 3.0])
    second, slope = pairs(moments, k, jnp.sqrt(k[:, None] * k), k)
    own, own_slope = moments.own(size(k))
    np.testing.assert_allclose(jnp.diagonal(second), own.variance, rtol=1e-12)
    np.testing.assert_allclose(own.deviation**2, own.variance, rtol=1e-12)
    # tanh at variance 3: what 256 terms of the series miss.
    np.testing.assert_allclose(jnp.diagonal(slope), own_slope, rtol=2e-10)


def test_relu_derivative_at_correlation_one_is_exactly_a_half():
    # A correlation of 1 - 1e-16 taken at its word would give 0.5 - 2e-9.
    k = jnp.asarray([0.1, 0.7, 3.3])
    above = (1 + 4e-16) * jnp.sqrt(k[:, None] * k)
    below = (1 - 4e-16) * jnp.sqrt(k[:, None] * k)
    for c in (above, below):
        assert (pairs(ReluMoments(), k, c, k)[1] == 0.5).all()
        # Nor one of -1, which would leave 2e-9.
        assert all((m == 0).all() for m in pairs(ReluMoments(), k, -c, k))


def test_missing_tells_a_kink_from_a_smooth_function():
    k = jnp.asarray([1.0])
    kink = Activation("absolute", jnp.abs, 1.0)
    assert QuadratureMoments(ACTIVATIONS["tanh"]).missing(k) < 1e-13
    assert QuadratureMoments(kink).missing(k) > 1e-6


def test_an_activation_that_only_shares_a_name_is_not_served_by_the_closed_form():
    impostor = Activation("relu", jnp.tanh, 1.0)
    assert isinstance(moments_of(impostor), QuadratureMoments)
