"""Sums of squares of columns that evolve under maps K and Q, after any number of steps and at infinity.

On the training set ``D_t = (I - eta K)^t D_0``; at other inputs ``D'_t = D'_0 - W_t D_0`` with
``W_t = eta Q sum_{s<t} (I - eta K)^s``. A symmetric K is treated in its eigenbasis, where no powers of matrices are
needed; for any other K they are computed by doubling.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ngd_theory.dynamics.ensembles import by_doubling
from ngd_theory.linalg import differentiated_as, eigh
from ngd_theory.numerics import geometric_sum, norm, power
from ngd_theory.precision import full_precision

#: The largest finite number of steps; `_by_powers` takes it for infinity.
LAST_TIME = 2**31 - 1

Columns = tuple[Array, Array]


def second_moments(
    symmetric: bool,
    ends: bool,
    k: Float[Array, "n n"],
    q: Float[Array, "m n"] | None,
    start: Columns,
    test_start: Columns | None,
    step_size: Float[Array, ""],
    steps: Int[Array, " T"],
) -> list[tuple[Array, Array, Array]]:
    """Sums of squares at all times, for the training set and for the test set if there is one.

    Parameters
    ----------
    symmetric : bool
        Whether K is symmetric; then only its symmetric part is used.
    ends : bool
        Whether to append infinity to the times; the result is NaN there if the outputs have no limit.
    k, q : maps
    start, test_start : pair of columns
        Means, and roots of covariances.
    step_size : scalar array
    steps : (T,) array of int

    Returns
    -------
    list of ((T,) array, (T,) array, (T,) array)
        For each set: squares of the mean averaged over its columns, squares of all columns of the root, ``|W|_F^2``.
    """
    way = partial(_by_powers, ends)
    if symmetric:
        # Eigenvectors of an isotropic K have no derivatives, but these sums have.
        way = differentiated_as(way)(partial(_by_spectrum, ends))
    return way(k, q, start, test_start, step_size, steps)


def _squared(rows: tuple[Array, Array]) -> tuple[Array, Array]:
    """Sum of squares of the mean, averaged over its columns, and of all columns of the root."""
    mean, root = rows
    return jnp.sum(mean**2) / mean.shape[1], jnp.sum(root**2)


@full_precision
def _by_spectrum(ends, k, q, start, test_start, step_size, steps):
    """`second_moments` in the eigenbasis of K."""
    eigenvalues, vectors = eigh((k + k.T) / 2)
    rates, times = step_size * eigenvalues[None], steps[:, None]
    decay, travelled = power(1 - rates, times), step_size * geometric_sum(rates, times)
    images = vectors * eigenvalues[None], None if q is None else q @ vectors
    if ends:
        # Eigenvalues below rounding count as zero. The asymmetry of K shows how much the solves have lost.
        floor = 10 * len(k) * jnp.finfo(k.dtype).eps * jnp.max(jnp.abs(eigenvalues))
        stays = jnp.abs(eigenvalues) <= floor + norm(k - k.T)
        converges = jnp.all(stays | (jnp.abs(1 - rates[0]) < 1))
        if images[1] is not None:
            # Directions that K does not see must not move a test output.
            stray = norm(jnp.where(stays[None], images[1], 0))
            converges &= stray <= jnp.finfo(k.dtype).eps ** 0.5 * norm(images[1])
        inverse = jnp.where(stays, 0, 1 / jnp.where(stays, 1, eigenvalues))
        last = [stays.astype(k.dtype), inverse]
        last = [jnp.where(converges, row, jnp.nan)[None] for row in last]
        decay, travelled = (
            jnp.concatenate(rows) for rows in zip((decay, travelled), last, strict=True)
        )
    inside = jax.tree.map(lambda columns: vectors.T @ columns, start)
    squares = [jnp.sum(image**2, axis=0) for image in images if image is not None]

    def at(factors):
        left, passed = factors
        sets = [jax.tree.map(lambda c: vectors @ (left[:, None] * c), inside)]
        if q is not None:
            moved = jax.tree.map(lambda c: images[1] @ (passed[:, None] * c), inside)
            sets.append(jax.tree.map(jnp.subtract, test_start, moved))
        gains = [jnp.sum(lengths * passed**2) for lengths in squares]
        return [(*_squared(rows), gain) for rows, gain in zip(sets, gains, strict=True)]

    return jax.lax.map(at, (decay, travelled))


@full_precision
def _by_powers(ends, k, q, start, test_start, step_size, steps):
    """The same from powers of ``I - eta K``, which need no eigenvectors."""

    def at(powers):
        decay, total = powers
        sets = [jax.tree.map(lambda c: decay @ c, start)]
        gains = [jnp.sum((k @ total) ** 2)]
        if q is not None:
            weights = q @ total
            moved = jax.tree.map(lambda c: weights @ c, start)
            sets.append(jax.tree.map(jnp.subtract, test_start, moved))
            gains.append(jnp.sum(weights**2))
        return [(*_squared(rows), gain) for rows, gain in zip(sets, gains, strict=True)]

    def after(t):
        decay, total = by_doubling(step_size * k, t[None])
        return decay[0], step_size * total[0]

    found = jax.lax.map(lambda t: at(after(t)), steps)
    if ends:
        decay, total = after(jnp.asarray(LAST_TIME, jnp.int32))
        # If the decay is zero up to rounding, the sum is the limit.
        gone = norm(decay) <= len(k) * jnp.finfo(k.dtype).eps
        last = at(tuple(jnp.where(gone, x, jnp.nan) for x in (decay, total)))
        found = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), found, last)
    return found
