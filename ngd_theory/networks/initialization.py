"""Initial parameters other than those of the NTK parameterisation."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ngd_theory.errors import InputError
from ngd_theory.networks.layers import Dense
from ngd_theory.networks.network import Network


def sparse_init(
    network: Network,
    key,
    num_connections: int = 15,
    scale: float = 1.0,
    bias: float = 0.0,
    dtype=None,
) -> tuple[dict[str, Array], ...]:
    """Draw parameters whose units listen to few inputs each (Martens 2010, section 5).

    Every unit has ``min(num_connections, fan_in)`` incoming weights other than zero, at places
    drawn without replacement; their effective values ``(weight_std / sqrt(fan_in)) W`` are from
    N(0, scale^2). A unit's input neither vanishes nor saturates, however wide the layer before. For tanh
    units Sutskever et al. (2013) take ``scale=0.25, bias=0.5``, which imitates logistic units.

    Parameters
    ----------
    network : Network
        Of `Dense` layers.
    key : jax.random key
    num_connections : int
    scale : float
    bias : float
        Effective value of every bias, where a layer has them.
    dtype : floating dtype, optional
        JAX's default float when None.

    Returns
    -------
    tuple of dict
        Like ``network.init(key)``.

    Raises
    ------
    InputError
        If ``num_connections`` is below 1, or ``scale`` not positive and finite.
    """
    if num_connections < 1:
        raise InputError(f"num_connections is {num_connections}; it must be at least 1")
    if not 0 < scale < float("inf"):
        raise InputError(f"scale is {scale}; it must be positive and finite")
    dtype = jnp.zeros(()).dtype if dtype is None else dtype
    keys = jax.random.split(key, network.depth)
    return tuple(
        _sparse_layer(block.affine, layer_key, num_connections, scale, bias, dtype)
        for block, layer_key in zip(network.blocks, keys, strict=True)
    )


def _sparse_layer(
    layer: Dense, key, num_connections: int, scale: float, bias: float, dtype
) -> dict[str, Array]:
    fan_in, units = layer.layout.weight_shape
    place_key, value_key = jax.random.split(key)
    # The places of the largest of fan_in random numbers: a draw without replacement, for all units.
    scores = jax.random.uniform(place_key, (units, fan_in), jnp.float32)
    _, places = jax.lax.top_k(scores, min(num_connections, fan_in))
    values = jax.random.normal(value_key, places.shape, dtype)
    values *= scale / (layer.weight_std / fan_in**0.5)
    weight = jnp.zeros((fan_in, units), dtype).at[places, jnp.arange(units)[:, None]].set(values)
    if not layer.layout.has_bias:
        return {"weight": weight}
    return {"weight": weight, "bias": jnp.full(units, bias / layer.bias_std, dtype)}
