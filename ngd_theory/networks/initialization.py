"""The standard parameterisation, and initial parameters other than those of the NTK."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ngd_theory.arguments import check_range, checked
from ngd_theory.errors import InputError
from ngd_theory.networks.checks import require_floating
from ngd_theory.networks.layers import Affine
from ngd_theory.networks.network import Network


@checked
def standard_parameterization(network: Network) -> Network:
    """The same network with ``u = W h + b`` in every layer, no factor in front.

    In the terms of `Affine`: ``weight_std = sqrt(fan_in)``, ``bias_std = 1``; a layer without bias gets none.
    Draw its parameters with `scaled_init` or `sparse_init`: entries N(0, 1) saturate every unit.
    """
    standard = network.with_layers([layer.standard() for layer in network.affine])
    return replace(standard, readout_scale=1.0)


@checked
def scaled_init(
    network: Network, key, gain: float = 2.0, dtype=None
) -> tuple[dict[str, Array], ...]:
    """Draw parameters whose effective weights are from N(0, gain / fan_in), biases 0 (He et al. 2015).

    Parameters
    ----------
    network : Network
        In any parameterisation.
    key : jax.random key
    gain : float
        The default 2 keeps the variance of a signal through ReLU layers.
    dtype : floating dtype, optional
        JAX's default float when None.

    Raises
    ------
    InputError
        If ``gain`` is not positive and finite.
    """
    if not 0 < gain < float("inf"):
        raise InputError(f"gain is {gain}; it must be positive and finite")
    layers = _affine(network, "scaled_init")
    drawn = network.init(key, dtype)
    return tuple(
        {
            name: value * (gain**0.5 / y.weight_std) if name == "weight" else 0 * value
            for name, value in layer.items()
        }
        for y, layer in zip(layers, drawn, strict=True)
    )


@checked
def sparse_init(
    network: Network,
    key,
    num_connections: int = 15,
    scale: float = 1.0,
    bias: float = 0.0,
    dtype=None,
) -> tuple[dict[str, Array], ...]:
    """Draw parameters that connect each unit to few inputs (Martens 2010, section 5).

    Every unit has ``min(num_connections, fan_in)`` incoming weights other than zero, at places drawn
    without replacement. Their effective values ``(weight_std / sqrt(fan_in)) W`` are from N(0, scale^2).
    So the input of a unit neither vanishes nor saturates, however wide the previous layer is. For tanh
    units Sutskever et al. (2013) take ``scale=0.25, bias=0.5``, which imitates logistic units.

    Parameters
    ----------
    network : Network
        In a convolution each unit is connected to few of the numbers in a patch.
    key : jax.random key
    num_connections : int
    scale : float
    bias : float
        Effective value of every bias, if a layer has biases.
    dtype : floating dtype, optional
        JAX's default float when None.

    Returns
    -------
    tuple of dict
        Like ``network.init(key)``.

    Raises
    ------
    InputError
        If ``num_connections`` is below 1, ``scale`` is not positive and finite, ``bias`` is not finite, one of them
        is beyond the range of ``dtype``, or ``dtype`` is not floating.
    """
    if num_connections < 1:
        raise InputError(f"num_connections is {num_connections}; it must be at least 1")
    if not 0 < scale < float("inf"):
        raise InputError(f"scale is {scale}; it must be positive and finite")
    if not abs(bias) < float("inf"):
        raise InputError(f"bias is {bias}; it must be finite")
    dtype = require_floating(dtype)
    check_range("scale", scale, dtype, positive=True)
    check_range("bias", bias, dtype)
    layers = _affine(network, "sparse_init")
    keys = jax.random.split(key, network.depth)
    return tuple(
        _sparse_layer(layer, layer_key, num_connections, scale, bias, dtype)
        for layer, layer_key in zip(layers, keys, strict=True)
    )


def _affine(network: Network, what: str) -> list[Affine]:
    """The layers, all of which must have inputs and units."""
    found = [layer for layer in network.affine if isinstance(layer, Affine)]
    if len(found) < network.depth:
        raise InputError(
            f"{what} draws weights of dense layers and convolutions; this network has others: take network.init"
        )
    return found


def _sparse_layer(
    layer: Affine, key, num_connections: int, scale: float, bias: float, dtype
) -> dict[str, Array]:
    fan_in, units = layer.layout.fan_in, layer.units
    place_key, value_key = jax.random.split(key)
    # The largest of fan_in random numbers mark the places: a draw without replacement, for all units at once.
    scores = jax.random.uniform(place_key, (units, fan_in), jnp.float32)
    _, places = jax.lax.top_k(scores, min(num_connections, fan_in))
    values = jax.random.normal(value_key, places.shape, dtype)
    values *= scale / layer.scale
    weight = jnp.zeros((fan_in, units), dtype).at[places, jnp.arange(units)[:, None]].set(values)
    weight = weight.reshape(layer.layout.weight_shape)
    if not layer.layout.has_bias:
        return {"weight": weight}
    return {"weight": weight, "bias": jnp.full(units, bias / layer.bias_std, dtype)}
