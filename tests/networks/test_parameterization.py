"""Maximal update: the same function over sqrt(M), the same maps at a damping over M, and who is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory.errors import InputError, NotPredictedError
from ngd_theory.networks import cnn, mlp, resnet

WIDTH = 32
BUILT = {
    "mlp": lambda **how: mlp(8, [20, WIDTH], 2, "tanh", 1.1, **how),
    "mlp, biases": lambda **how: mlp(8, [20, WIDTH], 2, "tanh", 1.1, 0.3, **how),
    "cnn, flatten": lambda **how: cnn((4, 4, 2), [6, WIDTH], 2, bias_std=0.2, **how),
    "cnn, pool": lambda **how: cnn((4, 4, 2), [WIDTH], 2, readout="pool", pool=2, **how),
    "resnet": lambda **how: resnet(8, WIDTH, 2, 2, "tanh", 1.0, 0.3, **how),
    "resnet of images": lambda **how: resnet((3, 3, 2), WIDTH, 1, 2, **how),
}


def drawn(name, samples=5):
    """Both networks, parameters of both, inputs."""
    plain, scaled = (BUILT[name](parameterization=p) for p in ("ntk", "mup"))
    x = jax.random.normal(jax.random.key(1), (samples, *plain.input_shape))
    return plain, scaled, plain.init(jax.random.key(0)), x


@pytest.mark.parametrize("name", BUILT)
def test_outputs_are_those_of_the_ntk_parameterisation_over_the_root_of_the_width(name):
    plain, scaled, params, x = drawn(name)
    expected = np.asarray(plain.apply(params, x)) / np.sqrt(WIDTH)
    np.testing.assert_allclose(scaled.apply(params, x), expected, rtol=1e-12, atol=1e-15)
    # Only the readout differs: what it is given is the same.
    features = [np.asarray(n.forward(params, x, None)[1][-1]) for n in (plain, scaled)]
    np.testing.assert_array_equal(features[0], features[1])
    assert scaled != plain
    assert scaled.readout_scale == pytest.approx(WIDTH**-0.5, rel=1e-15)
    assert BUILT[name]() == plain and plain.readout_scale == 1


def test_the_exponents_are_those_stated_and_the_bias_of_the_readout_is_scaled_too():
    width, x = 64, np.random.default_rng(0).normal(size=(3, 4))
    net = mlp(4, [8, width], 1, "tanh", 1.3, 0.4, parameterization="mup")
    params = net.init(jax.random.key(2))
    (w1, b1), (w2, b2), (w3, b3) = [
        (np.asarray(y["weight"]), np.asarray(y["bias"])) for y in params
    ]
    h = np.tanh(1.3 / np.sqrt(4) * x @ w1 + 0.4 * b1)
    h = np.tanh(1.3 / np.sqrt(8) * h @ w2 + 0.4 * b2)
    # a = 1: the weight is divided by M; the bias by sqrt(M).
    expected = 1.3 / width * h @ w3 + 0.4 / np.sqrt(width) * b3
    np.testing.assert_allclose(net.apply(params, jnp.asarray(x)), expected, rtol=1e-13)
    assert {leaf.shape for leaf in jax.tree.leaves(params)} == {
        leaf.shape
        for leaf in jax.tree.leaves(mlp(4, [8, width], 1, bias_std=1.0).init(jax.random.key(0)))
    }


def dense_map(network, params, x, damping, blocks):
    """K by its definition from JAX's own Jacobian: ``(1/N) J (G + rho)^-1 J^T``, G of one or all layers."""
    jacobian = jax.jacobian(lambda p: network.apply(p, x).ravel())(params)
    layers = [
        np.concatenate([np.asarray(v).reshape(len(v), -1) for v in layer.values()], axis=1)
        for layer in jacobian
    ]
    if not blocks:
        layers = [np.concatenate(layers, axis=1)]
    n = len(x)
    return sum(
        j @ np.linalg.solve(j.T @ j / n + damping * np.eye(j.shape[1]), j.T) / n for j in layers
    )


@pytest.mark.parametrize("name", ["exact", "block-diagonal"])
def test_maps_are_those_of_dense_algebra(name):
    _, scaled, params, x = drawn("mlp, biases", samples=3)
    damping = 1e-4 / WIDTH
    found = ngd.fisher.by_name(name).function_space_map(
        ngd.networks.linearize(scaled, params, x), damping
    )
    expected = dense_map(scaled, params, x, damping, name == "block-diagonal")
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


INVARIANT = ("exact", "block-diagonal", "block-tridiagonal", "kfac", "unit-wise", "entry-wise")


