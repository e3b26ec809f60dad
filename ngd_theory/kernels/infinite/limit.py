"""The infinitely wide network as a linearisation of finite size.

The package uses a network only through its a's and deltas, and only their Gram matrices reach function space. So a
linearisation whose factors are square roots of the infinite-width kernels, ``a_l a_l'^T = A_l`` and
``delta_l delta_l'^T = B_l (x) I_C``, *is* the infinitely wide network for every Fisher approximation that does not
single out units or entries. Their maps, natural gradients and predictions are those of the limit (docs/theory.md
section 5). Each layer has N + N' artificial units.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory import linalg
from ngd_theory.arguments import checked
from ngd_theory.errors import InputError
from ngd_theory.kernels.infinite.evaluate import MEMORY_BUDGET, layer_kernels, layerwise_ntk
from ngd_theory.kernels.infinite.sources import has_recursion
from ngd_theory.networks import LayerLinearization, Linearization, Network
from ngd_theory.networks.checks import require_size
from ngd_theory.networks.layout import ParameterLayout
from ngd_theory.precision import full_precision


@checked
def linearize(
    net: Network,
    x: Float[Array, "N *S"],
    x_test: Float[Array, "M *S"] | None = None,
    *,
    output_dim: int | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> tuple[Linearization, Linearization | None]:
    """Linearise the infinitely wide ``net`` at N training and N' test inputs.

    For `Identity`, `Exact`, `BlockDiagonal`, `BlockTridiagonal` and `KFAC`: their function-space maps are invariant
    under rotations of the units. Not for `UnitWise` (use `ngd_theory.dynamics.predictor`) or `EntryWise` (no limit):
    the artificial units are not units of a network. K-FAC's factored damping sees N + N' in place of P and M.

    For networks that only neural-tangents knows, such as convolutional ones, only the product Theta_l of the kernels of
    inputs and sensitivities is known. Then the layer's inputs are its root, and the sensitivities are those of C units,
    the outputs. That is enough for the first four; approximations that need layers are refused.

    Parameters
    ----------
    net : Network
        A network whose kernels a source serves; its widths do not matter.
    x, x_test : (N, *input_shape), (N', *input_shape)
    output_dim : int, optional
        C; that of ``net`` when None.
    memory_budget : int
        See `layer_kernels`.

    Returns
    -------
    Linearization, Linearization or None
        At ``x`` and at ``x_test``, in one parameter space. The outputs are 0, their mean over
        initialisations.

    Raises
    ------
    InputError
        For an ``output_dim`` below 1, and as `layer_kernels`.
    NotPredictedError, NeuralTangentsError
        As `layerwise_ntk`.
    """
    c = net.output_dim if output_dim is None else require_size("output_dim", output_dim)
    n = len(x)
    points = x if x_test is None else joined(net, x, x_test)
    if has_recursion(net):
        kernels = layer_kernels(net, points, memory_budget=memory_budget)
        roots = [
            (square_root(a), square_root(b))
            for a, b in zip(kernels.inputs, kernels.sensitivities, strict=True)
        ]
    else:
        shares = layerwise_ntk(net, points)
        roots = [(square_root(t), jnp.ones((len(points), 1), t.dtype)) for t in shares]

    grouping = None if has_recursion(net) else Shares()

    def part(rows: slice) -> Linearization:
        layers = tuple(_layer(a[rows], b[rows], c) for a, b in roots)
        size = layers[0].inputs.shape[0]
        return Linearization(jnp.zeros((size, c), layers[0].inputs.dtype), layers, grouping)

    return part(slice(0, n)), None if x_test is None else part(slice(n, None))


@dataclass(frozen=True)
class Shares:
    """Marks a linearisation whose factors give kernels, but are not a layer's inputs and sensitivities."""

    has_layers: ClassVar[bool] = False

    def join(self, layers):
        """A tuple of dicts, as they are."""
        return tuple(layers)

    def split(self, tangent):
        """The tangent as it is."""
        return tangent


def joined(
    net: Network, x: Float[Array, "N *S"], x_test: Float[Array, "M *S"]
) -> Float[Array, "K *S"]:
    """Training and test inputs one after the other.

    Raises
    ------
    InputError
        Unless both are inputs of ``net``.
    """
    for name, rows in (("x", x), ("x_test", x_test)):
        if rows.shape[1:] != net.input_shape:
            wanted = ", ".join(map(str, net.input_shape))
            raise InputError(f"{name} has shape {rows.shape}; this network takes (N, {wanted})")
    return jnp.concatenate([jnp.asarray(x), jnp.asarray(x_test)])


@jax.jit
@full_precision
def square_root(kernel: Float[Array, "N N"]) -> Float[Array, "N N"]:
    """Symmetric R with ``R R = kernel``; eigenvalues that are zero to round-off count as 0."""
    return linalg.symmetric_roots(kernel)[0]


@partial(jax.jit, static_argnums=2)
def _layer(a: Float[Array, "N P"], b: Float[Array, "N M"], c: int) -> LayerLinearization:
    # Each output has its own copy of the M units: delta[n, c] and delta[m, d] are orthogonal.
    n, m = b.shape
    delta = jnp.einsum("cd,nm->ncdm", jnp.eye(c, dtype=b.dtype), b).reshape(n, c, 1, c * m)
    layout = ParameterLayout((a.shape[1], c * m), has_bias=False)
    return LayerLinearization(a[:, None, :], delta, layout)
