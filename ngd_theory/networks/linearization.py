"""The factored Jacobian: layer inputs and output sensitivities (docs/theory.md section 1).

For every affine layer ``J_l[(n,c)] = sum_t delta_l[n,c,t] (x) a_l[n,t]``. All that the package does
with a network it does with ``a`` and ``delta``; the (NC, P) Jacobian is never formed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ngd_theory.arguments import check_finite, checked
from ngd_theory.errors import InputError
from ngd_theory.networks.grouping import Grouping
from ngd_theory.networks.layout import GroupLayout, ParameterLayout
from ngd_theory.networks.network import Network
from ngd_theory.pytrees import pytree


@pytree("inputs", "sensitivities")
@dataclass(frozen=True)
class LayerLinearization:
    """One affine layer's factors of the Jacobian.

    Attributes
    ----------
    inputs : (N, T, P)
        Scaled, bias-augmented inputs a.
    sensitivities : (N, C, T, M)
        ``delta[n,c,t] = d f_c(x_n) / d u[n,t]``.
    layout : ParameterLayout or GroupLayout
    """

    made_by: ClassVar[str] = "a layer of ngd.networks.linearize(network, params, x).layers"
    inputs: Array
    sensitivities: Array
    layout: ParameterLayout | GroupLayout

    def vjp(self, cotangent: Float[Array, "N C"]) -> dict[str, Array]:
        """``J_l^T cotangent`` as the layer's parameters; no 1/N."""
        coefficients = jnp.einsum("nc,nctm->ntm", cotangent, self.sensitivities)
        return self.layout.pull_back(self.inputs, coefficients)

    def jvp(self, tangent: dict[str, Array]) -> Float[Array, "N C"]:
        """``J_l tangent``."""
        change = self.layout.push_forward(self.inputs, tangent)
        return jnp.einsum("nctm,ntm->nc", self.sensitivities, change)


@pytree("outputs", "layers")
@dataclass(frozen=True)
class Linearization:
    """A network linearised about its parameters at N inputs.

    Attributes
    ----------
    outputs : (N, C)
        f(x) at the point of linearisation.
    layers : tuple of LayerLinearization
        First layer to last.
    grouping : Grouping or None
        Where the "layers" are groups of the parameters of some function (`linearize_function`).
    """

    made_by: ClassVar[str] = "ngd.networks.linearize(network, params, x)"
    outputs: Array
    layers: tuple[LayerLinearization, ...]
    grouping: Grouping | None = None

    @property
    def num_samples(self) -> int:
        """N."""
        return self.outputs.shape[0]

    @property
    def output_dim(self) -> int:
        """C."""
        return self.outputs.shape[1]

    def vjp(self, cotangent: Float[Array, "N C"]) -> PyTree[Array]:
        """``J^T cotangent``, like the parameters; no 1/N. One (P, NT, M) matmul a layer."""
        return self.like_params([layer.vjp(cotangent) for layer in self.layers])

    def jvp(self, tangent) -> Float[Array, "N C"]:
        """``J tangent`` for a tangent like the parameters."""
        terms = [y.jvp(t) for y, t in zip(self.layers, self.by_layer(tangent), strict=True)]
        return sum(terms[1:], terms[0])

    def like_params(self, layers: Sequence[dict[str, Array]]):
        """One dict a layer to something like the parameters."""
        return tuple(layers) if self.grouping is None else self.grouping.join(layers)

    def by_layer(self, tangent) -> Sequence[dict[str, Array]]:
        """The inverse of `like_params`."""
        return tangent if self.grouping is None else self.grouping.split(tangent)


@checked
def linearize(network: Network, params, x: Float[Array, "N *S"]) -> Linearization:
    """Linearise ``network`` about ``params`` at the inputs ``x``.

    One forward pass and C backward passes (one vmapped vector-Jacobian product through shifts of the
    pre-activations), none of which touches a weight gradient. The result takes ``sum_l N T (P + C M)``
    numbers; on a CPU the backward passes of a convolution hold C N T P more, one layer at a time.

    Parameters
    ----------
    network : Network
    params : like ``network.init(key)``
    x : (N, *input_shape)

    Returns
    -------
    Linearization

    Raises
    ------
    InputError
        If ``params`` or ``x`` do not fit the network, are not of float32 or float64, or hold a NaN or infinity (which
        is seen outside jit, vmap and grad only).
    """
    _check(network, params, x)
    return _linearize(network, params, x)


@partial(jax.jit, static_argnums=0)
def _linearize(network, params, x) -> Linearization:
    return Linearization(*backpropagate_unchecked(network, params, x, _identity_rows))


@checked
def backpropagate(
    network: Network, params, x: Float[Array, "N *S"], rows: Callable
) -> tuple[Float[Array, "N C"], tuple[LayerLinearization, ...]]:
    """Outputs, and the factors of K chosen combinations of them: one forward pass and K backward ones.

    Parameters
    ----------
    network : Network
    params : like ``network.init(key)``
    x : (N, *input_shape)
    rows : ``outputs (N, C) -> (N, K, C)``
        The combinations, held fixed: sampled scores, say, or the rows of ``R^T``.

    Returns
    -------
    outputs : (N, C)
    layers : tuple of LayerLinearization
        With sensitivities (N, K, T, M): ``rows[n,k] . d f(x_n) / d u[n,t]``.

    Raises
    ------
    InputError
        As `linearize`.
    """
    _check(network, params, x)
    return backpropagate_unchecked(network, params, x, rows)


def _check(network: Network, params, x) -> None:
    """Raise what `linearize` promises."""
    network.check(params, x)
    require_precision(jnp.result_type(x, *jax.tree.leaves(params)))
    check_finite("x", x)
    check_finite("params", params)


def backpropagate_unchecked(network: Network, params, x, rows: Callable):
    """`backpropagate` of what is checked."""
    n = x.shape[0]
    dtype = jnp.result_type(x, *jax.tree.leaves(params))
    x, params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (x, params))
    shifts = [jnp.zeros((n, *b.affine.output_shape), dtype) for b in network.blocks]
    outputs, pull, hidden = jax.vjp(
        lambda shifts: network.forward(params, x, shifts), shifts, has_aux=True
    )
    cotangents = jnp.moveaxis(rows(outputs), 1, 0)
    (deltas,) = jax.vmap(pull)(cotangents)
    layers = tuple(
        LayerLinearization(
            inputs=block.affine.inputs(h),
            sensitivities=jnp.moveaxis(delta, 0, 1).reshape(
                n, len(cotangents), block.affine.positions, delta.shape[-1]
            ),
            layout=block.affine.layout,
        )
        for block, h, delta in zip(network.blocks, hidden, deltas, strict=True)
    )
    return outputs, layers


def require_precision(dtype) -> None:
    """Raise `InputError` unless numbers are of 4 or 8 bytes: no LAPACK factorises what is shorter."""
    if jnp.finfo(dtype).bits < 32:
        raise InputError(
            f"inputs and parameters are of type {jnp.dtype(dtype).name}, which no solve takes: give one of them as "
            "float32, x.astype(jax.numpy.float32), and all is computed in it"
        )


def _identity_rows(outputs: Float[Array, "N C"]) -> Float[Array, "N C C"]:
    n, c = outputs.shape
    return jnp.broadcast_to(jnp.eye(c, dtype=outputs.dtype), (n, c, c))
