"""Input transforms that need no iteration: pure functions of row matrices."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from ngd_theory.data.checks import require_count, require_finite, require_matrix, require_positive
from ngd_theory.data.errors import DataError

_BLOCK_ROWS = 4096
#: Squares of 2^400 and 2^-400, and sums of them, are in range.
_SQUARED = 400


def feature_statistics(
    x: ArrayLike,
) -> tuple[Float[np.ndarray, " M_0"], Float[np.ndarray, " M_0"]]:
    """Mean and (population) standard deviation of every column.

    Parameters
    ----------
    x : (N, M_0)
        Any real dtype; ``uint8`` images are not copied to float as a whole.

    Returns
    -------
    mean, std : (M_0,) float64
        ``std`` is exactly 0 for a constant column.

    Raises
    ------
    DataError
        If ``x`` is not a finite 2-D array or has no rows.
    """
    x = require_matrix(x, "the rows to take statistics of")
    require_finite(x, "the rows to take statistics of")
    if len(x) == 0:
        raise DataError("there are no rows to take statistics of; give at least one")
    scale = _scales(x)
    if np.any(scale != 1):
        mean, std = feature_statistics(x / scale)
        return mean * scale, std * scale
    mean = x.mean(axis=0, dtype=np.float64)
    total = np.zeros(x.shape[1])
    for start in range(0, len(x), _BLOCK_ROWS):
        total += np.square(x[start : start + _BLOCK_ROWS] - mean).sum(axis=0)
    # Rounding of the mean leaves a constant column a tiny variance, so constancy is tested exactly.
    constant = x.min(axis=0) == x.max(axis=0)
    return mean, np.where(constant, 0.0, np.sqrt(total / len(x)))


def _scales(x: np.ndarray) -> Float[np.ndarray, " M_0"]:
    """A power of two close to each column's largest entry if squares or sums leave the range; else 1."""
    largest = np.maximum(*(np.abs(f(axis=0).astype(np.float64)) for f in (x.min, x.max)))
    exponent = np.frexp(largest)[1]
    return np.where(np.abs(exponent) > _SQUARED, np.ldexp(1.0, exponent - 1), 1.0)


