"""Entry-wise (diagonal) Fisher: cheap, and never isotropic (docs/theory.md section 3)."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.fisher.base import Approximation, Look, approximation
from ngd_theory.fisher.damping import Damping
from ngd_theory.fisher.kinds import Kind, TrueFisher, curvature_sensitivities
from ngd_theory.kernels.empirical import weighted_layer_kernel
from ngd_theory.networks import LayerLinearization


@approximation
@dataclass(frozen=True)
class EntryWise(Approximation):
    """``grad / (diag F + rho)``; at rho = 0 an entry with no Fisher information gets no step.

    ``diag F[p,m] = (1/N) sum_{n,c} (sum_t a[n,t,p] delta[n,c,t,m])^2``; for T = 1 that is the single
    matmul ``(a^2)^T (sum_c delta^2) / N``.

    Attributes
    ----------
    kind : TrueFisher, SampledFisher or EmpiricalFisher
    """

    name = "entry-wise"
    look = Look("#CC79A7", "P")
    by_layers = True
    has_limit = False
    requirements = ("isotropic-at-some-width",)
    kind: Kind = field(default=TrueFisher())

    def factor(self, lin, damping):
        """``1/(diag F + rho)`` of every layer."""
        root = self.kind.root(lin.outputs)
        return tuple(_inverse_diagonal(layer, root, damping) for layer in lin.layers)

    def precondition(self, lin, cotangent, factors):
        """The gradient times the inverse diagonal."""
        inverse = lin.like_params(self.factored(lin, factors))
        return jax.tree.map(jnp.multiply, lin.vjp(cotangent / lin.num_samples), inverse)

    def layer_terms(self, lin, factors, at):
        """``(1/N) J_l(at) diag(1/(d_l + rho)) J_l^T``."""
        inverse = self.factored(lin, factors)
        return [
            weighted_kernel(there, here, here.layout.to_matrix(d)) / lin.num_samples
            for there, here, d in zip(at.layers, lin.layers, inverse, strict=True)
        ]

    def workspace(self, sizes, num_samples, itemsize):
        """Squares of inputs and sensitivities, and the largest layer's diagonal."""
        squares = sum(num_samples * s.positions * (s.num_inputs + s.num_units) for s in sizes)
        return squares + max(s.num_inputs * s.num_units for s in sizes)


def _inverse_diagonal(layer: LayerLinearization, root, damping: Damping) -> dict[str, Array]:
    """``1/(diag F + rho)`` like the layer's parameters; 0 for 1/0."""
    curved = replace(layer, sensitivities=curvature_sensitivities(layer.sensitivities, root))
    diagonal = diagonal_fisher(curved)
    return {name: inverse_of_diagonal(d, damping) for name, d in diagonal.items()}


def inverse_of_diagonal(diagonal: Array, damping: Damping) -> Array:
    """``1/(d + rho)`` for numbers d >= 0; at rho = 0 it is 0 where d is 0."""

    def positive(rho, diagonal):
        return _reciprocal(diagonal + rho.astype(diagonal.dtype))

    def limit(rho, diagonal):
        none = diagonal == 0
        inverse = jnp.where(none, 0, _reciprocal(jnp.where(none, 1, diagonal)))
        # rho is 0 here: the term only gives the derivative by the damping.
        return inverse if rho is None else inverse - (rho.astype(inverse.dtype) * inverse) * inverse

    return damping.select(positive, limit, diagonal)


def _reciprocal(x):
    """``1/x`` for x > 0; NaN where that underflows, since nobody would notice a step of 0."""
    inverse = 1 / x
    return jnp.where(inverse > 0, inverse, jnp.nan)


def diagonal_fisher(layer: LayerLinearization) -> dict[str, Array]:
    """``diag F`` like the layer's parameters, from curvature sensitivities; it includes the 1/N."""
    n, _, t, _ = layer.sensitivities.shape
    delta = layer.sensitivities
    if t == 1:
        return layer.layout.pull_back(layer.inputs**2, jnp.sum(delta**2, axis=1) / n)

    def one_sample(total, sample):
        a, d = sample
        rows = jnp.einsum("tp,ctm->cpm", a, d)
        return total + jnp.sum(rows**2, axis=0), None

    start = jnp.zeros((layer.inputs.shape[-1], delta.shape[-1]), delta.dtype)
    total, _ = jax.lax.scan(one_sample, start, (layer.inputs, delta))
    return layer.layout.from_matrix(total / n)


def weighted_kernel(
    there: LayerLinearization, here: LayerLinearization, weights: Float[Array, "P M"]
) -> Float[Array, "MC NC"]:
    """``J(there) diag(weights) J(here)^T``, by positions or by Jacobian rows, whichever takes fewer operations."""
    n, c, t, m = here.sensitivities.shape
    rows = there.sensitivities.shape[0] * there.sensitivities.shape[1]
    positions = there.inputs.shape[0] * there.inputs.shape[1]
    # Operations without the common factor P M.
    if rows * n * c + n * c * t + rows * there.inputs.shape[1] < n * t * positions:
        return weighted_layer_kernel(there, here, weights)

    def one_position(sample):
        a, delta = sample
        weighted = (there.inputs * a[None, None]) @ weights
        products = jnp.einsum("xctm,xtm->xcm", there.sensitivities, weighted)
        return products.reshape(rows, m) @ delta.T

    a = here.inputs.reshape(n * t, -1)
    delta = jnp.moveaxis(here.sensitivities, 2, 1).reshape(n * t, c, m)
    columns = jax.lax.map(one_position, (a, delta)).reshape(n, t, rows, c).sum(1)
    return columns.transpose(1, 0, 2).reshape(rows, n * c)
