"""Spectral functions and solves: values by NumPy, derivatives by differences, batches by single calls."""

import ast
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory
from ngd_theory import linalg

RNG = np.random.default_rng(0)
BASIS = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
CHANGE = RNG.normal(size=(6, 6))
CHANGE = CHANGE + CHANGE.T


def with_spectrum(*eigenvalues):
    return jnp.asarray((BASIS * np.array(eigenvalues)) @ BASIS.T)


#: Equal eigenvalues among them.
POSITIVE = with_spectrum(1, 1, 1, 2, 2, 3)
INDEFINITE = with_spectrum(-1, -1, 1, 2, 2, 3)
#: Matrices of rank 3, along which the rank stays.
ROWS, ROWS_CHANGE = RNG.normal(size=(2, 6, 3))


def pinv_by_eigenvectors(matrix):
    """The known-wrong way: differentiated through eigenvectors."""
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    return (vectors * linalg.inverse_spectrum(eigenvalues)) @ vectors.T


def difference(function, at, along, step=1e-3):
    """Central difference with an error of the fourth order in the step."""
    f = [np.asarray(function(jnp.asarray(at + s * step * along))) for s in (-2, -1, 1, 2)]
    return (8 * (f[2] - f[1]) - (f[3] - f[0])) / (12 * step)


