"""Dense factorisations that can be vmapped on every platform, and spectral functions that can be differentiated.

Under `jax.vmap` a factorisation here is a loop on a CPU: two batched LAPACK calls that XLA runs side by side can wait
for each other's threads for ever (jaxlib 0.10.2, two cores). On accelerators it is a batch. The package calls
no factorisation of `jnp.linalg` anywhere else on arrays of a device (a test reads the sources).

A spectral function ``f(A) = U f(lambda) U^T`` is smooth where eigenvalues are equal, and its eigenvectors are not. The
derivatives here are equations for f(A) itself, so that equal eigenvalues are no special case. What is cut off at
round-off counts as an eigenvalue that stays zero: these are the derivatives along changes that keep the rank.
"""

from collections.abc import Callable
from functools import wraps

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.precision import full_precision


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


@one_by_one
def cholesky_factor(matrix):
    """Lower triangular L with ``L L^T = matrix``; NaN where it is not positive definite. For the inside of solves."""
    factor = jnp.linalg.cholesky(matrix)
    # Of an infinity it would be finite but for the diagonal.
    return jnp.where(jnp.isfinite(jnp.diagonal(factor)).all(), factor, jnp.nan)


@one_by_one
def _eigh(matrix):
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    return jnp.where(jnp.isfinite(eigenvalues).all(), eigenvalues, jnp.nan), vectors


@one_by_one
def _solve(matrix, rhs):
    return jnp.where(jnp.isfinite(matrix).all(), jnp.linalg.solve(matrix, rhs), jnp.nan)


@one_by_one
def _lower_solve(factor, rhs):
    return jax.lax.linalg.triangular_solve(factor, rhs, left_side=True, lower=True)


@one_by_one
def _lower_transpose_solve(factor, rhs):
    return jax.lax.linalg.triangular_solve(
        factor, rhs, left_side=True, lower=True, transpose_a=True
    )


@one_by_one
def orthonormal_columns(matrix):
    """Q of the QR decomposition of a tall matrix."""
    return jnp.linalg.qr(matrix)[0]


@full_precision
def lower_solve(
    factor: Float[Array, "n n"], rhs: Float[Array, "n k"], transpose: bool = False
) -> Float[Array, "n k"]:
    """``L^-1 rhs`` for a lower triangular L, or ``L^-T rhs``; differentiable by ``rhs`` and L."""
    solves = _lower_solve, _lower_transpose_solve
    forward, back = solves[::-1] if transpose else solves
    fixed = jax.lax.stop_gradient(factor)
    return jax.lax.custom_linear_solve(
        lambda x: (factor.T if transpose else factor) @ x,
        rhs,
        solve=lambda _, b: forward(fixed, b),
        transpose_solve=lambda _, b: back(fixed, b),
    )


@full_precision
def positive_solve(matrix: Float[Array, "n n"], rhs: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """``matrix^-1 rhs`` by Cholesky for a positive definite matrix, else NaN."""
    factor = cholesky_factor(jax.lax.stop_gradient(matrix))

    def solve(_, rhs):
        # For a wide right-hand side the inverse and one matmul are cheaper than two solves.
        wide = rhs.shape[1] > len(factor)
        solved = jnp.eye(len(factor), dtype=factor.dtype) if wide else rhs
        solved = _lower_transpose_solve(factor, _lower_solve(factor, solved))
        return solved @ rhs if wide else solved

    return jax.lax.custom_linear_solve(lambda x: matrix @ x, rhs, solve, symmetric=True)


@full_precision
def symmetric_solve(matrix: Float[Array, "n n"], rhs: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """``matrix^-1 rhs`` by LU for a symmetric, indefinite matrix."""
    fixed = jax.lax.stop_gradient(matrix)
    return jax.lax.custom_linear_solve(
        lambda x: matrix @ x, rhs, lambda _, b: _solve(fixed, b), symmetric=True
    )


@jax.custom_jvp
def eigh(matrix: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix.

    The derivative of the eigenvectors is NaN where two eigenvalues are equal: there is none.
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
def eigvalsh(matrix: Float[Array, "n n"]) -> Float[Array, " n"]:
    """Eigenvalues of the symmetric part of a matrix, ascending.

    Their derivatives are those of distinct eigenvalues; among equal ones they are one choice of several.
    """
    return eigh((matrix + matrix.T) / 2)[0]


@eigvalsh.defjvp
@full_precision
def _(primals, tangents):
    eigenvalues, vectors = eigh((primals[0] + primals[0].T) / 2)
    return eigenvalues, jnp.sum(vectors * (tangents[0] @ vectors), axis=0)


def kept(eigenvalues: Float[Array, "*B n"]) -> Array:
    """Which eigenvalues are not zero to round-off, ``n eps`` of the largest; all, where one is NaN."""
    size = eigenvalues.shape[-1]
    largest = jnp.max(jnp.abs(eigenvalues), axis=-1, keepdims=True)
    return ~(jnp.abs(eigenvalues) <= size * jnp.finfo(eigenvalues.dtype).eps * largest)


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
    limit = jnp.sqrt(len(root) * jnp.finfo(root.dtype).eps) / 2 * jnp.max(eigenvalues)
    eigenvalues = jnp.where(eigenvalues <= limit, 0, eigenvalues)
    total = eigenvalues[:, None] + eigenvalues[None]
    total = jnp.where(total == 0, 1, total)
    return jax.lax.custom_linear_solve(
        lambda x: root @ x + x @ root + outside @ x @ outside,
        change,
        lambda _, c: vectors @ ((vectors.T @ c @ vectors) / total) @ vectors.T,
        symmetric=True,
    )
