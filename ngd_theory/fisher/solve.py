"""Damped solves with symmetric positive semi-definite matrices, and their limit rho -> 0."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.fisher.damping import Damping
from ngd_theory.linalg import cholesky_factor, factored_solve, gram, pinv
from ngd_theory.precision import full_precision
from ngd_theory.pytrees import pytree


def as_rows(x: Float[Array, "*_ p"]) -> Float[Array, "n p"]:
    """One row for each vector along the last axis."""
    return x.reshape(-1, x.shape[-1])


def gram_rank(rows: np.ndarray) -> int:
    """Number of singular values above round-off. It matches the rank that the solvers use. Reads values."""
    singular = np.linalg.svd(np.asarray(rows), compute_uv=False)
    return int(np.sum(singular > gram_floor(singular, max(rows.shape))))


def orthonormal_range(rows: np.ndarray) -> np.ndarray:
    """Orthonormal (n, rank) columns that span those of an (n, P) matrix, with the rank of `gram_rank`; reads values."""
    left, singular, _ = np.linalg.svd(np.asarray(rows), full_matrices=False)
    return left[:, singular > gram_floor(singular, max(rows.shape))]


def gram_floor(singular: np.ndarray, size: int) -> float:
    """Level of a zero singular value: ``sqrt(size * eps)`` of the largest; infinite if its square is out of range."""
    largest, limits = float(np.max(singular, initial=0.0)), np.finfo(singular.dtype)
    if not float(limits.tiny) ** 0.5 < largest < float(limits.max) ** 0.5:
        return np.inf
    return float(np.sqrt(size * limits.eps)) * largest


def smallest_eigenvalue(matrix) -> float:
    """Smallest eigenvalue of a symmetric matrix, at least its round-off level; reads values."""
    eigenvalues = np.linalg.eigvalsh(np.asarray(matrix))
    return max(float(eigenvalues[0]), round_off(eigenvalues))


def smallest_gram_eigenvalue(rows, scale: float) -> float:
    """`smallest_eigenvalue` of ``scale X^T X`` or its Gram matrix, whichever is smaller; reads values."""
    x = np.asarray(rows)
    return smallest_eigenvalue(scale * (x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x))


def but_round_off(rest: Float[Array, "*B p"], whole: Float[Array, "*B p"]) -> Float[Array, "*B p"]:
    """Zero the rows of the difference ``rest`` that are round-off beside the rows ``whole``."""
    floor = 100 * jnp.finfo(rest.dtype).eps * jnp.max(jnp.abs(whole))
    return jnp.where(jnp.max(jnp.abs(rest), axis=-1, keepdims=True) > floor, rest, 0)


def round_off(eigenvalues: np.ndarray) -> float:
    """The level ``n eps max abs(lambda)`` below which an eigenvalue is zero."""
    largest = max(float(np.max(np.abs(eigenvalues))), float(np.finfo(eigenvalues.dtype).tiny))
    return len(eigenvalues) * float(np.finfo(eigenvalues.dtype).eps) * largest


@pytree("matrix", "damping", "inner")
@dataclass(frozen=True)
class DampedMatrix:
    """``matrix + rho I`` of a symmetric positive semi-definite matrix, factored once for many right-hand sides.

    Attributes
    ----------
    matrix : (n, n)
    damping : Damping
    inner : (n, n)
        Cholesky factor of the sum, constant for derivatives; the pseudo-inverse at rho = 0.
    """

    matrix: Array
    damping: Damping
    inner: Array

    @classmethod
    @full_precision
    def of(cls, matrix: Float[Array, "n n"], damping: Damping) -> "DampedMatrix":
        """Factor it. The factor is NaN if the sum is not positive definite at ``rho > 0``."""

        def positive(rho, matrix):
            return cholesky_factor(jax.lax.stop_gradient(shifted(matrix, rho)))

        return cls(
            matrix, damping, damping.select(positive, lambda rho, matrix: pinv(matrix), matrix)
        )

    @full_precision
    def solve(self, rhs: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """``(matrix + rho I)^-1 rhs``, with derivatives of the system; at rho = 0 ``pinv(matrix) rhs``."""

        def positive(rho, matrix, inner, rhs):
            system, factor = shifted(matrix, rho), jax.lax.stop_gradient(inner)
            if self.damping.zero is None:
                # Under vmap this also gets pseudo-inverses, which are no input for a triangular solve.
                eye = jnp.eye(len(factor), dtype=factor.dtype)
                factor = jnp.where(self.damping.value > 0, factor, eye)
            return factored_solve(system, factor, rhs)

        def limit(rho, matrix, inner, rhs):
            return limit_of_inverse(rho, inner, rhs)

        return self.damping.select(positive, limit, self.matrix, self.inner, rhs)


def solve_psd(
    matrix: Float[Array, "n n"], rhs: Float[Array, "n k"], damping: Damping
) -> Float[Array, "n k"]:
    """``(matrix + rho I)^-1 rhs`` by Cholesky; at rho = 0 ``pinv(matrix) rhs`` by eigh.

    A matrix that is not positive definite at ``rho > 0`` gives NaN, which the callers outside jit turn into
    `SingularKernelError`.
    """
    return DampedMatrix.of(matrix, damping).solve(rhs)


def shifted(matrix: Float[Array, "n n"], rho: Float[Array, ""]) -> Float[Array, "n n"]:
    """``matrix + rho I``."""
    return matrix + rho.astype(matrix.dtype) * jnp.eye(len(matrix), dtype=matrix.dtype)


@full_precision
def limit_solve(
    rho: Float[Array, ""] | None, matrix: Float[Array, "n n"], rhs: Float[Array, "n k"]
) -> Float[Array, "n k"]:
    """``pinv(matrix) rhs`` for a symmetric, possibly indefinite matrix.

    ``rho`` is zero or None. Through it the result has a derivative by the damping, ``-pinv(matrix)^2 rhs`` on the
    range of the matrix.
    """
    return limit_of_inverse(rho, pinv(matrix), rhs)


def limit_of_inverse(
    rho: Float[Array, ""] | None, inverse: Float[Array, "n n"], rhs: Float[Array, "n k"]
) -> Float[Array, "n k"]:
    """`limit_solve` with a given pseudo-inverse."""
    found = inverse @ rhs
    return found if rho is None else found - rho.astype(found.dtype) * (inverse @ found)


@full_precision
def precondition_rows(
    rows: Float[Array, "n p"],
    damping: Damping,
    scale: float,
    curvature_rows: Float[Array, "k p"] | None = None,
    combine: Callable[[Array], Array] | None = None,
) -> Float[Array, "m p"]:
    """``C X (scale Y^T Y + rho I)^-1`` for rows X, with Y = ``curvature_rows`` (X itself when None).

    C = ``combine`` is a linear map of rows to m others; None is the identity, m = n. Solved on the smaller side:
    p x p when there are more rows than columns, else the dual n x n (or k x k) form, so the width enters linearly. At
    rho = 0 the inverse is the pseudo-inverse.
    """
    y = rows if curvature_rows is None else curvature_rows
    primal, own = y.shape[0] > y.shape[1], curvature_rows is None
    if own and not primal and combine is not None:
        # The solve has m columns, not p.
        weights = combine(jnp.eye(len(y), dtype=y.dtype))
        return solve_psd(scale * gram(y), weights.T, damping).T @ y
    rows = rows if combine is None else combine(rows)
    if primal:
        return solve_psd(scale * gram(y.T), rows.T, damping).T
    dual = scale * gram(y)
    if own:
        return solve_psd(dual, rows, damping)
    cross = scale * (rows @ y.T)

    def positive(rho, rows, y, dual, cross):
        # Woodbury: rows outside the span of Y keep their 1/rho.
        inner = solve_psd(dual, y, Damping(rho, zero=False))
        return (rows - cross @ inner) / rho.astype(rows.dtype)

    def limit(rho, rows, y, dual, cross):
        twice = limit_solve(None, dual, limit_solve(rho, dual, y))
        return cross @ twice

    return damping.select(positive, limit, rows, y, dual, cross)


@full_precision
def ridge(
    rows: Float[Array, "n p"], weights: Float[Array, " n"], damping: Damping, scale: float
) -> Float[Array, " p"]:
    """``(scale X^T X + rho I)^-1 X^T weights``, on the smaller side of X; the pseudo-inverse at rho = 0."""
    if rows.shape[0] > rows.shape[1]:
        return solve_psd(scale * gram(rows.T), (rows.T @ weights)[:, None], damping)[:, 0]
    return rows.T @ solve_psd(scale * gram(rows), weights[:, None], damping)[:, 0]
