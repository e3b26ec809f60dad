"""Checks that turn a bad array or number into a one-line ``DataError``."""

import numbers
import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ngd_theory.arguments import is_number
from ngd_theory.data.errors import DataError
from ngd_theory.errors import shown


def require_matrix(x: ArrayLike, where: str) -> np.ndarray:
    """Return ``x`` as a real 2-D array, or raise ``DataError`` naming ``where``."""
    try:
        array = np.asarray(x)
    except ValueError:
        raise DataError(f"{where} are rows of several lengths; give a 2-D array") from None
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


def require_positive(value: Any, name: str) -> float:
    """Return ``value`` as a positive, finite float, or raise ``DataError`` naming it."""
    if not is_number(value) or not 0 < value < np.inf:
        raise DataError(f"{name} is {shown(value)}; give a positive number")
    return float(value)


def require_flag(value: object, name: str) -> bool:
    """Return ``value`` as a bool, or raise ``DataError`` naming it."""
    if not isinstance(value, bool | np.bool_):
        raise DataError(f"{name} is {shown(value)}; give True or False")
    return bool(value)


def require_path(value: object, name: str) -> str | os.PathLike[str]:
    """Return ``value``, or raise ``DataError`` naming it unless it is a text or a path."""
    if not isinstance(value, str | os.PathLike):
        raise DataError(f"{name} is {shown(value)}; give a text or a path")
    return value


def require_count(value: object, name: str, minimum: int) -> int:
    """Return ``value`` as an int of at least ``minimum``, or raise ``DataError`` naming it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < minimum:
        raise DataError(f"{name} is {shown(value)}; give a whole number of at least {minimum}")
    return int(value)
