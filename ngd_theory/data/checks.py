"""Checks that turn a bad array or number into a one-line ``DataError``."""

import numbers

import numpy as np
from numpy.typing import ArrayLike

from ngd_theory.data.errors import DataError
from ngd_theory.errors import shown


def require_matrix(x: ArrayLike, where: str) -> np.ndarray:
    """Return ``x`` as a real 2-D array, or raise ``DataError`` naming ``where``."""
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise DataError(f"{where} hold {array.dtype} values; give real numbers")
    if array.ndim != 2:
        raise DataError(f"{where} have shape {array.shape}; give a 2-D array (rows, features)")
    if array.shape[1] == 0:
        raise DataError(f"{where} have no columns; give at least one")
    return array


def require_finite(x: np.ndarray, where: str) -> None:
    """Raise ``DataError`` naming the first NaN or infinity of the 2-D array ``x``."""
    if x.dtype.kind != "f" or np.isfinite(x).all():
        return
    bad = np.argwhere(~np.isfinite(x))
    row, column = bad[0]
    raise DataError(
        f"{where} hold {len(bad)} NaN or infinite values, first at row {row}, column {column}; "
        "remove or replace them"
    )


def require_count(value: object, name: str, minimum: int) -> int:
    """Return ``value`` as an int of at least ``minimum``, or raise ``DataError`` naming it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < minimum:
        raise DataError(f"{name} is {shown(value)}; give a whole number of at least {minimum}")
    return int(value)
