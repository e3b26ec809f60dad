"""neural-tangents and our recursion agree; parameters cross the bridge both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ngd_theory.errors import InputError, NotPredictedError
from ngd_theory.kernels import infinite, ntk
from ngd_theory.kernels._neural_tangents import neural_tangents
from ngd_theory.kernels.infinite import bridge
from ngd_theory.networks import chain, linearize, mlp

pytestmark = pytest.mark.usefixtures("installed")


def network(activation, depth, bias_std, weight_std=2**0.5):
    return mlp(5, [4] * (depth - 1), 2, activation, weight_std, bias_std)


def agree(net, tolerance, *points, **options):
    ours = infinite.layerwise_ntk(net, *points, source="closed-form")
    theirs = bridge.layerwise_ntk(net, *points, **options)
    scale = float(jnp.max(jnp.abs(ours)))
    assert float(jnp.max(jnp.abs(ours - theirs))) <= tolerance * scale
    for name, kernel in (("ntk", infinite.ntk), ("nngp", infinite.nngp)):
        other = bridge.kernel(net, *(*points, None)[:2], name, **options)
        assert float(jnp.max(jnp.abs(kernel(net, *points) - other))) <= tolerance * scale


@pytest.mark.parametrize("depth", [2, 6])
@pytest.mark.parametrize("bias_std", [0.0, 0.3])
@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_every_layer_agrees_with_neural_tangents(activation, bias_std, depth, x, other):
    net = network(activation, depth, bias_std)
    agree(net, 1e-10, *((x,) if bias_std else (x, other)))


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["gelu", "identity"])
def test_gelu_and_linear_networks_agree_with_neural_tangents(activation, x, other):
    agree(network(activation, 3, 0.3), 1e-10, x, other)


@pytest.mark.slow
def test_tanh_agrees_within_neural_tangents_quadrature(x, other):
    # Gauss-Hermite with 80 nodes is accurate to 1e-10 at these small variances only.
    agree(network("tanh", 3, 0.3, weight_std=0.7), 1e-10, 0.5 * x[:3], x[:2], quadrature_degree=80)


def test_source_neural_tangents_serves_the_public_functions(x, other):
    net = network("erf", 3, 0.3)
    for function in (infinite.layerwise_ntk, infinite.ntk, infinite.nngp):
        np.testing.assert_allclose(
            function(net, x, other, source="neural-tangents"), function(net, x, other), rtol=1e-10
        )


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("bias_std", [0.0, 0.3])
def test_same_parameters_give_the_same_outputs_both_ways(activation, bias_std, x):
    net = network(activation, 3, bias_std)
    stax = infinite.to_stax(net)
    params = net.init(jax.random.key(3))
    there = infinite.params_to_stax(net, params)
    np.testing.assert_allclose(stax.apply_fn(there, x), net.apply(params, x), atol=1e-13)
    back = infinite.params_from_stax(net, there)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), back, params))
    shape, drawn = stax.init_fn(jax.random.key(4), (-1, 5))
    assert shape == (-1, 2)
    ours = infinite.params_from_stax(net, drawn)
    np.testing.assert_allclose(stax.apply_fn(drawn, x), net.apply(ours, x), atol=1e-13)


@pytest.mark.slow
def test_gradient_descent_of_neural_tangents_has_the_same_limit(x, other):
    from ngd_theory import dynamics
    from ngd_theory.fisher import Identity

    x = x[:3]
    net = network("relu", 3, 0.3)
    targets = jnp.asarray([[1.0], [-1.0], [0.5]])
    nt = neural_tangents()
    theirs = nt.predict.gradient_descent_mse_ensemble(infinite.to_stax(net).kernel_fn, x, targets)(
        x_test=other, get="ntk", t=None, compute_cov=True
    )
    maps = dynamics.predictor(Identity(), net, x, other)
    step = float(1 / jnp.linalg.eigvalsh(maps.train_map)[-1])
    ours = dynamics.ensemble(maps, net, x, other, targets, step, [10**6])
    np.testing.assert_allclose(ours.test_mean[0], theirs.mean, atol=1e-10)
    np.testing.assert_allclose(ours.test_covariance[0], theirs.covariance, atol=1e-10)


@pytest.mark.slow
def test_empirical_kernel_of_neural_tangents_is_ours(x, other):
    net = mlp(5, [7, 6], 3, "tanh", 1.3, 0.2)
    params = net.init(jax.random.key(5))
    nt, stax = neural_tangents(), infinite.to_stax(net)
    theirs = nt.empirical_ntk_fn(
        stax.apply_fn,
        trace_axes=(),
        vmap_axes=0,
        implementation=nt.NtkImplementation.JACOBIAN_CONTRACTION,
    )(x, other, infinite.params_to_stax(net, params))
    ours = ntk(linearize(net, params, x), linearize(net, params, other))
    theirs = jnp.transpose(theirs, (0, 2, 1, 3)).reshape(ours.shape)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_monte_carlo_kernel_of_neural_tangents_is_an_average_of_ours(x):
    net = mlp(5, [16], 2, "erf", 1.3, 0.2)
    nt, stax = neural_tangents(), infinite.to_stax(net)
    key, count = jax.random.key(6), 3
    theirs = nt.monte_carlo_kernel_fn(stax.init_fn, stax.apply_fn, key, count, vmap_axes=0)(
        x, None, "ntk"
    )
    kernels = []
    # The mean over outputs of the same networks: their keys are split as neural-tangents does.
    for _ in range(count):
        key, sample = jax.random.split(key)
        drawn = stax.init_fn(jax.random.split(sample)[0], x.shape)[1]
        params = infinite.params_from_stax(net, drawn)
        kernel = ntk(linearize(net, params, x)).reshape(6, 2, 6, 2)
        kernels.append(jnp.einsum("ncmc->nm", kernel) / 2)
    np.testing.assert_allclose(jnp.mean(jnp.stack(kernels), axis=0), theirs, atol=1e-12)


def test_errors_name_what_does_not_fit(x):
    net, deeper = network("relu", 3, 0.0), network("relu", 4, 0.0)
    with pytest.raises(InputError, match="3 layers for a network of 4"):
        infinite.params_to_stax(deeper, net.init(jax.random.key(0)))
    wide = mlp(5, [9, 9], 2, "relu", 1.0, 0.0)
    with pytest.raises(InputError, match="shapes"):
        infinite.params_from_stax(wide, infinite.params_to_stax(net, net.init(jax.random.key(0))))
    odd = chain((5,), (type(net.blocks[0])(net.blocks[0].affine, (jnp.sin,)), net.blocks[-1]))
    with pytest.raises(NotPredictedError, match="after layer 1"):
        infinite.to_stax(odd)