def standardise(
    train: ArrayLike, test: ArrayLike, *, reference: ArrayLike | None = None
) -> tuple[Float[np.ndarray, "N M_0"], Float[np.ndarray, "N_test M_0"]]:
    """Shift and scale every feature to mean 0 and standard deviation 1.

    The statistics are those of the training rows, never of the test rows. Features that are
    constant there carry no information about the training set and become 0 in both outputs.

    Parameters
    ----------
    train : (N, M_0)
    test : (N_test, M_0)
    reference : (N_ref, M_0), optional
        Training rows to take the statistics of in place of ``train``, usually a larger pool that
        holds it. With ``reference=None`` the N outputs sum to zero, so their rank is at most
        N - 1: for N <= M_0 a network without biases then misses the full-rank condition of K-FAC.

    Returns
    -------
    train : (N, M_0) float64
    test : (N_test, M_0) float64

    Raises
    ------
    DataError
        If an array is not 2-D and finite, the widths differ, or a result is beyond the range of float64.
    """
    train = require_matrix(train, "training inputs")
    test = require_matrix(test, "test inputs")
    rows = train if reference is None else require_matrix(reference, "reference inputs")
    for x, where in ((train, "training inputs"), (test, "test inputs")):
        require_finite(x, where)
        if x.shape[1] != rows.shape[1]:
            raise DataError(
                f"{where} have {x.shape[1]} features but the statistics have {rows.shape[1]}; "
                "give all the same width"
            )
    if len(rows) and np.any((scale := _scales(rows)) != 1):
        with np.errstate(over="ignore"):
            train, test, rows = train / scale, test / scale, rows / scale
    mean, std = feature_statistics(rows)
    varies = std > 0
    gain = np.where(varies, 1 / np.where(varies, std, 1.0), 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        found = (train - mean) * gain, (test - mean) * gain
    _require_range("standardised", *found)
    return found


def _require_range(what: str, train: np.ndarray, test: np.ndarray) -> None:
    for x, where in ((train, "training inputs"), (test, "test inputs")):
        if not np.isfinite(x).all():
            raise DataError(f"{what} {where} are beyond the range of float64; scale the rows first")


def unit_rows(x: ArrayLike, scale: float | None = None) -> Float[np.ndarray, "N M_0"]:
    """Scale every row to the Euclidean norm ``scale``.

    Parameters
    ----------
    x : (N, M_0)
    scale : float, optional
        Norm of the returned rows; by default sqrt(M_0), so an entry has mean square 1.

    Returns
    -------
    (N, M_0) float64

    Raises
    ------
    DataError
        If ``x`` is not 2-D and finite, ``scale`` is not positive, or a row is zero.
    """
    x = require_matrix(x, "inputs").astype(np.float64)
    require_finite(x, "inputs")
    scale = float(np.sqrt(x.shape[1])) if scale is None else require_positive(scale, "scale")
    largest = np.abs(x).max(axis=1, keepdims=True)
    zero = np.flatnonzero(largest == 0)
    if zero.size:
        raise DataError(
            f"input row {zero[0]} is zero ({zero.size} such of {len(x)}) and has no direction to "
            "normalise; remove it, or choose other features or preprocessing"
        )
    # Dividing by the largest entry first keeps the squares from over- or underflowing.
    x = x / largest
    return x * (scale / np.linalg.norm(x, axis=1, keepdims=True))


def principal_components(
    train: ArrayLike, test: ArrayLike, num_components: int
) -> tuple[Float[np.ndarray, "N K"], Float[np.ndarray, "N_test K"]]:
    """Coordinates of the rows along the leading principal directions of the training rows.

    The rows are not centred here; standardise them first. Images have constant and collinear
    pixels, so this is the step that gives the Forster transform its full column rank.

    Parameters
    ----------
    train : (N, M_0)
    test : (N_test, M_0)
    num_components : int
        K, at most the rank of ``train``.

    Returns
    -------
    train : (N, K) float64
    test : (N_test, K) float64

    Raises
    ------
    DataError
        If ``num_components`` exceeds the rank of ``train``, an array is not 2-D and finite, or a result is beyond the
        range of float64.
    """
    train = require_matrix(train, "training inputs")
    test = require_matrix(test, "test inputs")
    require_finite(train, "training inputs")
    require_finite(test, "test inputs")
    num_components = require_count(num_components, "num_components", 1)
    if train.shape[1] != test.shape[1]:
        raise DataError(
            f"training inputs have {train.shape[1]} features but test inputs {test.shape[1]}; "
            "give both the same width"
        )
    scale = float(np.max(_scales(train), initial=1.0)) if len(train) else 1.0
    _, singular, directions = np.linalg.svd(train.astype(np.float64) / scale, full_matrices=False)
    rank = numerical_rank(singular, train.shape)
    if num_components > rank:
        raise DataError(
            f"{num_components} principal components were asked for but the {len(train)} training "
            f"rows have rank {rank}; ask for at most {rank} or use more rows"
        )
    directions = directions[:num_components]
    # A singular vector's sign is arbitrary; fixing it keeps results the same across LAPACKs.
    peak = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    directions = directions * np.sign(peak)
    with np.errstate(over="ignore", invalid="ignore"):
        found = train @ directions.T, test @ directions.T
    _require_range("projected", *found)
    return found


def numerical_rank(singular: Float[np.ndarray, " K"], shape: tuple[int, ...]) -> int:
    """Rank from the singular values (K,) of a matrix of ``shape``, with NumPy's usual tolerance."""
    if singular.size == 0:
        return 0
    return int((singular > singular.max() * max(shape) * np.finfo(np.float64).eps).sum())
