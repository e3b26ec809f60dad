"""Dense factorisations that can be vmapped on every platform, and spectral functions that can be differentiated.

Under `jax.vmap` a factorisation here is a loop on a CPU: two batched LAPACK calls that XLA runs side by side can wait
for each other's threads for ever (jaxlib 0.10.2, two cores). On accelerators it is a batch. The package calls
no factorisation of `jnp.linalg` anywhere else on arrays of a device (a test reads the sources).

LAPACK on a CPU is SciPy's OpenBLAS. After a call on several threads these threads keep spinning for some 50 ms and take
cores from XLA, which can double the time of a step. Cholesky factors and solves are therefore made of pieces that
OpenBLAS computes on one thread, and of XLA's products. One correction restores the digits that the inverse of a piece
loses. `unthreaded_eigh` and `orthonormal_columns` use reflections for small matrices. Other eigenvalues, LU and factors
of very large matrices still take several threads.

A spectral function ``f(A) = U f(lambda) U^T`` is smooth where eigenvalues are equal, and its eigenvectors are not. The
derivatives here are equations for f(A) itself, so that equal eigenvalues are no special case. Eigenvalues below
round-off are assumed to stay zero: these are the derivatives along changes that keep the rank.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial, wraps

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory import divide_and_conquer, householder
from ngd_theory.precision import full_precision

#: With fewer rows a Gram matrix is one product.
LEAST_HALVED = 512


@full_precision
def gram(rows: Float[Array, "n p"]) -> Float[Array, "n n"]:
    """``X X^T``. Many rows are halved recursively: by symmetry this takes little more than half the operations."""

    def product(x):
        if len(x) < LEAST_HALVED:
            return x @ x.T
        first, second = jnp.split(x, [len(x) // 2])
        across = first @ second.T
        return jnp.block([[product(first), across], [across.T, product(second)]])

    return product(rows)


def is_tall(rows: Float[Array, "n p"]) -> bool:
    """Whether ``X^T X`` is the `smaller_gram`; so it is for a square X."""
    return rows.shape[0] >= rows.shape[1]


def smaller_gram(rows: Float[Array, "n p"]) -> Array:
    """``X^T X`` or ``X X^T``, whichever is smaller."""
    return gram(rows.T if is_tall(rows) else rows)


def one_by_one(function: Callable) -> Callable:
    """Decorator: under vmap, a loop on a CPU and a batch on accelerators; arguments are arrays."""
    in_turn = jax.custom_batching.sequential_vmap(function)

    @jax.custom_batching.custom_vmap
    def wrapped(*args):
        return function(*args)

    @wrapped.def_vmap
    def batch(axis_size, batched, *args):
        axes = [0 if b else None for b in batched]
        found = jax.lax.platform_dependent(
            *args, cpu=jax.vmap(in_turn, axes), default=jax.vmap(function, axes)
        )
        return found, jax.tree.map(lambda _: True, found)

    return wraps(function)(wrapped)


def differentiated_as(other: Callable) -> Callable:
    """Decorator: derivatives are those of ``other``, a smooth way to compute the same; arguments are positional."""

    def decorate(function):
        wrapped = jax.custom_jvp(function)

        @wrapped.defjvp
        def _(primals, tangents):
            return wrapped(*primals), jax.jvp(other, primals, tangents)[1]

        return wraps(function)(wrapped)

    return decorate


#: Sizes for which OpenBLAS (0.3.30) takes one thread: rows of a matrix to factor, entries of a right-hand side.
FACTORED_ALONE, SOLVED_ALONE = 120, 1000
#: Entries of a matrix whose QR decomposition OpenBLAS takes on one thread.
TRIANGULARISED_ALONE = 8192
#: A triangular solve has no more pieces than this, as each takes time to compile.
MOST_PIECES = 8
#: Larger matrices to factor take so long that spinning threads do not count.
FACTORED_TOGETHER = 16 * FACTORED_ALONE
#: Most rows of a matrix whose eigenvectors, and most columns of one whose Q, are found by reflections.
REFLECTED_TOGETHER = 256


@one_by_one
@full_precision
def cholesky_factor(matrix):
    """Lower triangular L with ``L L^T = matrix``; NaN if it is not positive definite. For use inside solves."""
    factor = jax.lax.platform_dependent(matrix, cpu=_factor_of_pieces, default=jnp.linalg.cholesky)
    # An infinity in the matrix may show on the diagonal only.
    return jnp.where(jnp.isfinite(jnp.diagonal(factor)).all(), factor, jnp.nan)


def factor_copies(rows: int) -> int:
    """Number of matrices of that size that `cholesky_factor` holds on a CPU, with its result, as XLA reports it."""
    return 5 if FACTORED_ALONE < rows <= FACTORED_TOGETHER else 1


def _factor_of_pieces(matrix):
    """A Cholesky factor from those of halves."""
    half = len(matrix) // 2
    if not FACTORED_ALONE < len(matrix) <= FACTORED_TOGETHER:
        return jnp.linalg.cholesky(matrix)
    upper = _factor_of_pieces(matrix[:half, :half])
    side = _by_halves(upper, matrix[:half, half:]).T
    lower = _factor_of_pieces(matrix[half:, half:] - side @ side.T)
    return jnp.block([[upper, jnp.zeros_like(side.T)], [side, lower]])


@one_by_one
@full_precision
def lower_inverse(factor):
    """``L^-1`` of a lower triangular L. For use inside solves."""
    return jax.lax.platform_dependent(
        factor,
        cpu=_inverse_of_pieces,
        default=_inverse_at_once,
    )


def _inverse_at_once(factor):
    return _triangular_solve(factor, jnp.eye(len(factor), dtype=factor.dtype))


def _inverse_of_pieces(factor):
    """``L^-1`` from the inverses of diagonal blocks: two of them give that of a block of twice the size."""
    count = 1
    while (-(-len(factor) // count)) ** 2 > SOLVED_ALONE:
        count *= 2
    if count == 1:
        return _inverse_at_once(factor)
    size = -(-len(factor) // count)
    rest = count * size - len(factor)
    whole = jax.scipy.linalg.block_diag(factor, jnp.eye(rest, dtype=factor.dtype))
    inverses = jax.lax.map(_inverse_at_once, _diagonal(whole, size))
    while len(inverses) > 1:
        first, second = inverses[::2], inverses[1::2]
        size = first.shape[1]
        side = -second @ _diagonal(whole, 2 * size)[:, size:, :size] @ first
        inverses = jnp.block([[first, jnp.zeros_like(side)], [side, second]])
    return inverses[0, : len(factor), : len(factor)]


def _by_halves(factor, rhs, transpose=False, smallest=FACTORED_ALONE):
    """``L^-1 rhs``, or ``L^-T rhs``: one half of the rows is solved and its part taken from the other."""
    if len(factor) <= smallest:
        # One step of refinement, as the residual of an inverse exceeds a triangular solve's.
        inverse = _inverse_of_pieces(factor)
        matrix, inverse = (factor.T, inverse.T) if transpose else (factor, inverse)
        found = inverse @ rhs
        return found + inverse @ (rhs - matrix @ found)
    half = len(factor) // 2
    smallest = max(smallest, -(-len(factor) // MOST_PIECES))
    upper, lower = factor[:half, :half], factor[half:, half:]
    if transpose:
        second = _by_halves(lower, rhs[half:], True, smallest)
        rest = rhs[:half] - factor[half:, :half].T @ second
        first = _by_halves(upper, rest, True, smallest)
    else:
        first = _by_halves(upper, rhs[:half], False, smallest)
        rest = rhs[half:] - factor[half:, :half] @ first
        second = _by_halves(lower, rest, False, smallest)
    return jnp.concatenate([first, second])


def _diagonal(matrix, size):
    """The square blocks on the diagonal."""
    count = len(matrix) // size
    every = jnp.arange(count)
    return matrix.reshape(count, size, count, size)[every, :, every]


def _triangular_solve(factor, rhs, transpose=False):
    return jax.lax.linalg.triangular_solve(
        factor, rhs, left_side=True, lower=True, transpose_a=transpose
    )


@one_by_one
def _eigh(matrix):
    return _eigh_at_once(matrix)


def _eigh_at_once(matrix):
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    return jnp.where(jnp.isfinite(eigenvalues).all(), eigenvalues, jnp.nan), vectors


@one_by_one
@full_precision
def unthreaded_eigh(matrix):
    """Eigenvalues, ascending, and eigenvectors, on one thread of OpenBLAS up to `REFLECTED_TOGETHER` rows.

    For steps that XLA computes on all cores. It takes one or two seconds to compile: see `by_shape`. It has no
    derivatives: see `resting_eigh`.
    """
    small = divide_and_conquer.LEAF < len(matrix) <= REFLECTED_TOGETHER
    on_cpu = divide_and_conquer.eigh if small else _eigh_at_once
    return jax.lax.platform_dependent(matrix, cpu=on_cpu, default=_eigh_at_once)


def by_shape(function: Callable, matrices: Sequence[Array], options: Sequence = ()) -> list:
    """``[function(matrix, option), ...]``, compiled once for small matrices of the same shape and option.

    Without ``options``, ``[function(matrix), ...]``.
    """
    groups = defaultdict(list)
    for i, matrix in enumerate(matrices):
        small = len(matrix) <= REFLECTED_TOGETHER
        groups[matrix.shape if small else i, *options[i : i + 1]].append(i)
    found = {}
    for (_, *option), places in groups.items():
        several = jnp.stack([matrices[i] for i in places])
        results = jax.vmap(lambda each, option=option: function(each, *option))(several)
        for place, i in enumerate(places):
            found[i] = jax.tree.map(lambda each, place=place: each[place], results)
    return [found[i] for i in range(len(matrices))]


@one_by_one
@full_precision
def lu_factor(matrix):
    """LU factors and the order of rows; NaN if the matrix is not finite. For use inside solves."""
    factors, _, order = jax.lax.linalg.lu(matrix)
    return jnp.where(jnp.isfinite(matrix).all(), factors, jnp.nan), order


@one_by_one
@full_precision
def lu_solve(factors, order, rhs):
    """``matrix^-1 rhs`` from `lu_factor`. For use inside solves."""
    half = jax.lax.linalg.triangular_solve(
        factors, rhs[order], left_side=True, lower=True, unit_diagonal=True
    )
    return jax.lax.linalg.triangular_solve(factors, half, left_side=True)


def _by_triangles(factor, rhs):
    return _triangular_solve(factor, _triangular_solve(factor, rhs), transpose=True)


def _by_columns(factor, rhs):
    """Solve as many columns at a time as OpenBLAS does on one thread."""
    size, columns = rhs.shape
    count = -(-columns // ((SOLVED_ALONE - 1) // size))
    width = -(-columns // count)
    padded = jnp.pad(rhs, ((0, 0), (0, count * width - columns)))
    pieces = jnp.moveaxis(padded.reshape(size, count, width), 1, 0)
    solved = jax.lax.map(lambda piece: _by_triangles(factor, piece), pieces)
    return jnp.moveaxis(solved, 0, 1).reshape(size, -1)[:, :columns]


def _by_pieces(factor, rhs):
    # Up to this size, a few columns at a time cost less than six products.
    if len(factor) <= FACTORED_ALONE:
        return _by_columns(factor, rhs)
    return _by_halves(factor, _by_halves(factor, rhs), transpose=True)


_two_solves = one_by_one(_by_triangles)


@one_by_one
@full_precision
def _wide_solve(factor, rhs):
    return jax.lax.platform_dependent(factor, rhs, cpu=_by_pieces, default=_by_triangles)


@one_by_one
@full_precision
def orthonormal_columns(matrix):
    """Q of the QR decomposition of a tall matrix, without derivatives."""

    def at_once(matrix):
        return jnp.linalg.qr(matrix)[0]

    small = matrix.size > TRIANGULARISED_ALONE and matrix.shape[1] <= REFLECTED_TOGETHER
    on_cpu = householder.orthonormal_columns if small else at_once
    return jax.lax.platform_dependent(matrix, cpu=on_cpu, default=at_once)


@one_by_one
def singular_columns(matrix):
    """Left singular vectors of a tall matrix, and its singular values, largest first."""
    return jnp.linalg.svd(matrix, full_matrices=False)[:2]


@full_precision
def cholesky_solve(factor: Float[Array, "n n"], rhs: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """``(L L^T)^-1 rhs`` for a lower triangular L. For use inside solves."""
    if rhs.shape[1] == 1 or rhs.size < SOLVED_ALONE:
        return _two_solves(factor, rhs)
    if rhs.shape[1] > len(factor):
        # The inverse and one product are cheaper.
        return _wide_solve(factor, jnp.eye(len(factor), dtype=factor.dtype)) @ rhs
    return _wide_solve(factor, rhs)


@full_precision
def positive_solve(matrix: Float[Array, "n n"], rhs: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """``matrix^-1 rhs`` by Cholesky for a positive definite matrix, else NaN."""
    return factored_solve(matrix, cholesky_factor(jax.lax.stop_gradient(matrix)), rhs)


@full_precision
def factored_solve(
    matrix: Float[Array, "n n"], factor: Float[Array, "n n"], rhs: Float[Array, "n k"]
) -> Float[Array, "n k"]:
    """``matrix^-1 rhs`` with a given Cholesky factor, which is constant for derivatives."""
    return jax.lax.custom_linear_solve(
        lambda x: matrix @ x, rhs, lambda _, b: cholesky_solve(factor, b), symmetric=True
    )


@full_precision
def symmetric_solve(matrix: Float[Array, "n n"], rhs: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """``matrix^-1 rhs`` by LU for a symmetric, indefinite matrix."""
    factors = lu_factor(jax.lax.stop_gradient(matrix))
    return jax.lax.custom_linear_solve(
        lambda x: matrix @ x, rhs, lambda _, b: lu_solve(*factors, b), symmetric=True
    )


@jax.custom_jvp
def eigh(matrix: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix.

    The derivative of the eigenvectors is NaN if two eigenvalues are equal, as it does not exist.
    """
    return _eigh(matrix)


