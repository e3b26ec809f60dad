"""Finite-width kernels: J_l J'_l^T from the factors equals the one from autodiff."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_NAME, CASES, problem, relative_error

import ngd_theory as ngd
from ngd_theory.errors import InputError
from ngd_theory.networks import LayerLinearization
from ngd_theory.networks.layout import ParameterLayout


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_kernels_equal_autodiff_jacobian_products(case):
    p = problem(case)
    train = ngd.kernels.layerwise_ntk(p.lin)
    cross = ngd.kernels.layerwise_ntk(p.at, p.lin)
    assert train.shape[0] == case.depth
    for index in range(case.depth):
        columns = p.dense.block(index)
        j, j_at = p.dense.jacobian[:, columns], p.jacobian_at[:, columns]
        assert relative_error(train[index], j @ j.T) < 1e-12
        assert relative_error(cross[index], j_at @ j.T) < 1e-12
        layer = ngd.kernels.layer_kernel(p.lin.layers[index], p.at.layers[index])
        assert relative_error(layer, j @ j_at.T) < 1e-12


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_kernels_sum_to_the_ntk(case):
    p = problem(case)
    total = ngd.kernels.ntk(p.lin)
    assert relative_error(ngd.kernels.layerwise_ntk(p.lin).sum(0), total) < 1e-14
    # Unnormalised: neither 1/N nor 2.
    assert relative_error(total, p.dense.jacobian @ p.dense.jacobian.T) < 1e-12
    assert relative_error(ngd.kernels.ntk(p.at, p.lin), p.jacobian_at @ p.dense.jacobian.T) < 1e-12


def test_index_is_sample_times_outputs_plus_output():
    p = problem(BY_NAME["L3 C3 gelu bias"])
    kernel = np.asarray(ngd.kernels.ntk(p.lin))
    n, c, m, d = 2, 1, 0, 2
    rows = p.dense.jacobian.reshape(*p.lin.outputs.shape, -1)
    assert kernel[n * 3 + c, m * 3 + d] == pytest.approx(rows[n, c] @ rows[m, d], rel=1e-12)


def test_kernels_are_positive_semi_definite():
    for case in CASES:
        for kernel in np.asarray(ngd.kernels.layerwise_ntk(problem(case).lin)):
            eigenvalues = np.linalg.eigvalsh(kernel)
            assert eigenvalues[0] > -1e-13 * eigenvalues[-1]


def test_output_layer_kernel_is_block_diagonal_in_the_outputs():
    p = problem(BY_NAME["L3 C3 gelu bias"])
    kernel = np.asarray(ngd.kernels.layer_kernel(p.lin.layers[-1])).reshape(4, 3, 4, 3)
    a = np.asarray(p.lin.layers[-1].inputs[:, 0])
    np.testing.assert_allclose(kernel, np.einsum("nm,cd->ncmd", a @ a.T, np.eye(3)), atol=1e-12)


def test_linearisations_of_different_networks_are_refused():
    one, other = (problem(BY_NAME[n]).lin for n in ("L3 C3 gelu bias", "L2 C3 tanh bias"))
    for kernel in (ngd.kernels.ntk, ngd.kernels.layerwise_ntk):
        with pytest.raises(InputError, match="different layers"):
            kernel(one, other)


#: Positions, so that a kernel is made by rows or by Gram matrices, of all samples or of one at a time.
LOOPS = {
    "Gram matrices": ((2, 9, 9), {}),
    "Gram matrices, one sample at a time": ((2, 9, 9), {"memory_budget": 1}),
    "rows, all units": ((6, 9, 2), {}),
    "rows, one unit at a time": ((6, 9, 2), {"memory_budget": 1}),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_derivatives_in_both_modes_and_under_vmap_equal_differences(loop):
    (positions, units, inputs), options = LOOPS[loop]
    keys = jax.random.split(jax.random.key(0), 4)
    a = jax.random.normal(keys[0], (2, 3, positions, inputs))
    delta = jax.random.normal(keys[1], (2, 3, 1, positions, units))
    layout = ParameterLayout((inputs, units), has_bias=False)

    def kernel(t, a, delta):
        layer = LayerLinearization(a * (1 + t), delta * jnp.cos(t + a[0, 0, 0]), layout)
        return ngd.kernels.layer_kernel(layer, **options)

    def plain(t, a, delta):
        j = np.einsum("ntp,nctm->ncpm", a * (1 + t), delta * np.cos(t + a[0, 0, 0]))
        return j.reshape(3, -1) @ j.reshape(3, -1).T

    h = 1e-4
    wanted = [
        [
            (plain(h, *pair) - plain(-h, *pair)) / (2 * h),
            second(partial(plain, a=pair[0], delta=pair[1]), h),
        ]
        for pair in zip(np.asarray(a), np.asarray(delta), strict=True)
    ]
    for mode in (jax.jacfwd, jax.jacrev):
        first = jax.vmap(mode(kernel), (None, 0, 0))(0.0, a, delta)
        again = jax.vmap(jax.jacfwd(mode(kernel)), (None, 0, 0))(0.0, a, delta)
        for one, two, (correct, bent) in zip(first, again, wanted, strict=True):
            np.testing.assert_allclose(one, correct, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(two, bent, rtol=1e-4, atol=1e-3)


def second(function, h):
    return (function(h) - 2 * function(0) + function(-h)) / h**2


@pytest.mark.slow
def test_derivatives_of_the_ntk_by_the_inputs_equal_differences():
    net = ngd.networks.cnn((4, 4, 1), [2], 1, activation="tanh", readout="flatten")
    params = net.init(jax.random.key(0))
    x, v = jax.random.normal(jax.random.key(1), (2, 2, 4, 4, 1))

    def kernel(t):
        return ngd.kernels.ntk(ngd.networks.linearize(net, params, x + t * v))

    def outputs_jacobian(t):
        jacobian = jax.jacrev(lambda p: net.apply(p, x + t * v).ravel())(params)
        j = np.concatenate(
            [np.asarray(leaf).reshape(2, -1) for leaf in jax.tree.leaves(jacobian)], 1
        )
        return j @ j.T

    wanted = (outputs_jacobian(1e-5) - outputs_jacobian(-1e-5)) / 2e-5
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(mode(kernel))(0.0), wanted, rtol=1e-6, atol=1e-7)
