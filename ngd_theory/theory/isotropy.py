"""How near a function-space map is to a multiple of the identity (docs/theory.md sections 2 and 3)."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.arguments import check_range, is_known
from ngd_theory.errors import InputError, shown
from ngd_theory.linalg import eigvalsh
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
        ``||K - constant I||_F / (abs(constant) sqrt(NC))``; 0 exactly when K is isotropic, never negative, NaN where
        the constant is 0.
    min_eigenvalue, max_eigenvalue : scalar
        Of the symmetric part of K.
    """

    constant: Array
    dispersion: Array
    min_eigenvalue: Array
    max_eigenvalue: Array


def isotropy(map: Any) -> Isotropy:
    """Measure the isotropy of a function-space map.

    Parameters
    ----------
    map : (N*C, N*C) array
        As `Approximation.function_space_map` returns it on the training set: a real JAX or NumPy array. Integers are
        converted to floats. Inside jit only its shape and type are checked.

    Returns
    -------
    Isotropy

    Raises
    ------
    InputError
        If ``map`` is not a square array of real numbers, has a NaN or infinity, or its trace is not positive. In the
        last case K contracts no residual and has no isotropy constant.

    Examples
    --------
    >>> import jax, ngd_theory as ngd
    >>> net = ngd.networks.mlp(8, [64, 64], 1, "tanh")
    >>> params = net.init(jax.random.key(0))
    >>> x = jax.random.normal(jax.random.key(1), (4, 8))
    >>> lin = ngd.networks.linearize(net, params, x)
    >>> k = ngd.fisher.by_name("kfac").function_space_map(lin, damping=0.0)
    >>> found = ngd.theory.isotropy(k)
    >>> round(float(found.constant), 3), bool(found.dispersion < 1e-3)
    (9.0, True)
    """
    return summarise(require_map(map))


def require_map(map: Any, name: str = "the map") -> Array:
    """A function-space map as a floating JAX array.

    Raises
    ------
    InputError
        See `isotropy`.
    """
    map = require_square(map, name)
    if is_known(map):
        finite, constant = (x.item() for x in _look(map))
        if not finite:
            raise InputError(
                f"{name} has a NaN or infinity: a solve broke down; raise the damping, use float64, or see "
                "ngd_theory.theory.check_conditions"
            )
        if not constant > 0:
            raise InputError(
                f"{name} has the trace {len(map) * constant:.3g}, which is not positive: it contracts no "
                "residual, and no isotropy constant or step size is read off it; see ngd_theory.theory.check_conditions"
            )
    return map


def require_square(map: Any, name: str = "the map") -> Array:
    """A square array of real numbers as a floating JAX array; values are read only if they may be out of range.

    Raises
    ------
    InputError
        For anything else.
    """
    shape, dtype = getattr(map, "shape", None), getattr(map, "dtype", None)
    if shape is None or dtype is None:
        raise InputError(f"{name} is {shown(map)}, not an array: jax.numpy.asarray(map)")
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise InputError(
            f"{name} has shape {tuple(shape)}; it must be a square map, train x train, of one row at least"
        )
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise InputError(f"{name} has numbers of type {dtype}; they must be real")
    check_range(name, map, jnp.zeros(()).dtype)
    # Convert to JAX's own type first: JAX warns if it is asked for a wider one.
    found = jnp.asarray(map)
    if not jnp.issubdtype(dtype, jnp.floating):
        return found.astype(jnp.zeros(()).dtype)
    return found.astype(np.promote_types(found.dtype, np.float32))


@jax.jit
def _look(map):
    # The mean may be in range if the sum is not.
    return jnp.isfinite(map).all(), jnp.sum(jnp.diagonal(map) / len(map))


@jax.jit
def summarise(map: Float[Array, "NC NC"]) -> Isotropy:
    """`isotropy` without its checks, for any square map, also with dead units or indefinite solves."""
    size = map.shape[0]
    map, part = brought_into_range(map)
    constant = jnp.trace(map) / size
    # Divide first: squares of large and of tiny numbers are out of range.
    scaled = map / jnp.where(constant == 0, 1, jnp.abs(constant))
    deviation = jnp.linalg.norm(scaled - jnp.sign(constant) * jnp.eye(size, dtype=map.dtype))
    dispersion = jnp.where(constant == 0, jnp.nan, deviation / size**0.5)
    eigenvalues = eigvalsh(map)
    return Isotropy(constant / part, dispersion, eigenvalues[0] / part, eigenvalues[-1] / part)


def brought_into_range(map: Float[Array, "NC NC"]) -> tuple[Array, Array]:
    """The map times a number, and that number: 1 unless sums of entries may be out of range."""
    # A power of two, so no digit is lost.
    root = 2.0 ** (jnp.finfo(map.dtype).maxexp // 2)
    part = jnp.where(jnp.max(jnp.abs(map)) > root, 1 / root, 1).astype(map.dtype)
    return map * part, part
