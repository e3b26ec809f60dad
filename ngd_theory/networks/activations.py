"""Activations, and the one number that the theory needs: gamma = P(phi' != 0)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from ngd_theory.errors import choose


@dataclass(frozen=True)
class Activation:
    """An entry-wise nonlinearity.

    Attributes
    ----------
    name : str
    function : entry-wise ``array -> array``
    active_fraction : float
        gamma = P(phi'(u) != 0) for a centred Gaussian u (docs/theory.md section 3).
    smooth : bool
        Whether phi has no kink (docs/theory.md section 8).
    """

    made_by: ClassVar[str] = 'one of ngd.networks.ACTIVATIONS, such as "relu"'
    name: str
    function: Callable
    active_fraction: float
    smooth: bool = False

    def __call__(self, u):
        """Apply the function, entry by entry."""
        return self.function(u)


# Named functions, not lambdas: a pickled network refers to them by name, so its copy is equal.
def _relu(u):
    return jax.nn.relu(u)


def _tanh(u):
    return jnp.tanh(u)


def _erf(u):
    return jax.scipy.special.erf(u)


def _gelu(u):
    return jax.nn.gelu(u, approximate=False)


def _identity(u):
    return u


ACTIVATIONS = {
    a.name: a
    for a in (
        Activation("relu", _relu, 0.5),
        Activation("tanh", _tanh, 1.0, smooth=True),
        Activation("erf", _erf, 1.0, smooth=True),
        Activation("gelu", _gelu, 1.0, smooth=True),
        Activation("identity", _identity, 1.0, smooth=True),
    )
}


def by_name(name: str | Activation) -> Activation:
    """Return the activation called ``name``; an `Activation` passes through."""
    return name if isinstance(name, Activation) else choose(ACTIVATIONS, name, "activation")
