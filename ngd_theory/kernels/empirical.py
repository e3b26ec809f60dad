"""Finite-width neural tangent kernels from a linearisation (docs/theory.md section 1).

All kernels here are unnormalised, ``J J'^T`` without 1/N. Rows and columns have the index ``n*C + c``.
"""

from functools import partial
from math import prod

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError
from ngd_theory.linalg import gram
from ngd_theory.networks import LayerLinearization, Linearization
from ngd_theory.precision import full_precision

#: Bytes that a contraction over positions may hold beside its arguments and its result.
MEMORY_BUDGET = 2**28


@checked
def layer_kernel(
    layer: LayerLinearization,
    other: LayerLinearization | None = None,
    *,
    memory_budget: int = MEMORY_BUDGET,
) -> Float[Array, "NC MC"]:
    """``J_l J'_l^T`` of one layer, from its factors.

    ``sum_{t,s} (a[n,t].a'[m,s]) (delta[n,c,t].delta'[m,d,s])``. With one position (dense layers) this is the
    entry-wise product of two Gram matrices. With more, it is computed in the way that takes fewer operations:

    - Gram matrices of all positions, ``N N' T T' (P + C C' M)``, some samples at a time;
    - rows of the Jacobian, ``(N C T + N' C' T') P M + N C N' C' P M``, some units at a time.

    Parameters
    ----------
    layer, other : LayerLinearization
        Of N and N' samples; ``other = None`` means ``layer``.
    memory_budget : int
        Bytes beside the arguments and the result. At least one sample's or unit's share is always held.

    Returns
    -------
    (N*C, N'*C) array
        Index ``n*C + c``.

    Raises
    ------
    InputError
        If the two layers have different inputs or units, or ``memory_budget`` is below 1.
    """
    if memory_budget < 1:
        raise InputError(f"memory_budget is {memory_budget}; it must be at least 1 byte")
    # Inside jit one layer given twice would look like two; None stays None.
    other = None if other is layer else other
    given = [layer] if other is None else [layer, other]
    sizes = [(one.inputs.shape[-1], one.sensitivities.shape[-1]) for one in given]
    if other is not None:
        other = other.in_coordinates_of(layer)
    if given[0].layout != given[-1].layout:
        raise InputError(
            f"the layers have {sizes[0]} and {sizes[-1]} inputs and units; give one layer at two sets of samples"
        )
    return _layer_kernel(layer, other, memory_budget)


