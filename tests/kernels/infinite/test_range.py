"""Kernels whose values are representable are so whatever is squared or multiplied on the way to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from limit_kernels import reference

from ngd_theory.errors import InputError
from ngd_theory.kernels import infinite
from ngd_theory.networks import mlp

#: Squares, and for ReLU products of squares, of these are out of float32's range.
SCALES = (1e-10, 1e10)


@pytest.fixture
def points():
    x = jax.random.normal(jax.random.key(0), (5, 3), "float32")
    return x.at[3].set(x[0]).at[4].set(-x[1])


def network(activation, depth=3, weight_std=2**0.5):
    return mlp(3, [4] * (depth - 1), 1, activation, weight_std, 0.0)


def numpy_kernels(activation, x, y):
    x, y = (np.asarray(v, np.longdouble) for v in (x[:, None], y[None, :]))
    return reference(activation, 3, 0.0, x, y).astype(float)


# Quadratures refuse large variances.
@pytest.mark.parametrize(
    ("activation", "scale"),
    [(a, s) for a in ("relu", "erf", "identity") for s in SCALES]
    + [(a, SCALES[0]) for a in ("tanh", "gelu")],
)
def test_small_and_large_inputs_in_single_precision(activation, scale, points):
    net, x = network(activation), jnp.float32(scale) * points
    # One array twice: no diagonal apart.
    for get, wanted in zip(
        (infinite.nngp, infinite.ntk), numpy_kernels(activation, x, x), strict=True
    ):
        for found in (get(net, x), get(net, x, x)):
            assert found.dtype == jnp.float32
            np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("scale", [1e19, 1e20, 1e30])
def test_kernels_of_inputs_whose_variance_is_out_of_range(scale, points):
    net, x = network("erf"), jnp.float32(scale) * points
    wanted = numpy_kernels("erf", x, x)[0]
    for found in (infinite.nngp(net, x), infinite.nngp(net, x, x)):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "identity", "erf"])
def test_kernels_out_of_range_are_an_error(activation, points):
    # Found was [[inf, nan], ...].
    net, x = network(activation), jnp.float32(1e20) * points
    for call in (infinite.ntk, infinite.layerwise_ntk, infinite.layer_kernels):
        with pytest.raises(InputError, match="out of the range of float32: scale the inputs"):
            call(net, x)


def test_deep_networks_that_forget_their_inputs(points):
    # A halving of variances a layer: 1e-24 at the top, of which the square is out of range.
    net = network("relu", 80, 1.0)
    exact = infinite.ntk(net, points.astype("float64"))
    k = np.asarray(points, float)
    np.testing.assert_allclose(jnp.diagonal(exact), 80 * 0.5**79 * (k**2).sum(1) / 3, rtol=1e-12)
    assert float(exact.max()) < 1e-20
    np.testing.assert_allclose(infinite.ntk(net, points), exact, rtol=2e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_relu_kernels_are_homogeneous_up_to_the_ends_of_the_range(dtype, points):
    net, x = network("relu"), points.astype(dtype)
    limits = jnp.finfo(dtype)
    plain = infinite.ntk(net, x)
    for scale in (limits.tiny**0.25, limits.tiny**0.45, limits.max**0.25, limits.max**0.45):
        scale = 2.0 ** np.round(np.log2(float(scale)))
        scaled = np.asarray(infinite.ntk(net, scale * x), float)
        np.testing.assert_allclose(scaled / scale / scale, plain, rtol=1e-5)


def test_a_tiny_sample_beside_a_huge_one(points):
    # Of the tiny one no variance is representable, of the pair the kernel is.
    net = network("relu")
    found = infinite.ntk(net, jnp.float32(1e-25) * points, jnp.float32(1e10) * points)
    np.testing.assert_allclose(found * 1e15, infinite.ntk(net, points, points), rtol=1e-5)


def test_sensitivities_of_inputs_whose_kernel_underflows(points):
    net = network("relu", 80, 1.0)
    kernels = [infinite.layer_kernels(net, s * points) for s in (jnp.float32(1e-10), 1)]
    assert (kernels[0].nngp == 0).all()
    np.testing.assert_allclose(kernels[0].sensitivities, kernels[1].sensitivities, rtol=1e-4)


@pytest.mark.parametrize("scale", SCALES)
def test_derivatives_of_small_and_large_inputs(scale, points):
    net, scale = network("relu"), jnp.float32(scale)

    def kernel(x, y):
        return infinite.ntk(net, x[None], y[None])[0, 0]

    @jax.jit
    @jax.vmap
    def derivatives(x, y):
        return jax.grad(kernel)(x, y), jax.jacfwd(jax.grad(kernel), 1)(x, y)

    pairs = points[:2], points[1:3]
    first, mixed = derivatives(*(scale * p for p in pairs))
    plain_first, plain_mixed = derivatives(*pairs)
    np.testing.assert_allclose(first / scale, plain_first, rtol=1e-4)
    np.testing.assert_allclose(mixed, plain_mixed, rtol=1e-4, atol=1e-5)
