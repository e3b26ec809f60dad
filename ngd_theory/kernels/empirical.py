"""Finite-width neural tangent kernels from a linearisation (docs/theory.md section 1).

All kernels here are unnormalised, ``J J'^T`` without 1/N, rows and columns indexed ``n*C + c``.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.errors import InputError
from ngd_theory.networks import LayerLinearization, Linearization


def layer_kernel(
    layer: LayerLinearization, other: LayerLinearization | None = None
) -> Float[Array, "NC MC"]:
    """``J_l J'_l^T`` of one layer, from its factors.

    ``sum_{t,s} (a[n,t].a'[m,s]) (delta[n,c,t].delta'[m,d,s])``: work ``O(N N' T^2 (P + C^2 M))``,
    memory ``O((N T C)(N' T C))``.
    """
    other = layer if other is None else other
    n, c, t, _ = layer.sensitivities.shape
    m, d, s, _ = other.sensitivities.shape
    a = jnp.einsum("ntp,msp->ntms", layer.inputs, other.inputs)
    delta = jnp.einsum("nctk,mdsk->nctmds", layer.sensitivities, other.sensitivities)
    if t == s == 1:
        kernel = a.reshape(n, 1, m, 1) * delta.reshape(n, c, m, d)
    else:
        kernel = jnp.einsum("ntms,nctmds->ncmd", a, delta)
    return kernel.reshape(n * c, m * d)


def layerwise_ntk(
    lin: Linearization, other: Linearization | None = None
) -> Float[Array, "L NC MC"]:
    """Every layer's kernel ``J_l J'_l^T``, unnormalised.

    Parameters
    ----------
    lin : Linearization
        At N inputs: the rows.
    other : Linearization, optional
        At N' inputs: the columns. ``lin`` itself when None.

    Returns
    -------
    (L, N*C, N'*C) array
        Index ``n*C + c``.

    Raises
    ------
    InputError
        If the two linearisations are of different networks.
    """
    return jnp.stack([layer_kernel(a, b) for a, b in _pairs(lin, other)])


def ntk(lin: Linearization, other: Linearization | None = None) -> Float[Array, "NC MC"]:
    """The neural tangent kernel ``J J'^T``, unnormalised: the sum of `layerwise_ntk` over layers."""
    kernels = [layer_kernel(a, b) for a, b in _pairs(lin, other)]
    return sum(kernels[1:], kernels[0])


def _pairs(lin: Linearization, other: Linearization | None):
    other = lin if other is None else other
    if [layer.layout for layer in lin.layers] != [layer.layout for layer in other.layers]:
        raise InputError("the two linearisations are of networks with different layers")
    return list(zip(lin.layers, other.layers, strict=True))
