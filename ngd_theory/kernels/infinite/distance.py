"""How far a finite network's kernels are from those of the infinitely wide one."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError
from ngd_theory.kernels.empirical import layerwise_ntk as empirical_layerwise_ntk
from ngd_theory.kernels.infinite.evaluate import MEMORY_BUDGET, layerwise_ntk
from ngd_theory.networks import Linearization, Network
from ngd_theory.numerics import norm


@checked
def layerwise_distance(
    net: Network,
    lin: Linearization,
    x: Float[Array, "N *S"],
    *,
    memory_budget: int = MEMORY_BUDGET,
) -> Float[Array, " L"]:
    """``||J_l J_l^T - Theta_l (x) I_C||_F / ||Theta_l (x) I_C||_F`` of every layer: O(1/sqrt(M)).

    Parameters
    ----------
    net : Network
        A network whose kernels a source serves: see `ngd_theory.kernels.infinite`.
    lin : Linearization
        Of ``net`` at ``x``, at any parameters.
    x : (N, *input_shape)
    memory_budget : int
        See `layer_kernels`.

    Returns
    -------
    (L,) array
        First layer to last. A network of depth 1 has no width, so its distance is 0 to round-off.

    Raises
    ------
    InputError
        If ``lin`` has not the layers and outputs of ``net`` at ``x``, and as `layerwise_ntk`.
    """
    wanted = net.depth, (len(x), net.output_dim)
    if (len(lin.layers), lin.outputs.shape) != wanted:
        raise InputError(
            f"lin has {len(lin.layers)} layers and outputs {lin.outputs.shape}; net at x has {wanted[0]} and "
            f"{wanted[1]}"
        )
    limit = layerwise_ntk(net, x, memory_budget=memory_budget)
    # kron, with the identity over outputs in the last place: index n*C + c.
    each = jnp.eye(lin.output_dim, dtype=limit.dtype)
    size = lin.outputs.size
    limit = jnp.einsum("lnm,cd->lncmd", limit, each).reshape(-1, size, size)
    difference = empirical_layerwise_ntk(lin) - limit
    return jax.vmap(norm)(difference) / jax.vmap(norm)(limit)
