"""Activations and the one number the theory needs of them, gamma = P(phi' != 0)."""

from collections.abc import Callable
from dataclasses import dataclass

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
    """

    name: str
    function: Callable
    active_fraction: float

    def __call__(self, u):
        """Apply the function, entry by entry."""
        return self.function(u)


ACTIVATIONS = {
    a.name: a
    for a in (
        Activation("relu", jax.nn.relu, 0.5),
        Activation("tanh", jnp.tanh, 1.0),
        Activation("erf", jax.scipy.special.erf, 1.0),
        Activation("gelu", lambda u: jax.nn.gelu(u, approximate=False), 1.0),
        Activation("identity", lambda u: u, 1.0),
    )
}


def by_name(name: str | Activation) -> Activation:
    """Return the activation called ``name``; an `Activation` passes through."""
    return name if isinstance(name, Activation) else choose(ACTIVATIONS, name, "activation")
