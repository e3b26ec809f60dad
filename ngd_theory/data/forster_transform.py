"""The Forster transform: equal leverages for every input row."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ngd_theory.data.checks import require_count, require_finite, require_matrix, require_positive
from ngd_theory.data.errors import DataError
from ngd_theory.data.transforms import numerical_rank, unit_rows


def forster(
    x: ArrayLike,
    *,
    scale: float | None = None,
    tolerance: float = 1e-11,
    max_iterations: int = 10_000,
) -> tuple[Float[np.ndarray, "N M_0"], Float[np.ndarray, "M_0 M_0"]]:
    """Map the rows linearly, then normalise them, so that ``Y.T @ Y`` is a multiple of I.

    With ``Y = unit_rows(x @ linear_map, scale)`` every row has norm ``scale`` and
    ``Y.T @ Y = (N scale**2 / M_0) I``, so every row has the leverage ``M_0 / N``: for M_0 < N this
    makes the K-FAC map of the input layer isotropic with constant M_0 (docs/theory.md section 3).

    Parameters
    ----------
    x : (N, M_0)
        Full column rank, so N >= M_0.
    scale : float, optional
        Norm of the returned rows; by default sqrt(M_0).
    tolerance : float
        Largest spectral deviation of ``(M_0 / N) U.T @ U`` from I (U the rows at norm 1).
    max_iterations : int
        Number of whiten-and-normalise steps before giving up.

    Returns
    -------
    y : (N, M_0) float64
    linear_map : (M_0, M_0) float64
        Symmetric positive definite with mean eigenvalue 1; unique. Map test rows by
        ``unit_rows(x_test @ linear_map, scale)``.

    Raises
    ------
    DataError
        If N < M_0, ``x`` lacks full column rank, a row is zero, or the iteration does not
        converge. A transform exists when no subspace of dimension k holds k N / M_0 rows or more.
    """
    x = require_matrix(x, "inputs").astype(np.float64)
    require_finite(x, "inputs")
    max_iterations = require_count(max_iterations, "max_iterations", 1)
    tolerance = require_positive(tolerance, "tolerance")
    num_rows, dim = x.shape
    if num_rows < dim:
        raise DataError(
            f"the Forster transform needs at least as many rows as features, got N={num_rows} < "
            f"M_0={dim}; use more rows or a smaller input_dim"
        )
    # The row norms do not change the transform, and equal ones condition the first step best.
    unit = unit_rows(x, 1.0)
    _, singular, directions = np.linalg.svd(unit, full_matrices=False)
    rank = numerical_rank(singular, x.shape)
    if rank < dim:
        raise DataError(
            f"the Forster transform needs full column rank, got rank {rank} < M_0={dim}; drop "
            "constant or collinear features or set a smaller input_dim"
        )
    linear_map = directions.T / singular
    deviation = np.inf
    for _ in range(max_iterations):
        y = unit_rows(unit @ linear_map, 1.0)
        second_moment = y.T @ y * (dim / num_rows)
        deviation = float(np.linalg.norm(second_moment - np.eye(dim), 2))
        if deviation <= tolerance:
            linear_map = _symmetric_factor(linear_map)
            return unit_rows(unit @ linear_map, scale), linear_map
        try:
            factor = np.linalg.cholesky(second_moment)
        except np.linalg.LinAlgError:
            break
        linear_map = np.linalg.solve(factor, linear_map.T).T
        linear_map /= np.abs(linear_map).max()
    raise DataError(
        f"the Forster transform of {num_rows} rows with M_0={dim} did not converge (deviation "
        f"{deviation:.1e} > {tolerance:.1e} after {max_iterations} iterations at most); too many "
        "rows share a subspace: remove duplicated or parallel rows, use more rows, or a smaller "
        "input_dim"
    )


def _symmetric_factor(
    linear_map: Float[np.ndarray, "M_0 M_0"],
) -> Float[np.ndarray, "M_0 M_0"]:
    """Positive part of the polar decomposition: the same map without its free rotation."""
    left, singular, _ = np.linalg.svd(linear_map)
    return (left * (singular / singular.mean())) @ left.T