@eigh.defjvp
@full_precision
def _(primals, tangents):
    eigenvalues, vectors = eigh(*primals)
    change = vectors.T @ ((tangents[0] + tangents[0].T) / 2) @ vectors
    same = jnp.eye(len(change), dtype=bool)
    gaps = jnp.where(same, jnp.inf, eigenvalues[None] - eigenvalues[:, None])
    return (eigenvalues, vectors), (jnp.diagonal(change), vectors @ (change / gaps))


@jax.custom_jvp
def resting_eigh(matrix: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """`unthreaded_eigh` with finite derivatives: eigenvectors of equal eigenvalues do not turn among themselves.

    For functions that do not depend on the choice of eigenvectors of equal eigenvalues.
    """
    return unthreaded_eigh(matrix)


@resting_eigh.defjvp
@full_precision
def _(primals, tangents):
    eigenvalues, vectors = resting_eigh(*primals)
    change = vectors.T @ ((tangents[0] + tangents[0].T) / 2) @ vectors
    gaps = eigenvalues[None] - eigenvalues[:, None]
    size = (
        len(eigenvalues) * float(jnp.finfo(eigenvalues.dtype).eps) * jnp.max(jnp.abs(eigenvalues))
    )
    same = jnp.abs(gaps) <= 10 * size
    turned = jnp.where(same, 0, change / jnp.where(same, 1, gaps))
    return (eigenvalues, vectors), (jnp.diagonal(change), vectors @ turned)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
@full_precision
def spectral_function(
    function: Callable, matrix: Float[Array, "n n"], rho: Float[Array, ""]
) -> Float[Array, "n n"]:
    """``U f(lambda, rho) U^T`` of a symmetric matrix ``U lambda U^T``; f is smooth in ``lambda + rho``.

    f acts entry by entry. The derivative (Daleckii & Krein 1965) uses divided differences of f, so it is finite if
    eigenvalues are equal. Second derivatives are not available.
    """
    eigenvalues, vectors = unthreaded_eigh(matrix)
    return (vectors * function(eigenvalues, rho)[None]) @ vectors.T


@spectral_function.defjvp
@full_precision
def _(function, primals, tangents):
    (matrix, rho), (change, change_rho) = primals, tangents
    eigenvalues, vectors = jax.lax.stop_gradient(unthreaded_eigh(jax.lax.stop_gradient(matrix)))
    values, by_rho = jax.jvp(
        lambda r: function(eigenvalues, r), (rho,), (change_rho.astype(rho.dtype),)
    )
    left, right = eigenvalues[:, None], eigenvalues[None]
    gaps, middle = left - right, (left + right) / 2
    near = jnp.abs(gaps) <= 1e-5 * (jnp.abs(middle) + rho)
    along = jnp.ones_like(eigenvalues)
    slopes = jax.vmap(lambda each: jax.jvp(lambda e: function(e, rho), (each,), (along,))[1])(
        middle
    )
    pairs = (values[:, None] - values[None]) / jnp.where(near, 1, gaps)
    inner = vectors.T @ ((change + change.T) / 2) @ vectors
    turned = jnp.where(near, slopes, pairs) * inner + jnp.diag(by_rho)
    return (vectors * values[None]) @ vectors.T, vectors @ turned @ vectors.T


@jax.custom_jvp
def eigvalsh(matrix: Float[Array, "n n"]) -> Float[Array, " n"]:
    """Eigenvalues of the symmetric part of a matrix, ascending.

    The derivatives are those of distinct eigenvalues; for equal ones they are one choice of several.
    """
    return eigh((matrix + matrix.T) / 2)[0]


@eigvalsh.defjvp
@full_precision
def _(primals, tangents):
    eigenvalues, vectors = eigh((primals[0] + primals[0].T) / 2)
    return eigenvalues, jnp.sum(vectors * (tangents[0] @ vectors), axis=0)


def kept(eigenvalues: Float[Array, "*B n"]) -> Array:
    """Which eigenvalues are above round-off, ``n eps`` of the largest; all of them if one is NaN."""
    size = eigenvalues.shape[-1]
    largest = jnp.max(jnp.abs(eigenvalues), axis=-1, keepdims=True)
    return ~(jnp.abs(eigenvalues) <= size * float(jnp.finfo(eigenvalues.dtype).eps) * largest)


def inverse_spectrum(eigenvalues: Float[Array, "*B n"]) -> Float[Array, "*B n"]:
    """``1/lambda`` with zero where lambda is zero to round-off."""
    keep = kept(eigenvalues)
    return jnp.where(keep, 1 / jnp.where(keep, eigenvalues, 1), 0)


@jax.custom_jvp
@full_precision
def pinv(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Pseudo-inverse of a symmetric, possibly indefinite matrix."""
    eigenvalues, vectors = eigh(matrix)
    return (vectors * inverse_spectrum(eigenvalues)[None]) @ vectors.T


@pinv.defjvp
@full_precision
def _(primals, tangents):
    # Golub & Pereyra 1973; written with pinv, so that it can be differentiated again.
    (matrix,), (change,) = primals, tangents
    change = (change + change.T) / 2
    inverse = pinv(matrix)
    outside = jnp.eye(len(matrix), dtype=matrix.dtype) - inverse @ matrix
    spread = outside @ change @ inverse @ inverse
    return inverse, spread + spread.T - inverse @ change @ inverse


def root_spectrum(eigenvalues: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """``sqrt(lambda)`` and its inverse, zero where lambda is zero to round-off or negative."""
    keep = kept(eigenvalues) & ~(eigenvalues <= 0)
    root = jnp.sqrt(jnp.where(keep, eigenvalues, 1))
    return jnp.where(keep, root, 0), jnp.where(keep, 1 / root, 0)


@jax.custom_jvp
@full_precision
def symmetric_roots(
    matrix: Float[Array, "n n"],
) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    """Symmetric root of a positive semi-definite matrix, and the root's pseudo-inverse."""
    eigenvalues, vectors = eigh(matrix)
    root, inverse = root_spectrum(eigenvalues)
    return (vectors * root[None]) @ vectors.T, (vectors * inverse[None]) @ vectors.T


@symmetric_roots.defjvp
@full_precision
def _(primals, tangents):
    # Written with the roots, so that it can be differentiated again.
    (matrix,), (change,) = primals, tangents
    root, inverse = symmetric_roots(matrix)
    outside = jnp.eye(len(matrix), dtype=matrix.dtype) - root @ inverse
    change = (change + change.T) / 2
    by_root = _sylvester(root, outside, change - outside @ change @ outside)
    spread = outside @ by_root @ inverse @ inverse
    return (root, inverse), (by_root, spread + spread.T - inverse @ by_root @ inverse)


@full_precision
def _sylvester(root, outside, change):
    """X with ``R X + X R + Q X Q = C`` for a positive semi-definite R and the projector Q on its null space."""
    eigenvalues, vectors = eigh(jax.lax.stop_gradient(root))
    limit = jnp.sqrt(len(root) * float(jnp.finfo(root.dtype).eps)) / 2 * jnp.max(eigenvalues)
    eigenvalues = jnp.where(eigenvalues <= limit, 0, eigenvalues)
    total = eigenvalues[:, None] + eigenvalues[None]
    total = jnp.where(total == 0, 1, total)
    return jax.lax.custom_linear_solve(
        lambda x: root @ x + x @ root + outside @ x @ outside,
        change,
        lambda _, c: vectors @ ((vectors.T @ c @ vectors) / total) @ vectors.T,
        symmetric=True,
    )
