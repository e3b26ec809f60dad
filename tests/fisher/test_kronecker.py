"""Kronecker factors between layers and the two inverses built from them, against dense matrices."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, problem, relative_error
from dense import softmax_fisher
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, special

import ngd_theory as ngd
from ngd_theory import losses
from ngd_theory.errors import InputError
from ngd_theory.fisher import invert_diagonal, invert_tridiagonal, kronecker_fisher
from ngd_theory.fisher.kinds import curvature_sensitivities
from ngd_theory.networks import LayerLinearization, ParameterLayout

TANH = Case("L3 C2 tanh bias, kronecker", 4, (5, 3), 2, "tanh", 6, bias_std=0.3)
LINEAR = Case("L3 C2 identity bias, kronecker", 4, (5, 3), 2, "identity", 6, bias_std=0.3)
ONE_DATUM = Case("L3 C2 tanh bias, kronecker, one datum", 4, (5, 3), 2, "tanh", 1, bias_std=0.3)
#: All layers of one shape, so that a transposed factor fits too.
SQUARE = Case("L4 C3 tanh bias, square", 3, (3, 3, 3), 3, "tanh", 12, bias_std=0.3)

#: Lambda of each loss, written out.
OUTPUT_FISHERS = {
    "mse": lambda f: np.stack([np.eye(f.shape[1])] * len(f)),
    "cross-entropy": softmax_fisher,
    "sigmoid-cross-entropy": lambda f: np.stack(
        [np.diag(p * (1 - p)) for p in special.expit(np.asarray(f))]
    ),
}


def curved(layers, root):
    """Layers with curvature sensitivities."""
    return tuple(
        LayerLinearization(y.inputs, curvature_sensitivities(y.sensitivities, root), y.layout)
        for y in layers
    )


@partial(jax.jit, static_argnames=("loss", "bandwidth"))
def of_linearization(lin, loss="mse", bandwidth=None):
    root = losses.by_name(loss).fisher_root(lin.outputs)
    return kronecker_fisher(curved(lin.layers, root), bandwidth)


def factors(p, loss="mse", bandwidth=None):
    return of_linearization(p.lin, loss, bandwidth)


def dense(fisher):
    """`KroneckerFisher.dense`, compiled."""
    return np.asarray(jax.jit(type(fisher).dense)(fisher))


def exact_fisher(p, loss="mse"):
    """``J^T Lambda J / N`` with each layer's parameters in the order of `KroneckerFisher.dense`."""
    n = len(p.x)
    blocks = [
        np.einsum("np,ncm->ncpm", a, delta).reshape(*delta.shape[:2], -1)
        for a, delta in zip(p.dense.inputs, p.dense.sensitivities, strict=True)
    ]
    jacobian = np.concatenate(blocks, axis=2)
    lam = OUTPUT_FISHERS[loss](p.lin.outputs)
    return np.einsum("ncp,ncd,ndq->pq", jacobian, lam, jacobian) / n


def dampings(depth):
    """Another one for every factor."""
    pairs = [(0.1 + 0.05 * i, 0.3 - 0.04 * i) for i in range(depth)]
    return [tuple(map(jnp.asarray, pair)) for pair in pairs]


def damped(fisher, rhos):
    """F-tilde with damped diagonal blocks, dense."""
    matrix = dense(fisher).copy()
    ends = np.cumsum([0, *block_sizes(fisher)])
    for i, (rho_a, rho_b) in enumerate(rhos):
        a, b = map(np.asarray, fisher.block(i, i))
        here = slice(ends[i], ends[i + 1])
        matrix[here, here] = np.kron(a + rho_a * np.eye(len(a)), b + rho_b * np.eye(len(b)))
    return matrix


def shapes(fisher):
    return [tuple(map(len, fisher.block(i, i))) for i in range(fisher.depth)]


def block_sizes(fisher):
    return [p * m for p, m in shapes(fisher)]


def distances(fisher):
    """Distance of two parameters' layers, as a matrix."""
    layer = np.repeat(np.arange(fisher.depth), block_sizes(fisher))
    return np.abs(layer[:, None] - layer)


