"""Products with all digits where a factorisation needs them, and the device's own speed where it does not."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: products inside have all digits of their type.

    GPUs multiply float32 with 10 bits (TF32) unless told otherwise. Good enough for activations and gradients, it is
    not for a kernel that is inverted: what is lost grows by its condition number. On a CPU nothing changes.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return wrapped
