"""The lazy family: the same network, rescaled so that its parameters move less (docs/theory.md, section 8)."""

import jax.numpy as jnp

from ngd_theory.arguments import is_known
from ngd_theory.errors import InputError


def rescaled(outputs, first, laziness):
    """``f_0 + (f - f_0)/epsilon``: outputs of the network of Chizat, Oyallon & Bach (2019).

    Parameters
    ----------
    outputs, first : (N, C)
        f and f_0.
    laziness : scalar array
        epsilon; at 1 the outputs are returned unchanged, to the last digit.
    """
    return jnp.where(laziness == 1, outputs, first + (outputs - first) / laziness)


def check_laziness(laziness) -> None:
    """Raise `InputError` for a laziness that is not in (0, 1]."""
    if not is_known(laziness) or not 0 < laziness <= 1:
        raise InputError(f"laziness is {laziness}; it must be a number above 0 and at most 1")
