"""Systems of many units that share a Gram matrix: against dense solves, converged or factorised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ngd_theory.fisher.many_systems import all_units, by_cholesky, conjugate_gradients, scaled_solve

N, M = 40, 7


def kernel(spectrum):
    """A Gram matrix with eigenvalues from 1 to ``spectrum``."""
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(N, N)))[0]
    return jnp.asarray(vectors @ np.diag(np.geomspace(1, spectrum, N)) @ vectors.T)


def draws(spread=1.0, dead=0.5):
    """Roots of which a share is 0, and right-hand sides."""
    rng = np.random.default_rng(1)
    root = np.exp(spread * rng.normal(size=(N, M))) * (rng.random((N, M)) >= dead)
    root[:, 3] = 0  # a dead unit
    return jnp.asarray(root), jnp.asarray(rng.normal(size=(N, M)))


def dense(gram, root, rho, rhs):
    return np.stack(
        [
            np.linalg.solve(np.diag(r) @ gram @ np.diag(r) + rho * np.eye(N), b)
            for r, b in zip(np.asarray(root).T, np.asarray(rhs).T, strict=True)
        ],
        axis=1,
    )


@pytest.mark.parametrize("dead", [0.0, 0.5])
@pytest.mark.parametrize("rho", [1e-12, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("spectrum", [1.5, 1e6])
def test_every_unit_is_solved_to_the_digits_of_a_factorisation(spectrum, rho, dead):
    gram, (root, rhs) = kernel(spectrum), draws(dead=dead)
    root = root + (0 if dead else 1e-3)
    rhs = jnp.where(root > 0, rhs, 0) if rho < 1 else rhs
    expected = dense(np.asarray(gram), root, rho, rhs)
    found = all_units(gram, root, jnp.asarray(rho), rhs)
    for i in range(M):
        matrix = np.diag(root[:, i]) @ gram @ np.diag(root[:, i]) + rho * np.eye(N)
        residual = np.linalg.norm(matrix @ found[:, i] - rhs[:, i])
        scale = np.linalg.norm(matrix, 2) * np.linalg.norm(found[:, i]) + np.linalg.norm(rhs[:, i])
        assert residual <= 20 * np.finfo(float).eps * scale
        error = np.linalg.norm(found[:, i] - expected[:, i]) / max(np.linalg.norm(expected), 1e-300)
        assert error <= 100 * np.finfo(float).eps * np.linalg.cond(matrix)


@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize("rho", [1e-9, 1e-3, 1.0, 1e3])
def test_one_condition_number_bounds_all_dampings_and_spreads(rho, spread):
    # By the diagonal of A alone: a few steps do whatever the damping is, where Gamma is well-conditioned.
    root, rhs = draws(spread)
    _, converged = conjugate_gradients(kernel(1.3), root, jnp.asarray(rho), root * rhs)
    assert np.all(converged)


def test_what_does_not_converge_is_known():
    root, rhs = draws()
    found, converged = conjugate_gradients(kernel(1e9), root, jnp.asarray(1e-9), root * rhs)
    # The dead unit is at once.
    assert list(np.flatnonzero(converged)) == [3] and not np.any(found[:, 3])


def test_numbers_that_are_none_are_not_converged():
    root, rhs = draws()
    for spoilt in ({"root": root.at[0, 0].set(np.nan)}, {"rhs": rhs.at[0, 0].set(np.nan)}):
        given = {"root": root, "rhs": rhs, **spoilt}
        _, converged = conjugate_gradients(
            kernel(2.0), given["root"], jnp.asarray(1.0), given["rhs"]
        )
        assert not converged[0]
        found = all_units(kernel(2.0), given["root"], jnp.asarray(1.0), given["rhs"])
        assert np.isnan(found[:, 0]).any() and np.all(np.isfinite(found[:, 1:]))


@pytest.mark.parametrize("size", [1e-25, 1e-10, 1e18])
@pytest.mark.parametrize(("spectrum", "rho"), [(1.5, 1e-3), (1e4, 1e-3), (1.5, 1e6)])
def test_numbers_far_from_one_are_no_convergence(spectrum, rho, size):
    root, rhs = draws(dead=0.0)
    given = (np.asarray(v, np.float32) for v in (kernel(spectrum), root, rho, size * rhs))
    gram, root, rho, rhs = map(jnp.asarray, given)
    found = np.asarray(all_units(gram, root, rho, rhs), float)
    expected = dense(*(np.asarray(v, float) for v in (gram, root, rho, rhs)))
    for i in (i for i in range(M) if i != 3):
        matrix = np.diag(root[:, i]) @ gram @ np.diag(root[:, i]) + rho * np.eye(N)
        error = np.linalg.norm(found[:, i] - expected[:, i]) / np.linalg.norm(expected[:, i])
        assert error <= 100 * np.finfo(np.float32).eps * np.linalg.cond(np.asarray(matrix, float))


def test_a_matrix_that_is_not_positive_definite_is_not_a_number():
    root, rhs = draws(dead=0.0)
    gram = kernel(2.0) - 1.5 * jnp.eye(N)
    found = all_units(gram, root, jnp.asarray(1e-6), rhs)
    assert np.isnan(found[:, 0]).any()


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("spectrum", [1.5, 1e4])
def test_the_scaled_system_and_its_derivatives(spectrum, transpose):
    gram, (root, rhs) = kernel(spectrum), draws()
    squares, rho = root**2, jnp.asarray(0.1)

    def reference(gram, squares, rhs, rho):
        matrices = squares.T[:, :, None] * gram[None] + rho * jnp.eye(N)
        matrices = jnp.swapaxes(matrices, 1, 2) if transpose else matrices
        return jnp.linalg.solve(matrices, rhs.T[:, :, None])[..., 0].T

    def ours(gram, squares, rhs, rho):
        return scaled_solve(gram, squares, rhs, rho, all_units, transpose)

    def one(gram, squares, rhs, rho):
        columns = [
            scaled_solve(
                gram, squares[:, i : i + 1], rhs[:, i : i + 1], rho, by_cholesky, transpose
            )
            for i in range(M)
        ]
        return jnp.concatenate(columns, axis=1)

    given = gram, squares, rhs, rho
    tangents = jax.tree.map(
        lambda v: 0.1 * jnp.cos(jnp.arange(v.size).reshape(v.shape) + 1.0), given
    )
    tangents = (tangents[0] + tangents[0].T, *tangents[1:])
    expected, expected_change = jax.jvp(reference, given, tangents)
    weights = jnp.sin(jnp.arange(N * M).reshape(N, M))
    gradients = jax.grad(lambda *g: jnp.vdot(weights, reference(*g)), (0, 1, 2, 3))(*given)
    for function in (ours, one):
        found, change = jax.jvp(function, given, tangents)
        scale = np.abs(expected).max(), np.abs(expected_change).max()
        np.testing.assert_allclose(found, expected, atol=1e-10 * scale[0])
        np.testing.assert_allclose(change, expected_change, atol=1e-9 * scale[1])
        back = jax.grad(lambda *g, f=function: jnp.vdot(weights, f(*g)), (0, 1, 2, 3))(*given)
        for one_of, other in zip(_symmetric(back), _symmetric(gradients), strict=True):
            np.testing.assert_allclose(one_of, other, atol=1e-8 * np.abs(other).max())


def _symmetric(gradients):
    """By a Gram matrix only the symmetric part means anything."""
    gram, *rest = gradients
    return [gram + gram.T, *rest]


def test_a_batch_of_dampings():
    root, rhs = draws()
    rho = jnp.asarray([1e-6, 1.0, 1e3])
    together = jax.jit(jax.vmap(lambda r: all_units(kernel(10.0), root, r, rhs)))(rho)
    for found, r in zip(together, rho, strict=True):
        expected = all_units(kernel(10.0), root, r, rhs)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9 * np.abs(expected).max())
