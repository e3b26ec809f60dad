"""Full-precision products where a factorisation needs them; elsewhere the device's default."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: products inside use the full precision of their type.

    By default GPUs multiply float32 with 10 bits (TF32). That is enough for activations and gradients, but not for a
    kernel that is inverted: its condition number multiplies the error. On a CPU nothing changes.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return wrapped