@partial(jax.jit, static_argnums=2)
@full_precision
def _layer_kernel(layer: LayerLinearization, other: LayerLinearization | None, memory_budget: int):
    other = layer if other is None else other
    n, c, t, k = layer.sensitivities.shape
    m, d, s, _ = other.sensitivities.shape
    if t == s == 1:
        return _product_of_grams(layer, other).reshape(n * c, m * d)
    p = layer.inputs.shape[-1]
    by_grams = n * m * t * s * (p + c * d * (k + 1))
    by_rows = (n * c * t + m * d * s + n * c * m * d) * p * k
    if by_rows < by_grams:
        return weighted_layer_kernel(layer, other, memory_budget=memory_budget)
    held = layer.inputs.itemsize * t * m * s * (1 + c * d)
    samples = max(1, min(n, memory_budget // held))

    def one_sample(sample):
        a, delta = sample
        one = LayerLinearization(a[None], delta[None], layer.layout)
        return _over_positions(one, other)[0]

    if samples == n:
        kernel = _over_positions(layer, other)
    else:
        factors = (layer.inputs, layer.sensitivities)
        kernel = jax.lax.map(one_sample, factors, batch_size=samples)
    return kernel.reshape(n * c, m * d)


@full_precision
def weighted_layer_kernel(
    layer: LayerLinearization,
    other: LayerLinearization,
    weights: Float[Array, "P M"] | None = None,
    *,
    memory_budget: int = MEMORY_BUDGET,
) -> Float[Array, "NC MC"]:
    """``J_l diag(weights) J'_l^T`` from rows of the Jacobians, some units at a time; see `layer_kernel`."""
    n, c, _, k = layer.sensitivities.shape
    m, d, _, _ = other.sensitivities.shape
    p = layer.inputs.shape[-1]
    held = layer.inputs.itemsize * (n * c + m * d) * p
    units = max(1, min(k, memory_budget // held))

    def rows(linearization, delta):
        found = jnp.einsum("ntp,nctm->ncpm", linearization.inputs, delta)
        return found.reshape(prod(found.shape[:2]), -1)

    def add(total, wanted):
        # The last batch starts early enough to be whole; units that it repeats have weight 0.
        first = jnp.minimum(wanted, k - units)
        fresh = jnp.arange(units) + first >= wanted

        def batch(x):
            return jax.lax.dynamic_slice_in_dim(x, first, units, axis=-1)

        delta = batch(layer.sensitivities)
        left = rows(layer, delta * fresh.astype(delta.dtype).reshape(1, 1, 1, -1))
        right = left if other is layer else rows(other, batch(other.sensitivities))
        if weights is not None:
            left = left * batch(weights).reshape(1, -1)
        return total + left @ right.T, None

    start = jnp.zeros((n * c, m * d), jnp.result_type(layer.inputs, other.inputs))
    return jax.lax.scan(add, start, jnp.arange(0, k, units))[0]


def _product_of_grams(layer: LayerLinearization, other: LayerLinearization):
    """``(a.a') (delta.delta')`` of one position: (N, C, N', C')."""
    n, c, _, k = layer.sensitivities.shape
    m, d, _, _ = other.sensitivities.shape
    if other is layer:
        a, delta = gram(layer.inputs[:, 0]), gram(layer.sensitivities.reshape(n * c, k))
    else:
        a = jnp.einsum("ntp,msp->nm", layer.inputs, other.inputs)
        delta = jnp.einsum("nctk,mdsk->ncmd", layer.sensitivities, other.sensitivities)
    return a[:, None, :, None] * delta.reshape(n, c, m, d)


def _over_positions(layer: LayerLinearization, other: LayerLinearization):
    """`layer_kernel` as (N, C, N', C'), by the Gram matrices of all positions."""
    a = jnp.einsum("ntp,msp->ntms", layer.inputs, other.inputs)
    delta = jnp.einsum("nctk,mdsk->nctmds", layer.sensitivities, other.sensitivities)
    return jnp.einsum("ntms,nctmds->ncmd", a, delta)


@checked
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

    Examples
    --------
    >>> import jax, ngd_theory as ngd
    >>> net = ngd.networks.mlp(8, [64, 64], 1, "tanh")
    >>> params = net.init(jax.random.key(0))
    >>> x = jax.random.normal(jax.random.key(1), (4, 8))
    >>> lin = ngd.networks.linearize(net, params, x)
    >>> ngd.kernels.layerwise_ntk(lin).shape
    (3, 4, 4)
    """
    return _layerwise(*_same_layers(lin, other))


@checked
def ntk(lin: Linearization, other: Linearization | None = None) -> Float[Array, "NC MC"]:
    """The neural tangent kernel ``J J'^T``, unnormalised: the sum of `layerwise_ntk` over layers.

    Parameters
    ----------
    lin : Linearization
        At N inputs: the rows.
    other : Linearization, optional
        At N' inputs: the columns. ``lin`` itself when None.

    Returns
    -------
    (N*C, N'*C) array
        Index ``n*C + c``.

    Raises
    ------
    InputError
        If the two linearisations are of different networks.

    Examples
    --------
    >>> import jax, ngd_theory as ngd
    >>> net = ngd.networks.mlp(8, [64, 64], 1, "tanh")
    >>> params = net.init(jax.random.key(0))
    >>> x = jax.random.normal(jax.random.key(1), (4, 8))
    >>> lin = ngd.networks.linearize(net, params, x)
    >>> ngd.kernels.ntk(lin).shape
    (4, 4)
    """
    return _total(*_same_layers(lin, other))


@jax.jit
def _layerwise(layers, others):
    return jnp.stack([layer_kernel(a, b) for a, b in zip(layers, others, strict=True)])


@jax.jit
def _total(layers, others):
    kernels = [layer_kernel(a, b) for a, b in zip(layers, others, strict=True)]
    return sum(kernels[1:], kernels[0])


def _same_layers(lin: Linearization, other: Linearization | None):
    """The layers of both. If the second is the first, its layers are None."""
    if other is None or other is lin:
        return lin.layers, (None,) * len(lin.layers)
    if [layer.layout for layer in lin.layers] != [layer.layout for layer in other.layers]:
        raise InputError("the two linearisations are of networks with different layers")
    return lin.layers, other.in_coordinates_of(lin).layers