@pytest.mark.parametrize("damping", [1e-2, 0.0])
@pytest.mark.parametrize("bias", ["mlp", "mlp, biases"])
@pytest.mark.parametrize("name", [*INVARIANT, "kfac-tridiagonal", "ekfac", "shampoo"])
def test_maps_are_the_same_at_a_damping_that_is_scaled_as_the_kernel(name, bias, damping):
    plain, scaled, params, x = drawn(bias)
    approximation = ngd.fisher.by_name(name)
    maps = [
        approximation.function_space_map(ngd.networks.linearize(net, params, x), rho)
        for net, rho in ((plain, damping), (scaled, damping / WIDTH))
    ]
    first, second = (ngd.theory.isotropy(k) for k in maps)
    size = float(jnp.max(jnp.abs(maps[0])))
    np.testing.assert_allclose(maps[1] / size, maps[0] / size, rtol=0, atol=1e-10)
    np.testing.assert_allclose(second.constant, first.constant, rtol=1e-10)
    np.testing.assert_allclose(second.dispersion, first.dispersion, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["exact", "kfac"])
def test_at_the_same_damping_the_maps_differ(name):
    plain, scaled, params, x = drawn("mlp")
    approximation = ngd.fisher.by_name(name)
    maps = [
        approximation.function_space_map(ngd.networks.linearize(net, params, x), 1e-2)
        for net in (plain, scaled)
    ]
    assert float(jnp.trace(maps[1]) / jnp.trace(maps[0])) < 0.9


@pytest.mark.parametrize("name", ["identity", "kfac-input", "kfac-output"])
def test_what_lacks_a_factor_sees_the_parameterisation(name):
    plain, scaled, params, x = drawn("mlp")
    approximation = ngd.fisher.by_name(name)
    traces = [
        float(
            jnp.trace(approximation.function_space_map(ngd.networks.linearize(net, params, x), rho))
        )
        for net, rho in ((plain, 1e-3), (scaled, 1e-3 / WIDTH))
    ]
    assert traces[1] < 0.99 * traces[0]
    if name == "identity":
        assert traces[1] == pytest.approx(traces[0] / WIDTH, rel=1e-12)


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0])
def test_shampoo_is_invariant_at_one_power_only(power):
    """G has the kernel's 1/M to the power 2p, K has it to 1 - 2p."""
    plain, scaled, params, x = drawn("mlp")
    approximation = ngd.fisher.by_name("shampoo", power=power)
    traces = [
        float(
            jnp.trace(approximation.function_space_map(ngd.networks.linearize(n, params, x), 0.0))
        )
        for n in (plain, scaled)
    ]
    assert traces[1] / traces[0] == pytest.approx(WIDTH ** (2 * power - 1), rel=1e-6)


def test_constants_from_sizes_do_not_see_it():
    for name in ("mlp", "cnn, flatten"):
        plain, scaled = (BUILT[name](parameterization=p) for p in ("ntk", "mup"))
        for approximation in (ngd.fisher.Exact(), ngd.fisher.BlockDiagonal(), ngd.fisher.KFAC()):
            assert ngd.theory.isotropy_constant(
                approximation, scaled, 4
            ) == ngd.theory.isotropy_constant(approximation, plain, 4)


@pytest.mark.parametrize("build", BUILT.values(), ids=BUILT)
def test_an_unknown_parameterisation_is_refused(build):
    with pytest.raises(InputError, match="unknown parameterization 'muP'; choose one of: ntk, mup"):
        build(parameterization="muP")


def test_a_network_without_a_hidden_layer_has_no_width_to_scale_by():
    with pytest.raises(InputError, match="one layer has none: give it a hidden layer"):
        mlp(4, [], 1, parameterization="mup")
    assert mlp(4, [], 1, parameterization="ntk").depth == 1


LIMITS = {
    "ntk": lambda net, x: ngd.kernels.infinite.ntk(net, x),
    "nngp": lambda net, x: ngd.kernels.infinite.nngp(net, x),
    "layer_kernels": lambda net, x: ngd.kernels.infinite.layer_kernels(net, x),
    "layerwise_ntk": lambda net, x: ngd.kernels.infinite.layerwise_ntk(net, x),
    "linearize": lambda net, x: ngd.kernels.infinite.linearize(net, x),
    "predictor": lambda net, x: ngd.dynamics.predictor(ngd.fisher.Exact(), net, x, x),
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("build", [BUILT["mlp"], BUILT["resnet"]], ids=["mlp", "resnet"])
def test_it_has_no_kernel_limit(build, limit):
    x = jax.random.normal(jax.random.key(0), (3, 8))
    with pytest.raises(NotPredictedError, match="its features move at every width"):
        LIMITS[limit](build(parameterization="mup"), x)
    LIMITS[limit](build(), x)


def test_the_standard_parameterisation_of_both_is_the_same():
    plain, scaled = (BUILT["mlp"](parameterization=p) for p in ("ntk", "mup"))
    standard = ngd.networks.standard_parameterization
    assert standard(scaled) == standard(plain)
