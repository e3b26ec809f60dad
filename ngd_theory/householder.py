"""Householder reflections for small problems on a CPU, without a call of LAPACK that takes several threads.

A reflection is ``1 - v v^T`` with ``|v|^2 = 2``, or 1 with v = 0. Those of `PANEL` columns are found one by one and
applied together, by products of XLA (Schreiber & Van Loan 1989). v are kept as (panels, n, PANEL).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: Reflections that are applied together.
PANEL = 20


def orthonormal_columns(matrix: Float[Array, "p n"]) -> Float[Array, "p n"]:
    """Q of the QR decomposition of a tall matrix; of orthonormal columns also if its rank is less than n."""
    p, n = matrix.shape
    panels = -(-n // PANEL)
    rows = jnp.arange(p)

    def reflect(j, found, start):
        block, v = found
        k = start + j
        new, _ = _reflector(jnp.where(rows >= k, block[:, j], 0), k)
        return block - jnp.outer(new, new @ block), v.at[:, j].set(new)

    def panel(matrix, start):
        block = jax.lax.dynamic_slice_in_dim(matrix, start, PANEL, axis=1)
        none = jnp.zeros_like(block)
        _, v = jax.lax.fori_loop(0, PANEL, lambda j, found: reflect(j, found, start), (block, none))
        return _reflected_by(v, matrix, transpose=True), v

    padded = jnp.pad(matrix, ((0, 0), (0, panels * PANEL - n)))
    _, reflections = jax.lax.scan(panel, padded, jnp.arange(0, panels * PANEL, PANEL))
    return reflected(reflections, jnp.eye(p, n, dtype=matrix.dtype))


def tridiagonal(matrix: Float[Array, "n n"]) -> tuple[Array, Array, Array]:
    """Diagonal (n,) and next diagonal (n - 1,) of ``Q^T A Q`` for a symmetric A, and the reflections in Q.

    A is updated once for each panel, after its last reflection (Dongarra, Sorensen & Hammarling 1989).
    """
    n, rows = len(matrix), jnp.arange(len(matrix))

    def reflect(j, found, matrix, start):
        # The matrix is `matrix - v w^T - w v^T`.
        v, w, beside = found
        k = start + j
        column = jnp.where(rows > k, matrix[k] - v @ w[k] - w @ v[k], 0)
        new, reached = _reflector(column, jnp.minimum(k + 1, n - 1))
        image = matrix @ new - v @ (w.T @ new) - w @ (v.T @ new)
        image = image - (new @ image) / 2 * new
        return v.at[:, j].set(new), w.at[:, j].set(image), beside.at[k].set(reached)

    def panel(found, start):
        matrix, beside = found
        none = jnp.zeros((n, PANEL), matrix.dtype)
        v, w, beside = jax.lax.fori_loop(
            0, PANEL, lambda j, found: reflect(j, found, matrix, start), (none, none, beside)
        )
        pairs = jnp.concatenate([v, w], 1) @ jnp.concatenate([w, v], 1).T
        return (matrix - pairs, beside), v

    starts = jnp.arange(0, n, PANEL)
    beside = jnp.zeros(len(starts) * PANEL, matrix.dtype)
    (matrix, beside), reflections = jax.lax.scan(panel, (matrix, beside), starts)
    return jnp.diagonal(matrix), beside[: n - 1], reflections


def reflected(
    reflections: Float[Array, "panels n b"], vectors: Float[Array, "n k"]
) -> Float[Array, "n k"]:
    """``Q vectors`` for Q the product of all reflections, the first on the left."""

    def panel(vectors, v):
        return _reflected_by(v, vectors), None

    return jax.lax.scan(panel, vectors, reflections, reverse=True)[0]


def _reflector(column, first):
    """The v that reflects a column onto a multiple of the unit vector ``first``, and the multiple."""
    # v does not depend on the column's scale, and squares of small numbers are 0.
    largest = jnp.max(jnp.abs(column))
    scale = jnp.where(largest > 0, largest, 1)
    column = column / scale
    length = jnp.sqrt(column @ column)
    entry = column[first]
    reached = jnp.where(entry >= 0, -length, length)
    half = length * (length + jnp.abs(entry))
    new = column.at[first].add(-reached) / jnp.sqrt(jnp.where(half > 0, half, 1))
    return new, scale * reached


def _reflected_by(v, vectors, transpose=False):
    """``(H_1 .. H_b) vectors``, or its transpose, for the b reflections of a panel."""
    eye = jnp.eye(v.shape[1], dtype=v.dtype)
    inner = jax.lax.linalg.triangular_solve(jnp.triu(v.T @ v, 1) + eye, eye, left_side=True)
    return vectors - v @ ((inner.T if transpose else inner) @ (v.T @ vectors))
