"""Kernels as a whole: identities, tiles, transformations, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ngd_theory.errors import InputError, NotPredictedError
from ngd_theory.kernels import infinite
from ngd_theory.networks import ACTIVATIONS, chain, mlp
from ngd_theory.networks.activations import Activation
from ngd_theory.networks.block import Block


def network(activation="relu", depth=3, bias_std=0.3, width=4):
    return mlp(5, [width] * (depth - 1), 2, activation, 2**0.5, bias_std)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_layer_terms_sum_to_the_ntk_and_factorise(activation, x, other):
    net = network(activation)
    kernels = infinite.layer_kernels(net, x, other)
    layers = infinite.layerwise_ntk(net, x, other)
    assert layers.shape == (3, 6, 4)
    np.testing.assert_allclose(kernels.inputs * kernels.sensitivities, layers, rtol=1e-13)
    np.testing.assert_allclose(infinite.ntk(net, x, other), layers.sum(0), rtol=1e-13)
    np.testing.assert_allclose(infinite.nngp(net, x, other), kernels.nngp, rtol=1e-13)
    np.testing.assert_allclose(kernels.sensitivities[-1], 1)


def test_first_layer_is_the_scaled_gram_matrix(x):
    kernels = infinite.layer_kernels(network(bias_std=0.5), x)
    np.testing.assert_allclose(kernels.inputs[0], 2 * x @ x.T / 5 + 0.25, rtol=1e-12)


def test_deep_linear_network_is_exact(x):
    kernels = infinite.layerwise_ntk(network("identity", bias_std=0.0), x)
    np.testing.assert_allclose(kernels, np.broadcast_to(8 * x @ x.T / 5, (3, 6, 6)), rtol=1e-12)


def test_without_hidden_layer_the_kernel_is_the_inputs(x):
    net = mlp(5, [], 1, weight_std=1.0)
    np.testing.assert_allclose(infinite.layerwise_ntk(net, x)[0], x @ x.T / 5, rtol=1e-12)


def test_widths_do_not_matter(x):
    a, b = (infinite.ntk(network(width=w), x) for w in (3, 50))
    assert (a == b).all()


def test_relu_kernels_are_positively_homogeneous(x):
    net = network(bias_std=0.0)
    np.testing.assert_allclose(infinite.ntk(net, 3 * x), 9 * infinite.ntk(net, x), rtol=1e-12)


def test_tiles_equal_the_whole():
    net = network("tanh", depth=2)
    x = jax.random.normal(jax.random.key(2), (23, 5))
    for points in ((x,), (x, x[:11] + 1)):
        whole = infinite.layerwise_ntk(net, *points)
        tiled = infinite.layerwise_ntk(net, *points, memory_budget=16 * 8 * 7**2)
        np.testing.assert_allclose(tiled, whole, rtol=1e-12)
    assert (whole.shape, tiled.shape) == ((2, 23, 11),) * 2


def test_symmetric_kernels_are_exactly_symmetric_and_compute_half():
    from ngd_theory.kernels.infinite import tiles

    x = jax.random.normal(jax.random.key(2), (40, 5))
    kernel = infinite.ntk(network(), x, memory_budget=18 * 8 * 10**2)
    assert (kernel == kernel.T).all()
    calls = []

    def write(out, rows, columns, i, j, *static):
        calls.append((i, j))
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "_write", write)
        tiles.assemble(len, 1, (x,), temporaries=1, budget=8 * 10**2)
    assert len(calls) == 10 and all(j >= i for i, j in calls)


@pytest.mark.slow
def test_jit_vmap_and_grad(x, other):
    net = network()
    whole = infinite.layerwise_ntk(net, x, other)
    np.testing.assert_allclose(
        jax.jit(lambda a, b: infinite.layerwise_ntk(net, a, b))(x, other), whole, rtol=1e-12
    )
    both = jax.vmap(lambda a: infinite.ntk(net, a))(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(both[0], infinite.ntk(net, x), rtol=1e-12)
    assert jnp.isfinite(jax.grad(lambda a: infinite.ntk(net, a).sum())(x)).all()


def test_single_precision_inputs_give_single_precision(x):
    net = network("tanh", depth=2)
    single = infinite.ntk(net, x.astype("float32"))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, infinite.ntk(net, x), rtol=2e-4)


def test_large_variances_get_a_finer_quadrature_or_an_error(x):
    net = network("tanh", depth=2)
    kernel = infinite.nngp(net, 1.2 * x)
    assert jnp.isfinite(kernel).all()
    with pytest.raises(NotPredictedError, match="'tanh' after layer 1"):
        infinite.nngp(net, 50 * x)


def test_errors_name_what_is_wrong(x):
    net = network()
    with pytest.raises(InputError, match=r"takes \(N, 5\)"):
        infinite.ntk(net, x[:, :4])
    with pytest.raises(InputError, match="no sample"):
        infinite.ntk(net, x[:0])
    with pytest.raises(InputError, match="unknown source 'guess'"):
        infinite.ntk(net, x, source="guess")
    with pytest.raises(InputError, match="memory_budget"):
        infinite.ntk(net, x, memory_budget=10)
    kink = Activation("absolute", jnp.abs, 1.0)
    kinked = chain((5,), (Block(net.blocks[0].affine, (kink,)), net.blocks[-1]), "absolute")
    with pytest.raises(NotPredictedError, match="kink"):
        infinite.ntk(kinked, x)
    odd = chain((5,), (Block(net.blocks[0].affine, (jnp.sin,)), net.blocks[-1]), "sin")
    with pytest.raises(NotPredictedError, match="neural-tangents"):
        infinite.ntk(odd, x, source="closed-form")


def test_source_table_has_a_row_for_every_activation():
    rows = {row["activation"]: row for row in infinite.source_table()}
    assert rows.keys() == ACTIVATIONS.keys()
    assert rows["relu"]["source"] == "closed form" and rows["tanh"]["source"] == "quadrature"
    assert rows["relu"]["neural-tangents"] == "stax.Relu"
