"""Finite-width kernels: J_l J'_l^T from the factors equals the one from autodiff."""

import numpy as np
import pytest
from cases import BY_NAME, CASES, problem, relative_error

import ngd_theory as ngd
from ngd_theory.errors import InputError


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
