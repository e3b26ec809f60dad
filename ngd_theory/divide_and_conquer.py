"""Eigenvectors of small symmetric matrices on a CPU, without a call of LAPACK that takes several threads.

Householder reflections make the matrix tridiagonal. The tridiagonal matrix is two halves and a matrix of rank one
(Cuppen 1981). The eigenvalues of the whole are the roots of the secular equation

    1 + rho sum_j z_j^2 / (d_j - lambda) = 0

with the halves' eigenvalues d. The eigenvectors are those of the z for which the computed roots are exact (Gu &
Eisenstat 1994), so they are orthogonal to round-off also where eigenvalues are close. Every step is a product of XLA
or acts entry by entry, but for the eigenvectors of pieces of at most `LEAF` rows.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.householder import reflected, tridiagonal

#: Rows of a matrix for which LAPACK's eigenvalues take one thread (OpenBLAS 0.3.30).
LEAF = 64


def eigh(matrix: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix, to a few n eps of its largest eigenvalue.

    Both are NaN if the matrix is not finite.
    """
    matrix = (matrix + matrix.T) / 2
    largest = jnp.max(jnp.abs(matrix))
    scale = jnp.where(largest > 0, largest, 1)
    diagonal, beside, reflections = tridiagonal(matrix / scale)
    eigenvalues, vectors = _of_tridiagonal(diagonal, beside)
    vectors = reflected(reflections, vectors)
    finite = jnp.isfinite(largest)
    return jnp.where(finite, scale * eigenvalues, jnp.nan), jnp.where(finite, vectors, jnp.nan)


def _of_tridiagonal(diagonal, beside):
    """Eigenvalues, ascending, and eigenvectors of a symmetric tridiagonal matrix."""
    n = len(diagonal)
    if n <= LEAF:
        return jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1))
    half = n // 2
    between = beside[half - 1]
    rho = jnp.abs(between)
    values, vectors = zip(
        _of_tridiagonal(diagonal[:half].at[-1].add(-rho), beside[: half - 1]),
        _of_tridiagonal(diagonal[half:].at[0].add(-rho), beside[half:]),
        strict=True,
    )
    z = jnp.concatenate([vectors[0][-1], jnp.where(between < 0, -1, 1) * vectors[1][0]])
    d = jnp.concatenate(values)
    order = jnp.argsort(d)
    eigenvalues, inner = _updated(d[order], z[order], rho)
    return eigenvalues, jax.scipy.linalg.block_diag(*vectors)[:, order] @ inner


def _updated(d, z, rho):
    """Eigenvalues, ascending, and eigenvectors of ``diag(d) + rho z z^T`` for ascending d and rho >= 0."""
    eps = float(jnp.finfo(d.dtype).eps)
    size = jnp.maximum(jnp.max(jnp.abs(d)), rho)
    size = jnp.where(size > 0, size, 1)
    d, rho = d / size, rho / size

    # What moves no eigenvalue by more than round-off.
    z = jnp.where(rho * jnp.abs(z) > eps / 8, z, 0)
    # Where d are equal, a reflection makes all z but the first 0.
    equal = jnp.diff(d, prepend=-jnp.inf) <= eps**2
    group = jnp.cumsum(~equal)
    together = (group[:, None] == group[None]).astype(d.dtype)
    reached = jnp.sqrt(together @ z**2) * jnp.where(z >= 0, -1, 1)
    mirror = jnp.where(equal, z, z - reached)
    half = together @ mirror**2 / 2
    mirror = mirror / jnp.sqrt(jnp.where(half > 0, half, 1))
    turn = jnp.eye(len(d), dtype=d.dtype) - together * jnp.outer(mirror, mirror)
    z = jnp.where(equal, 0, reached)

    # The eigenvalues that stay as they are come last.
    order = jnp.argsort(z == 0)
    stays, z = d[order], z[order]
    moved = z != 0
    # Those that stay have no weight; they are put where no root is near.
    d = jnp.where(moved, stays, 8)
    origin, offset = _roots(d, rho * z**2, moved)
    eigenvalues = jnp.where(moved, d[origin] + offset, stays)

    # d_j - lambda_i by row j and column i, to the last digit.
    to_roots = d[:, None] - d[origin][None] - offset[None]
    others = moved[:, None] & moved[None] & ~jnp.eye(len(d), dtype=bool)
    apart = jnp.where(others, d[:, None] - d[None], 1)
    ratios = jnp.prod(jnp.where(others, to_roots / apart, 1), axis=1)
    exact = jnp.sqrt(jnp.where(moved, -jnp.diagonal(to_roots) * ratios, 0)) * jnp.sign(z)
    vectors = exact[:, None] / jnp.where(moved[None], to_roots, 1)
    vectors = jnp.where(moved[None], vectors, jnp.eye(len(d), dtype=d.dtype))
    # In two steps, as squares of large numbers are infinite.
    vectors = vectors / jnp.max(jnp.abs(vectors), axis=0, keepdims=True)
    vectors = vectors / jnp.sqrt(jnp.sum(vectors**2, axis=0, keepdims=True))
    ascending = jnp.argsort(eigenvalues)
    return size * eigenvalues[ascending], turn[:, order] @ vectors[:, ascending]


def _roots(d, weights, moved):
    """Roots of ``1 + sum_j w_j / (d_j - lambda)`` as the index of the nearest d and the offset from it.

    Root i lies above d_i and below the next. Offsets are found by bisection of their bits, which order positive
    numbers as their values do. So a tiny offset has all its digits.
    """
    last = ~jnp.append(moved[1:], False)
    gap = jnp.where(last, jnp.sum(weights), jnp.append(jnp.diff(d), 0))
    gap = jnp.where(moved, gap, 1)

    def is_above(origin, offset):
        apart = d[:, None] - d[origin][None]
        return 1 + jnp.sum(weights[:, None] / (apart - offset[None]), axis=0) >= 0

    every = jnp.arange(len(d))
    low_half = is_above(every, gap / 2)
    forward = low_half | last
    origin, sign = jnp.where(forward, every, every + 1), jnp.where(forward, 1, -1).astype(d.dtype)
    integer = jnp.int32 if d.dtype == jnp.float32 else jnp.int64
    as_float = partial(jax.lax.bitcast_convert_type, new_dtype=d.dtype)

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        outside = is_above(origin, sign * as_float(middle)) == forward
        return jnp.where(outside, low, middle), jnp.where(outside, middle, high)

    high = jax.lax.bitcast_convert_type(jnp.where(low_half | ~last, gap / 2, gap), integer)
    bits = jnp.iinfo(integer).bits - 1
    _, high = jax.lax.fori_loop(0, bits, halve, (jnp.zeros_like(high), high))
    return origin, sign * as_float(high)