def as_matrix(inverse, fisher):
    """The matrix whose columns are `apply` of unit vectors."""
    sizes = block_sizes(fisher)
    rows = np.split(np.eye(sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
    vectors = [r.reshape(-1, *s) for r, s in zip(rows, shapes(fisher), strict=True)]
    found = jax.jit(jax.vmap(inverse.apply))(vectors)
    return np.concatenate([f.reshape(sum(sizes), -1) for f in found], axis=1).T


@cache
def tridiagonal(case):
    """(F-tilde, its dense damped matrix, the inverse of F-hat as a matrix)."""
    fisher = factors(problem(case), bandwidth=1)
    rhos = dampings(fisher.depth)
    everything = factors(problem(case))
    inverse = jax.jit(invert_tridiagonal)(fisher, rhos)
    return fisher, damped(everything, rhos), as_matrix(inverse, fisher)


# --- Factors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", OUTPUT_FISHERS)
def test_factors_are_averages_of_outer_products(loss):
    p = problem(TANH)
    fisher = factors(p, loss)
    lam = OUTPUT_FISHERS[loss](p.lin.outputs)
    inputs, deltas, n = p.dense.inputs, p.dense.sensitivities, TANH.num_samples
    assert fisher.depth == 3 and fisher.bandwidth == 2
    for i in range(3):
        for j in range(3):
            a, b = fisher.block(i, j)
            expected_a = sum(np.outer(inputs[i][s], inputs[j][s]) for s in range(n)) / n
            expected_b = sum(deltas[i][s].T @ lam[s] @ deltas[j][s] for s in range(n)) / n
            np.testing.assert_allclose(a, expected_a, rtol=0, atol=1e-10)
            np.testing.assert_allclose(b, expected_b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("loss", OUTPUT_FISHERS)
def test_factors_of_sampled_targets_are_those_of_the_scores_drawn(loss):
    p = problem(TANH)
    key = jax.random.key(5)
    draw = partial(losses.by_name(loss).sample_score, key)

    @jax.jit
    def sampled(params, x):
        _, layers = ngd.networks.backpropagate(
            p.network, params, x, lambda outputs: draw(outputs)[:, None]
        )
        return kronecker_fisher(layers)

    fisher = sampled(p.params, p.x)
    score = np.asarray(draw(p.lin.outputs))
    rows = [np.einsum("nc,ncm->nm", score, delta) for delta in p.dense.sensitivities]
    for i in range(3):
        for j in range(3):
            expected = rows[i].T @ rows[j] / TANH.num_samples
            np.testing.assert_allclose(fisher.block(i, j)[1], expected, rtol=0, atol=1e-10)
    assert relative_error(fisher.block(0, 0)[1], factors(p, loss).block(0, 0)[1]) > 0.05


def test_dense_is_made_of_kronecker_products():
    fisher = factors(problem(TANH))
    found = dense(fisher)
    expected = np.block([[np.kron(*fisher.block(i, j)) for j in range(3)] for i in range(3)])
    np.testing.assert_array_equal(found, expected)
    narrow = dense(factors(problem(TANH), bandwidth=1))
    np.testing.assert_array_equal(narrow, np.where(distances(fisher) <= 1, expected, 0))
    # (A (x) B) vec(V) = vec(A V B^T), V vectorised row by row.
    a, b = map(np.asarray, fisher.block(0, 1))
    v = np.random.default_rng(0).normal(size=(a.shape[1], b.shape[1]))
    np.testing.assert_allclose(np.kron(a, b) @ v.ravel(), (a @ v @ b.T).ravel(), atol=1e-12)


# --- Where F-tilde is the Fisher, its blocks between layers included, and where it is not -----------


@pytest.mark.parametrize("loss", OUTPUT_FISHERS)
def test_factorisation_is_exact_for_one_datum(loss):
    p = problem(ONE_DATUM)
    assert relative_error(dense(factors(p, loss)), exact_fisher(p, loss)) < 1e-12


def test_factorisation_is_exact_for_copies_of_one_input():
    p, one = problem(TANH), problem(ONE_DATUM)
    linearize = jax.jit(partial(ngd.networks.linearize, one.network))
    lin = linearize(one.params, jnp.tile(one.x, (6, 1)))
    found = dense(of_linearization(lin))
    assert relative_error(found, exact_fisher(one)) < 1e-12
    assert relative_error(dense(factors(p)), exact_fisher(p)) > 0.05


def test_factorisation_is_exact_for_a_deep_linear_network_under_mse():
    p = problem(LINEAR)
    assert relative_error(dense(factors(p)), exact_fisher(p)) < 1e-12


@pytest.mark.parametrize(
    ("case", "loss"),
    [(TANH, "mse"), (LINEAR, "cross-entropy"), (LINEAR, "sigmoid-cross-entropy")],
    ids=str,
)
def test_factorisation_is_not_exact_in_any_block_of_other_networks(case, loss):
    p = problem(case)
    fisher, expected = factors(p, loss), exact_fisher(p, loss)
    distance = distances(fisher)
    for apart in range(3):
        found, wanted = (np.where(distance == apart, f, 0) for f in (dense(fisher), expected))
        assert relative_error(found, wanted) > 0.02, apart


def test_output_layer_alone_is_exact_under_mse():
    p = problem(TANH)
    fisher, expected = factors(p), exact_fisher(p)
    last = slice(-block_sizes(fisher)[-1], None)
    assert relative_error(dense(fisher)[last, last], expected[last, last]) < 1e-12
    first = slice(block_sizes(fisher)[0])
    assert relative_error(dense(fisher)[first, first], expected[first, first]) > 0.02
    entropy = dense(factors(p, "cross-entropy"))[last, last]
    assert relative_error(entropy, exact_fisher(p, "cross-entropy")[last, last]) > 0.02


# --- Inverses ---------------------------------------------------------------------------------------


def test_diagonal_inverse_is_that_of_the_damped_diagonal_blocks():
    fisher = factors(problem(TANH), bandwidth=0)
    rhos = dampings(3)
    matrix = damped(fisher, rhos)
    found = as_matrix(jax.jit(invert_diagonal)(fisher, rhos), fisher)
    assert relative_error(found, np.linalg.inv(matrix)) < 1e-10
    # Both factors are damped, not their product.
    product = dense(fisher)
    sizes = np.repeat([a * b for a, b in rhos], block_sizes(fisher))
    assert relative_error(found, np.linalg.inv(product + np.diag(sizes))) > 0.05


@pytest.mark.parametrize("case", [TANH, SQUARE], ids=str)
def test_tridiagonal_inverse_is_tridiagonal_and_its_matrix_agrees_on_three_diagonals(case):
    fisher, tilde, inverse = tridiagonal(case)
    distance = distances(fisher)
    np.testing.assert_allclose(inverse, inverse.T, rtol=0, atol=1e-10 * np.abs(inverse).max())
    assert np.linalg.eigvalsh(inverse)[0] > 0
    assert not np.any(inverse[distance > 1])
    hat = np.linalg.inv(inverse)
    near = distance <= 1
    np.testing.assert_allclose(hat[near], tilde[near], rtol=0, atol=1e-8 * np.abs(tilde).max())
    # Further off it is another matrix than F-tilde, and not zero.
    far = np.where(near, 0, tilde)
    assert relative_error(np.where(near, 0, hat), far) > 0.05
    assert np.abs(hat[~near]).max() > 0.01 * np.abs(tilde[~near]).max()


@pytest.mark.parametrize("depth", [1, 2])
def test_tridiagonal_inverse_of_one_or_two_layers_is_that_of_f_tilde(depth):
    p = problem(TANH)
    fisher = kronecker_fisher(p.lin.layers[:depth])
    rhos = dampings(depth)
    found = as_matrix(jax.jit(invert_tridiagonal)(fisher, rhos), fisher)
    assert relative_error(found, np.linalg.inv(damped(fisher, rhos))) < 1e-9


def dense_tridiagonal_inverse(fisher, rhos, *, transposed=False, schur=True):
    """Xi^T diag(S^-1) Xi from dense blocks, and two ways to get it wrong."""
    diagonal = [
        np.kron(a + rho_a * np.eye(len(a)), b + rho_b * np.eye(len(b)))
        for (a, b), (rho_a, rho_b) in zip(
            (fisher.block(i, i) for i in range(fisher.depth)), rhos, strict=True
        )
    ]
    xi, remainders = np.eye(sum(block_sizes(fisher))), []
    ends = np.cumsum([0, *block_sizes(fisher)])
    for i, own in enumerate(diagonal[:-1]):
        a, b = map(np.asarray, fisher.block(i, i + 1))
        across = np.kron(a.T if transposed else a, b)
        psi = np.linalg.solve(diagonal[i + 1], across.T).T
        xi[ends[i] : ends[i + 1], ends[i + 1] : ends[i + 2]] = -psi
        remainders.append(own - psi @ across.T if schur else own)
    remainders = linalg.block_diag(*remainders, diagonal[-1])
    return xi.T @ np.linalg.solve(remainders, xi)


def test_wrong_regressions_and_wrong_remainders_are_wrong():
    fisher, _, found = tridiagonal(SQUARE)
    rhos = dampings(fisher.depth)
    assert relative_error(dense_tridiagonal_inverse(fisher, rhos), found) < 1e-10
    for wrong in ({"transposed": True}, {"schur": False}):
        assert relative_error(dense_tridiagonal_inverse(fisher, rhos, **wrong), found) > 0.01


def test_wider_factors_have_the_same_tridiagonal_inverse():
    everything = factors(problem(TANH))
    inverse = jax.jit(invert_tridiagonal)(everything, dampings(3))
    np.testing.assert_allclose(as_matrix(inverse, everything), tridiagonal(TANH)[2], rtol=1e-12)


def random_factors(rng, rows, scale):
    """Factors of a few rows: of any rank."""
    layers = [
        LayerLinearization(
            jnp.asarray(scale * rng.normal(size=(rows, 1, p))),
            jnp.asarray(rng.normal(size=(rows, 1, 1, m))),
            ParameterLayout((p, m), has_bias=False),
        )
        for p, m in ((3, 2), (2, 4), (4, 2))
    ]
    return kronecker_fisher(layers, 1)


#: Below it NumPy's pseudo-inverse takes an eigenvalue for zero.
RCOND = 1e-10


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.sampled_from([1, 2, 3, 8]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    eps=st.floats(0, 1),
)
def test_remainders_of_averaged_factors_are_positive_semi_definite(seed, rows, scale, eps):
    rng = np.random.default_rng(seed)
    old, new = random_factors(rng, rows, 1.0), random_factors(rng, rows, scale)
    fisher = jax.tree.map(lambda a, b: eps * a + (1 - eps) * b, old, new)
    for i in range(2):
        own, following = (np.kron(*fisher.block(k, k)) for k in (i, i + 1))
        across = np.kron(*fisher.block(i, i + 1))
        remainder = own - across @ np.linalg.pinv(following, rcond=RCOND) @ across.T
        # An eigenvalue just above the cut carries the round-off eps / RCOND of the whole.
        assert np.linalg.eigvalsh(remainder)[0] > -np.finfo(float).eps / RCOND * np.trace(own)


def test_remainders_of_factors_that_belong_to_no_rows_are_indefinite():
    # The property above is one of the averages: it fails with the coupling of another batch.
    fisher = factors(problem(TANH), bandwidth=1)
    own, following = (np.kron(*fisher.block(k, k)) for k in (0, 1))
    across = 3 * np.kron(*fisher.block(0, 1))
    remainder = own - across @ np.linalg.pinv(following, rcond=RCOND) @ across.T
    assert np.linalg.eigvalsh(remainder)[0] < -0.01 * np.trace(own)


# --- Positions and errors ---------------------------------------------------------------------------


def convolution(rng, p, m, positions=3):
    """Something like a convolution: weights shared by a few positions."""
    return LayerLinearization(
        jnp.asarray(rng.normal(size=(4, positions, p))),
        jnp.asarray(rng.normal(size=(4, 2, positions, m))),
        ParameterLayout((p, m), has_bias=False),
    )


def test_factors_of_a_layer_with_positions_sum_inputs_and_average_sensitivities():
    rng = np.random.default_rng(0)
    layers = [convolution(rng, 3, 2), convolution(rng, 2, 5, positions=1)]
    fisher = kronecker_fisher(layers, bandwidth=0)
    for i, layer in enumerate(layers):
        a, delta = np.asarray(layer.inputs), np.asarray(layer.sensitivities)
        n, positions = a.shape[:2]
        expected_a = sum(np.outer(v, v) for v in a.reshape(n * positions, -1)) / n
        rows = delta.reshape(-1, delta.shape[-1])
        expected_b = sum(np.outer(v, v) for v in rows) / (n * positions)
        found_a, found_b = fisher.block(i, i)
        np.testing.assert_allclose(found_a, expected_a, atol=1e-12)
        np.testing.assert_allclose(found_b, expected_b, atol=1e-12)


def test_factors_between_layers_with_positions_are_refused():
    rng = np.random.default_rng(0)
    layers = [convolution(rng, 3, 2), convolution(rng, 2, 5)]
    for bandwidth in (1, None):
        with pytest.raises(InputError, match="a convolution has only its own"):
            kronecker_fisher(layers, bandwidth)


def test_a_negative_bandwidth_is_refused():
    with pytest.raises(InputError, match="bandwidth is -1; it must be at least 0"):
        factors(problem(TANH), bandwidth=-1)


def test_a_block_beyond_the_bandwidth_is_refused():
    fisher = factors(problem(TANH), bandwidth=1)
    for i, j in ((0, 2), (2, 0)):
        with pytest.raises(InputError, match=r"layers . and . are further apart than the band"):
            fisher.block(i, j)
    with pytest.raises(InputError, match="further apart than the bandwidth 0"):
        invert_tridiagonal(factors(problem(TANH), bandwidth=0), dampings(3))
