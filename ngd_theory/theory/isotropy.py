"""How near a function-space map is to a multiple of the identity (docs/theory.md sections 2 and 3)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.errors import InputError
from ngd_theory.pytrees import pytree


@pytree("constant", "dispersion", "min_eigenvalue", "max_eigenvalue")
@dataclass(frozen=True)
class Isotropy:
    """Summary of a function-space map K.

    Attributes
    ----------
    constant : scalar
        ``tr K / (NC)``, the measured alpha.
    dispersion : scalar
        ``||K - constant I||_F / (constant sqrt(NC))``; 0 exactly when K is isotropic.
    min_eigenvalue, max_eigenvalue : scalar
        Of the symmetric part of K.
    """

    constant: Array
    dispersion: Array
    min_eigenvalue: Array
    max_eigenvalue: Array


def isotropy(map: Float[Array, "NC NC"]) -> Isotropy:
    """Measure the isotropy of a function-space map.

    Parameters
    ----------
    map : (N*C, N*C) array
        As `Approximation.function_space_map` returns it, on the training set.

    Returns
    -------
    Isotropy

    Raises
    ------
    InputError
        If ``map`` is not square.
    """
    if map.ndim != 2 or map.shape[0] != map.shape[1]:
        raise InputError(
            f"the map has shape {map.shape}; isotropy is of a square map, train x train"
        )
    size = map.shape[0]
    constant = jnp.trace(map) / size
    deviation = jnp.linalg.norm(map - constant * jnp.eye(size, dtype=map.dtype))
    eigenvalues = jnp.linalg.eigvalsh((map + map.T) / 2)
    return Isotropy(constant, deviation / (constant * size**0.5), eigenvalues[0], eigenvalues[-1])