FUNCTIONS = {
    "pinv": linalg.pinv,
    "root": lambda a: linalg.symmetric_roots(a)[0],
    "inverse root": lambda a: linalg.symmetric_roots(a)[1],
    "solve": lambda a: linalg.positive_solve(a, jnp.asarray(ROWS)),
    "wide solve": lambda a: linalg.positive_solve(a, jnp.asarray(np.hstack([ROWS] * 3))),
    "symmetric solve": lambda a: linalg.symmetric_solve(a, jnp.asarray(ROWS)),
}
WANTED = {
    "pinv": np.linalg.pinv,
    "root": lambda a: (BASIS * np.sqrt(np.diag(BASIS.T @ a @ BASIS))) @ BASIS.T,
    "inverse root": lambda a: (BASIS / np.sqrt(np.diag(BASIS.T @ a @ BASIS))) @ BASIS.T,
    "solve": lambda a: np.linalg.solve(a, ROWS),
    "wide solve": lambda a: np.linalg.solve(a, np.hstack([ROWS] * 3)),
    "symmetric solve": lambda a: np.linalg.solve(a, ROWS),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_derivatives(name):
    function = FUNCTIONS[name]
    np.testing.assert_allclose(function(POSITIVE), WANTED[name](np.asarray(POSITIVE)), atol=1e-13)
    found = jax.jvp(function, (POSITIVE,), (jnp.asarray(CHANGE),))[1]
    np.testing.assert_allclose(found, difference(function, POSITIVE, CHANGE, 1e-4), atol=1e-8)
    weights = RNG.normal(size=found.shape)
    pulled = jax.grad(lambda a: jnp.sum(function(a) * weights))(POSITIVE)
    np.testing.assert_allclose(np.sum(pulled * CHANGE), np.sum(found * weights), rtol=1e-10)


@pytest.mark.parametrize("name", ["pinv", "symmetric solve"])
def test_indefinite_matrices(name):
    function = FUNCTIONS[name]
    wanted = WANTED[name](np.asarray(INDEFINITE))
    np.testing.assert_allclose(function(INDEFINITE), wanted, atol=1e-13)
    found = jax.jvp(function, (INDEFINITE,), (jnp.asarray(CHANGE),))[1]
    np.testing.assert_allclose(found, difference(function, INDEFINITE, CHANGE, 1e-4), atol=1e-8)


@pytest.mark.parametrize("name", ["pinv", "root", "inverse root"])
def test_derivatives_along_changes_that_keep_the_rank(name):
    def function(rows):
        return FUNCTIONS[name](rows @ rows.T)

    found = jax.jvp(function, (jnp.asarray(ROWS),), (jnp.asarray(ROWS_CHANGE),))[1]
    wanted = difference(function, ROWS, ROWS_CHANGE, 1e-4)
    assert np.linalg.norm(found - wanted) < 1e-7 * np.linalg.norm(wanted)


def test_eigenvectors_are_no_way_to_differentiate():
    # The control: the check above sees what the package did before, which is wrong where eigenvalues are equal.
    found = jax.jvp(pinv_by_eigenvectors, (POSITIVE,), (jnp.asarray(CHANGE),))[1]
    wanted = difference(linalg.pinv, POSITIVE, CHANGE, 1e-4)
    assert not np.linalg.norm(found - wanted) < 1e-3 * np.linalg.norm(wanted)


#: Through equal eigenvalues, and of rank 3.
CURVES = {
    "equal": lambda t: POSITIVE + t * CHANGE,
    "of rank 3": lambda t: (ROWS + t * ROWS_CHANGE) @ (ROWS + t * ROWS_CHANGE).T,
}


@pytest.mark.parametrize(
    ("name", "curve"),
    [(name, "equal") for name in FUNCTIONS if name != "wide solve"]
    + [(name, "of rank 3") for name in ("pinv", "root", "inverse root")],
)
def test_second_derivatives(name, curve):
    weights = jnp.asarray(RNG.normal(size=FUNCTIONS[name](POSITIVE).shape))

    def along(t):
        return jnp.sum(FUNCTIONS[name](CURVES[curve](t)) * weights)

    wanted = difference(jax.grad(along), 0.0, 1.0, 1e-4)
    for second in (jax.grad(jax.grad(along)), jax.jacfwd(jax.grad(along))):
        np.testing.assert_allclose(second(0.0), wanted, rtol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_is_not_finite_is_no_null_space(name, bad):
    matrix = jnp.eye(6).at[1, 1].set(bad)
    assert np.isnan(FUNCTIONS[name](matrix)).any()
    assert np.isnan(linalg.cholesky_factor(jnp.full((1, 1), bad))).all()


def test_eigenvalues_and_eigenvectors_of_distinct_eigenvalues():
    matrix = with_spectrum(-2, -1, 1, 2, 4, 7)
    along = jnp.asarray(CHANGE)

    def projector(a):
        return jnp.outer(*[linalg.eigh(a)[1][:, 3]] * 2)

    found = jax.jvp(linalg.eigvalsh, (matrix,), (along,))[1]
    np.testing.assert_allclose(found, difference(linalg.eigvalsh, matrix, CHANGE), atol=1e-6)
    wanted = difference(projector, matrix, CHANGE, 1e-4)
    np.testing.assert_allclose(jax.jvp(projector, (matrix,), (along,))[1], wanted, atol=1e-6)
    pulled = jax.grad(lambda a: jnp.sum(projector(a) * along))(matrix)
    np.testing.assert_allclose(np.sum(pulled * CHANGE), np.sum(wanted * CHANGE), rtol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_batches_of_batches(name):
    matrices = POSITIVE + np.arange(4).reshape(2, 2, 1, 1) * np.eye(6)

    def each(matrix):
        return jax.value_and_grad(lambda a: jnp.sum(FUNCTIONS[name](a) ** 2))(matrix)

    found = jax.jit(jax.vmap(jax.vmap(each)))(matrices)
    alone = jax.jit(each)
    for i, j in np.ndindex(2, 2):
        for batched, single in zip(found, alone(matrices[i, j]), strict=True):
            np.testing.assert_allclose(batched[i, j], single, rtol=1e-9)


@pytest.mark.parametrize(
    "axes", [((None, 0), (0, None)), ((0, None), (None, 0)), ((None, 0), (None, 0))]
)
def test_batches_of_one_argument_after_the_other(axes):
    inner, outer = axes
    batches = [(2, 3)[: sum(a[i] == 0 for a in axes)] for i in (0, 1)]
    matrices = POSITIVE + RNG.uniform(size=batches[0])[..., None, None] * np.eye(6)
    rhs = jnp.asarray(RNG.normal(size=(*batches[1], 6, 2)))
    solve = jax.vmap(jax.vmap(linalg.symmetric_solve, inner), outer)
    plain = jax.vmap(jax.vmap(jnp.linalg.solve, inner), outer)
    np.testing.assert_allclose(solve(matrices, rhs), plain(matrices, rhs), rtol=1e-10)


def test_a_batch_is_a_loop_on_a_cpu():
    matrices = jnp.stack([POSITIVE] * 3)
    compiled = jax.jit(jax.vmap(linalg.pinv)).lower(matrices).compile().as_text()
    assert "while" in compiled
    # Only single matrices are factorised.
    assert "f64[3,6,6]" not in "".join(
        line for line in compiled.splitlines() if "custom-call" in line
    )


def test_the_package_factorises_nowhere_else():
    package = Path(ngd_theory.__file__).parent
    found = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            modules = ("jnp.linalg.", "jax.numpy.linalg.", "jax.lax.linalg.", "jax.scipy.linalg.")
            # A norm is no factorisation.
            if text.startswith(modules) and not text.endswith(".norm"):
                found.append(f"{path.relative_to(package)}: {text}")
    home = ("linalg.py", "divide_and_conquer.py", "householder.py")
    assert {f for f in found if not f.startswith(home)} == set()


def positive(n, dtype=np.float64):
    """A random positive definite matrix with eigenvalues from 0.1 to 10."""
    basis = np.linalg.qr(np.random.default_rng(n).normal(size=(n, n)))[0]
    return ((basis * np.geomspace(0.1, 10, n)) @ basis.T).astype(dtype)


#: Beside every size from which on there are more pieces.
SIZES = (1, 31, 32, 33, 63, 64, 100, 120, 121, 250, 481)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", SIZES)
def test_factors_and_solves_of_pieces_equal_lapacks(n, dtype):
    matrix, tolerance = positive(n, dtype), 200 * np.finfo(dtype).eps
    factor = linalg.cholesky_factor(jnp.asarray(matrix))
    expected = np.linalg.cholesky(matrix.astype(np.float64))
    np.testing.assert_allclose(factor, expected, atol=10 * tolerance)
    inverse = linalg.lower_inverse(factor)
    np.testing.assert_allclose(inverse @ expected, np.eye(n), atol=10 * tolerance)
    for k in (1, 2, n, 2 * n + 1):
        rhs = RNG.normal(size=(n, k)).astype(dtype)
        found = linalg.positive_solve(jnp.asarray(matrix), jnp.asarray(rhs))
        expected_solution = np.linalg.solve(matrix.astype(np.float64), rhs)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected_solution, atol=500 * tolerance)


def smooth(n, rho):
    """A kernel of points on a line, of norm about 1 and as singular as it can be: pieces of it are nearly dependent."""
    x = np.sort(np.random.default_rng(n).uniform(-1, 1, n))
    kernel = np.exp(-((x[:, None] - x[None]) ** 2) / 0.5)
    return kernel / np.linalg.norm(kernel, 2) + rho * np.eye(n)


@pytest.mark.parametrize("rho", [1e-4, 1e-8, 1e-12])
@pytest.mark.parametrize("n", [100, 121, 250, 481])
def test_pieces_of_nearly_singular_matrices_keep_lapacks_digits(n, rho):
    """An inverse of a piece alone loses them: NaN where LAPACK has a factor, or residuals 1e4 times as large."""
    matrix = smooth(n, rho)
    factor = np.asarray(linalg.cholesky_factor(jnp.asarray(matrix)))
    eps = np.finfo(float).eps
    assert np.abs(factor @ factor.T - matrix).max() < 100 * eps
    rhs = np.random.default_rng(0).normal(size=(n, n))
    for k in (1, 20, n):
        found = np.asarray(linalg.cholesky_solve(jnp.asarray(factor), jnp.asarray(rhs[:, :k])))
        residual = np.abs(factor @ (factor.T @ found) - rhs[:, :k]).max()
        assert residual < 100 * eps * np.abs(found).max()


@pytest.mark.parametrize("n", [6, 121, 250])
@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("at", ["first", "last"])
def test_what_is_not_positive_definite_is_nan_whatever_piece_it_is_in(n, bad, at):
    matrix = positive(n)
    place = 0 if at == "first" else n - 1
    matrix[place, place] = bad
    assert np.isnan(linalg.cholesky_factor(jnp.asarray(matrix))).all()
    for k in (1, n):
        assert np.isnan(linalg.positive_solve(jnp.asarray(matrix), jnp.ones((n, k)))).all()


@pytest.mark.parametrize("n", SIZES)
def test_lapack_is_given_pieces_for_which_openblas_takes_one_thread(n):
    """Its others would spin beside XLA's for 50 ms after the call."""
    shapes = {"potrf": set(), "trsm": set()}
    for width in (1, 2, n, 3 * n):
        lowered = jax.jit(linalg.positive_solve).lower(jnp.eye(n), jnp.ones((n, width)))
        for line in lowered.compile().as_text().splitlines():
            for name, found in shapes.items():
                if "custom-call" in line and name in line:
                    dims = re.search(r"f64\[([\d,]+)\]", line)[1]
                    found.add(tuple(int(d) for d in dims.split(",")))
    assert shapes["potrf"] and shapes["trsm"]
    assert all(rows <= linalg.FACTORED_ALONE for rows, _ in shapes["potrf"])
    assert all(k == 1 or n * k < linalg.SOLVED_ALONE for n, k in shapes["trsm"])


@pytest.mark.parametrize("size", [3, 511, 512, 1025])
def test_a_gram_matrix_by_halves_is_the_product(size):
    rows = jnp.asarray(np.random.default_rng(size).normal(size=(size, 7)))
    found = jax.jit(linalg.gram)(rows)
    np.testing.assert_allclose(found, rows @ rows.T, atol=1e-12 * size)
    # A product of JAX 0.5.3 is not symmetric to the last digit.
    np.testing.assert_allclose(
        found, found.T, rtol=0, atol=7 * np.finfo(float).eps * np.max(np.abs(found))
    )
    change = jax.jvp(linalg.gram, (rows,), (jnp.sin(rows),))[1]
    expected = jnp.sin(rows) @ rows.T
    np.testing.assert_allclose(change, expected + expected.T, atol=1e-12 * size)


def test_a_large_gram_matrix_takes_fewer_operations():
    def operations(function, size):
        rows = jnp.zeros((size, 64))
        return jax.jit(function).lower(rows).compile().cost_analysis()["flops"]

    for size, share in ((256, 1.0), (1024, 0.625), (4096, 0.535)):
        least = operations(linalg.gram, size) / operations(lambda x: x @ x.T, size)
        assert least <= share + 0.02
