"""Eigenvectors and QR by reflections, against NumPy in float64; eigenvalues are equal, close, tiny or NaN."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from ngd_theory import divide_and_conquer, householder, linalg

LARGEST = linalg.REFLECTED_TOGETHER


def spectrum(eigenvalues):
    """A symmetric matrix with these eigenvalues, in a random basis."""
    n = len(eigenvalues)
    basis = np.linalg.qr(np.random.default_rng(n).normal(size=(n, n)))[0]
    return (basis * eigenvalues) @ basis.T


def gram(n, rank):
    rows = np.random.default_rng(n).normal(size=(n, rank))
    return rows @ rows.T


def tridiagonal(diagonal, beside=1.0):
    upper = np.diag(np.broadcast_to(beside, len(diagonal) - 1), 1)
    return np.diag(diagonal) + upper + upper.T


def glued(n):
    """Wilkinson's matrices on the diagonal, with almost nothing between: many eigenvalues agree in all digits."""
    return tridiagonal(np.abs(np.arange(n) % 21 - 10.0), np.where(np.arange(1, n) % 21, 1, 1e-9))


def faint_arrow(n):
    matrix = np.diag(np.where(np.arange(n) < n // 2, 1, 0.5))
    matrix[0, 1:] = matrix[1:, 0] = 1e-19 * np.random.default_rng(n).normal(size=n - 1)
    return matrix


MATRICES = {
    "gram": lambda n: gram(n, 2 * n),
    "rank third": lambda n: gram(n, n // 3),
    "rank one": lambda n: np.ones((n, n)),
    "zero": lambda n: np.zeros((n, n)),
    "one": np.eye,
    "indefinite": lambda n: gram(n, n) - n * np.eye(n),
    "graded": lambda n: spectrum(np.logspace(0, -30, n)),
    "two values": lambda n: spectrum(np.arange(n) % 2 + 1.0),
    "clusters": lambda n: spectrum(1 + np.arange(n) // 10 + 1e-12 * np.arange(n)),
    "blocks": lambda n: np.kron(np.eye(n), [[2, 1], [1, 2]])[:n, :n],
    "wilkinson": lambda n: tridiagonal(np.abs(np.arange(n) - n // 2) + 0.0),
    "glued": glued,
    "negative between": lambda n: tridiagonal(np.arange(n) % 3 + 0.0, -1.0),
    "arrow": lambda n: np.diag(np.arange(n) % 2.0) + np.eye(n)[:1] + np.eye(n)[:1].T,
    # Squares of the small entries are 0 in float32.
    "uncoupled": lambda n: scipy.linalg.block_diag(
        *(s * gram(m, n) for s, m in ((1, n // 4), (1e-17, n // 4), (1e-18, n - 2 * (n // 4))))
    ),
    "faint arrow": faint_arrow,
    "tiny": lambda n: 1e-30 * gram(n, n),
    "huge": lambda n: 1e30 * gram(n, n),
}
#: Beside every size from which on there are more pieces, or LAPACK's.
SIZES = (1, 64, 65, 129, LARGEST, LARGEST + 1)


def errors(matrix, eigenvalues, vectors):
    """Residual, non-orthogonality and errors of the eigenvalues, each as multiples of n eps."""
    matrix, size = matrix.astype(np.float64), np.linalg.norm(matrix.astype(np.float64), 2) or 1.0
    unit = len(matrix) * np.finfo(eigenvalues.dtype).eps
    values, vectors = np.asarray(eigenvalues, np.float64), np.asarray(vectors, np.float64)
    assert np.all(np.diff(values) >= 0)
    return {
        "residual": np.max(np.abs(matrix @ vectors - vectors * values)) / size / unit,
        "orthogonality": np.max(np.abs(vectors.T @ vectors - np.eye(len(matrix)))) / unit,
        "eigenvalues": np.max(np.abs(values - np.linalg.eigvalsh(matrix))) / size / unit,
    }


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", SIZES)
def test_eigenvectors_are_those_of_lapack_to_round_off(n, dtype):
    for make in MATRICES.values():
        matrix = make(n).astype(dtype)
        # In these units LAPACK's errors are up to 0.3 here.
        assert_eigenvectors(matrix, *linalg.unthreaded_eigh(jnp.asarray(matrix)))


def assert_eigenvectors(matrix, eigenvalues, vectors):
    for which, found in errors(matrix, np.asarray(eigenvalues), np.asarray(vectors)).items():
        assert found <= 2, which


def rank_one_update(d, z):
    return np.diag(np.asarray(d, np.float64)) + np.outer(*[np.asarray(z, np.float64)] * 2)


def test_eigenvectors_from_rounded_eigenvalues_are_not_orthogonal():
    """The known-wrong way: with ``d - lambda`` of rounded eigenvalues, and with the z that is given."""
    n, rng = 100, np.random.default_rng(0)
    d = np.sort(1 + 1e-6 * rng.uniform(size=n)).astype(np.float32)
    z = rng.normal(size=n).astype(np.float32)
    eigenvalues, vectors = divide_and_conquer._updated(jnp.asarray(d), jnp.asarray(z), 1.0)
    assert_eigenvectors(rank_one_update(d, z), eigenvalues, vectors)
    apart = d[:, None] - np.asarray(eigenvalues)[None]
    wrong = z[:, None] / np.where(apart == 0, np.finfo(np.float32).eps, apart)
    wrong = wrong / np.linalg.norm(wrong, axis=0)
    assert np.max(np.abs(wrong.T @ wrong - np.eye(n))) > 0.1


@pytest.mark.parametrize(
    ("d", "z"),
    [
        # Equal d, with z whose squares are 0 in float32.
        (np.r_[np.zeros(79), 1], np.r_[np.full(79, 1e-19), 1]),
        (np.r_[np.zeros(79), 1], np.r_[1e-19, np.full(78, 3e-8), 1]),
        # An eigenvector whose squares are infinite in float32 before it is normalised.
        (np.r_[0, 1e-13, np.linspace(0.1, 1, 78)], np.r_[1e-7, 1, np.full(78, 0.1)]),
    ],
    ids=["equal", "some equal", "steep"],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rank_one_updates_with_small_numbers(d, z, dtype):
    d, z = d.astype(dtype), z.astype(dtype)
    found = divide_and_conquer._updated(jnp.asarray(d), jnp.asarray(z), jnp.asarray(1, dtype))
    assert_eigenvectors(rank_one_update(d, z), *found)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n", [10, 100, LARGEST + 1])
def test_a_matrix_that_is_not_finite_has_no_eigenvalues(n, value):
    for at in ((0, 0), (n - 1, 0)):
        matrix = np.eye(n)
        matrix[at] = matrix[at[::-1]] = value
        eigenvalues, vectors = linalg.unthreaded_eigh(jnp.asarray(matrix))
        assert np.all(np.isnan(eigenvalues))
        # LAPACK's vectors stay as they come.
        assert n != 100 or not np.any(np.isfinite(vectors))


@pytest.mark.parametrize("n", [65, LARGEST])
def test_lapack_sees_only_pieces_that_it_computes_on_one_thread(n):
    def rows_given(function):
        text = jax.jit(function).lower(jnp.eye(n)).compile().as_text()
        calls = [line for line in text.splitlines() if "custom-call(" in line]
        return {int(rows) for line in calls for rows in re.findall(r"f64\[(\d+),", line)}

    assert max(rows_given(linalg.unthreaded_eigh)) <= divide_and_conquer.LEAF
    assert max(rows_given(linalg.eigh)) == n


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(1, 1), (30, 19), (50, 20), (100, 100), (700, 65)])
def test_orthonormal_columns_span_the_matrix(shape, dtype):
    p, n = shape
    by_panels = jax.jit(householder.orthonormal_columns)
    rng = np.random.default_rng(p)
    full = rng.normal(size=shape)
    for matrix in (
        full,
        1e-30 * full,
        full[:, : -(-n // 3)] @ rng.normal(size=(-(-n // 3), n)),
        np.ones(shape),
        np.zeros(shape),
        np.eye(p, n),
        full * np.logspace(0, -20, n),
        *(np.where(np.arange(p)[:, None] == 0, 1, small * full) for small in (1e-18, 1e-19, 3e-20)),
    ):
        matrix = matrix.astype(dtype)
        q = np.asarray(by_panels(jnp.asarray(matrix)), np.float64)
        unit = (p + 10) * np.finfo(dtype).eps
        np.testing.assert_allclose(q.T @ q, np.eye(n), atol=2 * unit)
        size = np.linalg.norm(np.asarray(matrix, np.float64), 2)
        np.testing.assert_allclose(q @ (q.T @ matrix), matrix, rtol=0, atol=2 * unit * size)


def test_lapack_sees_no_tall_matrix_for_which_it_takes_several_threads():
    def is_lapacks(*shape):
        text = jax.jit(linalg.orthonormal_columns).lower(jnp.ones(shape)).compile().as_text()
        return "geqrf" in text

    assert is_lapacks(linalg.TRIANGULARISED_ALONE // 20, 20)
    assert not is_lapacks(1000, 100)
    assert is_lapacks(LARGEST + 1, LARGEST + 1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_nothing_is_promoted_and_no_number_is_nan(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(150, 100)), dtype)
    rank_one = jnp.asarray(np.ones((100, 100)), dtype)
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
    ):
        linalg.orthonormal_columns(x)
        for matrix in (x.T @ x, rank_one):
            divide_and_conquer.eigh(matrix)
            jax.jvp(linalg.resting_eigh, (matrix,), (rank_one,))


def test_matrices_of_a_shape_share_a_program():
    shapes = [100, 70, 100, 2, 100, LARGEST + 1, LARGEST + 1]
    matrices = [jnp.asarray(gram(n, n)) for n in shapes]
    options = [1, 1, 2, 1, 1, 1, 1]
    seen = []

    def function(matrix, option):
        seen.append((matrix.shape, option))
        return option * matrix, jnp.trace(matrix)

    found = linalg.by_shape(function, matrices, options)
    # Large matrices would be copied for nothing.
    assert [(n, option) for (n, _), option in seen] == [
        (100, 1),
        (70, 1),
        (100, 2),
        (2, 1),
        (LARGEST + 1, 1),
        (LARGEST + 1, 1),
    ]
    for (times, trace), matrix, option in zip(found, matrices, options, strict=True):
        np.testing.assert_array_equal(times, option * matrix)
        np.testing.assert_allclose(trace, np.trace(matrix), rtol=1e-12)


def test_spectral_functions_of_a_size_for_pieces_have_the_derivatives_of_differences():
    n, step = 100, 1e-4
    matrix = spectrum(np.arange(n) // 3 + 1.0)
    change = gram(n, 3) / n

    def function(matrix):
        return linalg.spectral_function(lambda x, rho: 1 / (x + rho), matrix, jnp.asarray(0.1))

    def by_vectors(matrix):
        eigenvalues, vectors = linalg.resting_eigh(matrix)
        return (vectors / (eigenvalues + 0.1)) @ vectors.T

    inverse = np.linalg.inv(matrix + 0.1 * np.eye(n))
    expected = -inverse @ change @ inverse
    found = jax.jvp(function, (jnp.asarray(matrix),), (jnp.asarray(change),))
    np.testing.assert_allclose(found[0], inverse, atol=1e-11)
    np.testing.assert_allclose(found[1], expected, atol=1e-9)
    sides = [np.asarray(by_vectors(jnp.asarray(matrix + s * step * change))) for s in (1, -1)]
    np.testing.assert_allclose((sides[0] - sides[1]) / (2 * step), expected, atol=1e-6)
