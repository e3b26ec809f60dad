"""Identities between the approximations, each with a variant that must differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_NAME, Case, problem, relative_error
from dense import flatten, softmax_fisher
from scipy import special

import ngd_theory as ngd

TANH = Case("L3 C2 tanh bias", 6, (8, 9), 2, "tanh", 4, bias_std=0.3)
LINEAR = Case("L3 C2 identity bias", 6, (8, 9), 2, "identity", 4, bias_std=0.3)
ONE_DATUM = Case("L3 C2 tanh bias, one datum", 6, (8, 9), 2, "tanh", 1, bias_std=0.3)
BLOCKS = ngd.fisher.BlockDiagonal()
KFAC = ngd.fisher.KFAC()


def gradients(p, *approximations, damping=0.0):
    return [flatten(a.natural_gradient(p.lin, p.residual, damping)) for a in approximations]


def test_dual_natural_gradient_is_the_primal_one():
    p = problem(TANH)
    rho, n = 1e-3, TANH.num_samples
    j, r = p.dense.jacobian, np.asarray(p.residual).ravel()
    f = j.T @ j / n
    primal = np.linalg.solve(f + rho * np.eye(len(f)), j.T @ r / n)
    theta = j @ j.T / n
    dual = j.T @ np.linalg.solve(theta + rho * np.eye(len(theta)), r) / n
    (found,) = gradients(p, ngd.fisher.Exact(), damping=rho)
    assert relative_error(primal, dual) < 1e-9
    assert relative_error(found, dual) < 1e-9


def test_cross_entropy_dual_is_lambda_theta_and_not_theta_lambda():
    p = problem(TANH)
    rho, n = 1e-3, TANH.num_samples
    j, outputs = p.dense.jacobian, np.asarray(p.lin.outputs)
    residual = special.softmax(outputs, axis=1) - np.eye(2)[[0, 1, 1, 0]]
    lam = special_block_diagonal(softmax_fisher(outputs))
    theta = j @ j.T / n
    eye = rho * np.eye(len(theta))
    primal = np.linalg.solve(
        j.T @ lam @ j / n + rho * np.eye(j.shape[1]), j.T @ residual.ravel() / n
    )
    dual = j.T @ np.linalg.solve(lam @ theta + eye, residual.ravel()) / n
    wrong = j.T @ np.linalg.solve(theta @ lam + eye, residual.ravel()) / n
    approximation = ngd.fisher.Exact(ngd.fisher.TrueFisher("cross-entropy"))
    found = flatten(approximation.natural_gradient(p.lin, jnp.asarray(residual), rho))
    assert relative_error(primal, dual) < 1e-9
    assert relative_error(found, dual) < 1e-9
    assert relative_error(found, wrong) > 0.01


def special_block_diagonal(blocks):
    n, c, _ = blocks.shape
    full = np.zeros((n, c, n, c))
    for index, block in enumerate(blocks):
        full[index, :, index, :] = block
    return full.reshape(n * c, n * c)


@pytest.mark.parametrize(
    ("variant", "scale_fisher", "scale_damping"),
    [
        ("2F", 2, 1),
        ("N F", TANH.num_samples, 1),
        ("F / N", 1 / TANH.num_samples, 1),
        ("F / C", 1 / TANH.output_dim, 1),
        ("damping twice", 1, 2),
    ],
)
@pytest.mark.parametrize(
    "name", ["exact", "block-diagonal", "block-tridiagonal", "unit-wise", "entry-wise"]
)
def test_wrong_scales_are_wrong(name, variant, scale_fisher, scale_damping):
    p = problem(TANH)
    rho = 0.05
    (found,) = gradients(p, ngd.fisher.by_name(name), damping=rho)
    g = p.dense.masked(name).astype(float)
    rhs = p.dense.jacobian.T @ np.asarray(p.residual).ravel() / TANH.num_samples
    eye = np.eye(len(g))
    assert relative_error(np.linalg.solve(g + rho * eye, rhs), found) < 1e-9
    wrong = np.linalg.solve(scale_fisher * g + scale_damping * rho * eye, rhs)
    assert relative_error(wrong, found) > 0.03, variant


# --- Where K-FAC is the block-diagonal Fisher, and where it is not ----------------------------------


def test_kfac_is_block_diagonal_for_one_datum():
    kfac, blocks = gradients(problem(ONE_DATUM), KFAC, BLOCKS)
    assert relative_error(kfac, blocks) < 1e-8


def test_kfac_is_block_diagonal_for_copies_of_one_input():
    network = problem(TANH).network
    x = jnp.tile(problem(TANH).x[:1], (4, 1))
    lin = ngd.networks.linearize(network, problem(TANH).params, x)
    residual = problem(TANH).residual
    kfac, blocks = (flatten(a.natural_gradient(lin, residual, 0.0)) for a in (KFAC, BLOCKS))
    assert relative_error(kfac, blocks) < 1e-8


def test_kfac_is_block_diagonal_for_a_deep_linear_network_under_mse():
    kfac, blocks = gradients(problem(LINEAR), KFAC, BLOCKS)
    assert relative_error(kfac, blocks) < 1e-8


def test_kfac_is_block_diagonal_in_the_output_layer_under_mse():
    p = problem(TANH)
    kfac, blocks = (a.natural_gradient(p.lin, p.residual, 0.0) for a in (KFAC, BLOCKS))
    assert relative_error(flatten(kfac[-1:]), flatten(blocks[-1:])) < 1e-8


def test_kfac_is_not_block_diagonal_in_hidden_layers_of_a_nonlinear_network():
    p = problem(TANH)
    kfac, blocks = (a.natural_gradient(p.lin, p.residual, 0.0) for a in (KFAC, BLOCKS))
    for index in range(2):
        layer = slice(index, index + 1)
        assert relative_error(flatten(kfac[layer]), flatten(blocks[layer])) > 0.1


def test_kfac_is_not_block_diagonal_for_a_deep_linear_network_under_cross_entropy():
    p = problem(LINEAR)
    kind = ngd.fisher.TrueFisher("cross-entropy")
    residual = jnp.asarray(special.softmax(p.lin.outputs, axis=1) - np.eye(2)[[0, 1, 1, 0]])
    kfac, blocks = (
        flatten(a.natural_gradient(p.lin, residual, 0.0))
        for a in (ngd.fisher.KFAC(kind), ngd.fisher.BlockDiagonal(kind))
    )
    assert relative_error(kfac, blocks) > 0.05


# --- Kronecker products -----------------------------------------------------------------------------


def test_row_major_kronecker_product_acts_as_b_v_a_transposed():
    rng = np.random.default_rng(0)
    a, b, v = rng.normal(size=(3, 3)), rng.normal(size=(4, 4)), rng.normal(size=(4, 3))
    np.testing.assert_allclose(np.kron(b, a) @ v.ravel(), (b @ v @ a.T).ravel(), atol=1e-12)


def test_column_major_kronecker_product_is_wrong():
    p = problem(Case("square layer", 6, (6,), 1, "tanh", 4))
    rho = 0.01
    a, b = p.dense.kronecker_factors()[0]
    first = p.dense.block(0)
    gradient = p.dense.jacobian.T @ np.asarray(p.residual).ravel() / 4
    found = KFAC.natural_gradient(p.lin, p.residual, rho)[:1]
    pi = (np.trace(a) / 6 / (np.trace(b) / 6)) ** 0.5
    a = a + pi * rho**0.5 * np.eye(6)
    b = b + rho**0.5 / pi * np.eye(6)
    assert relative_error(np.linalg.solve(np.kron(b, a), gradient[first]), flatten(found)) < 1e-9
    assert relative_error(np.linalg.solve(np.kron(a, b), gradient[first]), flatten(found)) > 0.1


@pytest.mark.parametrize("damping", [0.0, 1e-2])
def test_unit_wise_is_layer_wise_in_the_output_layer_under_mse(damping):
    p = problem(TANH)
    units, layers = (
        a.natural_gradient(p.lin, p.residual, damping) for a in (ngd.fisher.UnitWise(), BLOCKS)
    )
    assert relative_error(flatten(units[-1:]), flatten(layers[-1:])) < 1e-9
    assert relative_error(flatten(units[:1]), flatten(layers[:1])) > 0.1


def test_factored_damping_exceeds_tikhonov_damping_by_a_positive_semi_definite_term():
    p = problem(TANH)
    rho, n = 1e-2, TANH.num_samples
    j = p.dense.jacobian
    tikhonov = np.zeros((j.shape[0], j.shape[0]))
    for index, (a, b) in enumerate(p.dense.kronecker_factors()):
        columns = j[:, p.dense.block(index)]
        pi = ((np.trace(a) / len(a)) / (np.trace(b) / len(b))) ** 0.5
        exact = np.kron(b, a) + rho * np.eye(len(a) * len(b))
        factored = np.kron(b + rho**0.5 / pi * np.eye(len(b)), a + pi * rho**0.5 * np.eye(len(a)))
        assert np.linalg.eigvalsh(factored - exact)[0] > -1e-12
        tikhonov += columns @ np.linalg.solve(exact, columns.T) / n
    # So K-FAC's own map is smaller than that with Tikhonov damping, and not equal to it.
    difference = tikhonov - np.asarray(KFAC.function_space_map(p.lin, rho))
    assert np.linalg.eigvalsh(difference)[0] > -1e-10
    assert np.linalg.norm(difference) > 0.01 * np.linalg.norm(tikhonov)


# --- The map ----------------------------------------------------------------------------------------


def test_map_times_residual_is_the_change_of_outputs_along_the_natural_gradient():
    p = problem(TANH)
    for name in ngd.fisher.APPROXIMATIONS:
        approximation = ngd.fisher.by_name(name)
        gradient = approximation.natural_gradient(p.lin, p.residual, 1e-3)
        for lin, at in ((p.lin, None), (p.at, p.at)):
            map_ = approximation.function_space_map(p.lin, 1e-3, at)
            change = lin.jvp(gradient).ravel()
            assert relative_error(map_ @ p.residual.ravel(), change) < 1e-9, name


def test_identity_map_is_the_normalised_ntk_at_any_damping():
    p = problem(TANH)
    theta = ngd.kernels.ntk(p.lin) / TANH.num_samples
    for damping in (0.0, 1.0):
        found = ngd.fisher.Identity().function_space_map(p.lin, damping)
        np.testing.assert_allclose(found, theta, rtol=1e-13)


def test_large_damping_turns_every_approximation_into_gradient_descent():
    p = problem(TANH)
    descent = flatten(ngd.fisher.Identity().natural_gradient(p.lin, p.residual, 0.0))
    rho = 1e8
    for name in set(ngd.fisher.APPROXIMATIONS) - {"identity", "kfac", "kfac-tridiagonal"}:
        (found,) = gradients(p, ngd.fisher.by_name(name), damping=rho)
        assert relative_error(rho * found, descent) < 1e-6, name
    # K-FAC's cross terms are of order sqrt(rho).
    for kronecker in (KFAC, ngd.fisher.KFACTridiagonal()):
        (found,) = gradients(p, kronecker, damping=1e16)
        assert relative_error(1e16 * found, descent) < 1e-6


def test_coupling_pseudo_inverse_sums_to_a_third_of_the_depth():
    for depth in range(1, 14):
        sigma = ngd.fisher.tridiagonal_coupling(depth)
        index = np.arange(depth)
        assert np.array_equal(sigma, np.abs(index[:, None] - index) <= 1)
        total = np.linalg.pinv(sigma, hermitian=True).sum()
        assert total == pytest.approx(-(-depth // 3), abs=1e-10)
        singular = np.abs(np.linalg.eigvalsh(sigma)).min() < 1e-10
        assert singular == (depth % 3 == 2)


@pytest.mark.parametrize("depth", [2, 5])
def test_block_tridiagonal_map_is_isotropic_where_the_coupling_is_singular(depth):
    case = Case(f"L{depth} tanh", 8, (24,) * (depth - 1), 1, "tanh", 5, bias_std=0.3)
    k = ngd.fisher.BlockTridiagonal().function_space_map(problem(case).lin, 0.0)
    np.testing.assert_allclose(k, -(-depth // 3) * np.eye(5), atol=1e-7)


# --- Symmetries -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ngd.fisher.APPROXIMATIONS)
def test_permuted_samples_give_a_permuted_map(name):
    p = problem(BY_NAME["L4 C1 tanh bias"])
    order = np.asarray([3, 0, 5, 1, 4, 2])
    approximation = ngd.fisher.by_name(name)
    k = approximation.function_space_map(p.lin, 1e-3)
    permuted = jax.tree.map(lambda leaf: leaf[order], p.lin)
    found = approximation.function_space_map(permuted, 1e-3)
    assert relative_error(found, np.asarray(k)[np.ix_(order, order)]) < 1e-9


@pytest.mark.parametrize("name", ngd.fisher.APPROXIMATIONS)
def test_natural_gradient_is_linear_in_the_cotangent(name):
    p = problem(TANH)
    approximation = ngd.fisher.by_name(name)
    other = jnp.asarray(np.random.default_rng(3).normal(size=p.residual.shape))
    one, two, both = (
        flatten(approximation.natural_gradient(p.lin, v, 0.01))
        for v in (p.residual, other, 2 * p.residual - 3 * other)
    )
    assert relative_error(both, 2 * one - 3 * two) < 1e-10
