"""Quasi-diagonal Fisher (Ollivier 2015): for each unit, the diagonal and the row of its bias."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.fisher.base import Approximation, Look, approximation
from ngd_theory.fisher.damping import Damping
from ngd_theory.fisher.entry_wise import diagonal_fisher, inverse_of_diagonal
from ngd_theory.fisher.kinds import Kind, TrueFisher, curvature_sensitivities
from ngd_theory.networks import LayerLinearization
from ngd_theory.precision import full_precision
from ngd_theory.pytrees import pytree


@pytree("corner", "slope", "rest", "flat", "damping")
@dataclass(frozen=True)
class UnitBlocks:
    """One layer's G, unit by unit: ``diag(0, rest) + corner [1, slope]^T [1, slope]``.

    Attributes
    ----------
    corner : (1, M)
        ``F_00`` of each unit's bias.
    slope : (P - 1, M)
        ``F_0i/F_00``; 0 where the bias has no Fisher information.
    rest : (P - 1, M)
        ``F_ii - F_0i^2/F_00``: the diagonal after elimination of the bias.
    flat : (P - 1, M)
        Where ``rest`` is round-off.
    damping : Damping
    """

    corner: Array
    slope: Array
    rest: Array
    flat: Array
    damping: Damping

    def solve(self, gradient: Float[Array, "P M"]) -> Float[Array, "P M"]:
        """Apply ``(G + rho)^-1``; at rho = 0 its limit, for a gradient in the range of G."""
        given = self.corner, self.slope, self.rest, gradient
        return self.damping.select(_damped, self._limit, *given)

    def _limit(self, rho, corner, slope, rest, gradient):
        weights, bias = gradient[:-1], gradient[-1:]
        # The part that the bias does not explain, for weights that are not flat.
        own = (weights - slope * bias) / _in_range(rest, jnp.where(self.flat, 1, rest))
        own = jnp.where(self.flat, 0, own)
        # Flat weights move with the bias, as one direction.
        moving = jnp.where(self.flat, slope, 0)
        # A bias without information has no share, and no slopes.
        dead = corner == 0
        length = jnp.where(dead, 1, corner) * (1 + jnp.sum(moving**2, axis=0, keepdims=True))
        rest_of_bias = bias - corner * jnp.sum(slope * own, axis=0, keepdims=True)
        along = jnp.where(dead, 0, rest_of_bias / _in_range(length))
        found = jnp.concatenate([own + moving * along, along])
        if rho is None:
            return found
        # rho is 0 here: the term only gives the derivative by the damping.
        return found - rho.astype(found.dtype) * self._limit(None, corner, slope, rest, found)


def _damped(rho, corner, slope, rest, gradient):
    """Eliminate the bias. That leaves a diagonal and a positive matrix of rank one, so nothing cancels."""
    rho = rho.astype(gradient.dtype)
    weights, bias = gradient[:-1], gradient[-1:]
    whole, diagonal = _in_range(corner + rho), _in_range(rest + rho)
    share = corner / whole
    reduced, along = (weights - slope * (share * bias)) / diagonal, slope / diagonal
    of_rank_one = rho * share
    grown = _in_range(1 + of_rank_one * jnp.sum(slope * along, axis=0, keepdims=True))
    shrunk = of_rank_one * jnp.sum(slope * reduced, axis=0, keepdims=True) / grown
    moved = reduced - along * shrunk
    left = bias - corner * jnp.sum(slope * moved, axis=0, keepdims=True)
    return jnp.concatenate([moved, left / whole])


def _in_range(size, number=None):
    """``number`` (default: ``size``) where ``size`` is finite, else NaN: a step 1/infinity = 0 would go unnoticed."""
    return jnp.where(jnp.isfinite(size), size if number is None else number, jnp.nan)


@approximation
@dataclass(frozen=True)
class QuasiDiagonal(Approximation):
    """Keeps the diagonal and the bias's row of each unit's Fisher block: Ollivier's quasi-diagonal reduction.

    The bias is eliminated as in the whole block, and the diagonal of the rest is kept: ``G_00 = F_00``,
    ``G_0i = F_0i``, ``G_ii = F_ii`` and, between weights, ``G_ij = F_0i F_0j/F_00``. With zeros between weights G need
    not be positive. The damping is added to G itself. F has the 1/N of the package and a sum over outputs; the sum over
    positions is inside the square. Unlike with `EntryWise`, a constant added to the inputs of a layer changes nothing
    at rho = 0. For layers without a bias, and for parameters outside layers, both are the same.

    Attributes
    ----------
    kind : TrueFisher, SampledFisher or EmpiricalFisher

    References
    ----------
    Ollivier (2015), "Riemannian metrics for neural networks I: feedforward networks", arXiv 1303.0818.
    """

    name = "quasi-diagonal"
    look = Look("#BCBD22", "h", "quasi-diagonal")
    named_only = "it is the entry-wise diagonal where layers have no bias"
    by_layers = True
    needs_layers = True
    has_limit = False
    requirements = ("isotropic-at-some-width",)
    kind: Kind = field(default=TrueFisher())

    def factor(self, lin, damping):
        """`UnitBlocks` of every layer, or the inverse diagonal if it has no bias."""
        root, made = self.kind.root(lin.outputs), []
        for layer in lin.layers:
            curved = curvature_sensitivities(layer.sensitivities, root)
            curved = replace(layer, sensitivities=curved)
            if _has_bias(layer):
                made.append(_quasi_diagonal(curved, damping))
            else:
                diagonal = layer.layout.to_matrix(diagonal_fisher(curved))
                made.append(inverse_of_diagonal(diagonal, damping))
        return tuple(made)

    def precondition(self, lin, cotangent, factors):
        """Unit by unit."""
        found = []
        for layer, made in zip(lin.layers, self.factored(lin, factors), strict=True):
            gradient = layer.layout.to_matrix(layer.vjp(cotangent / lin.num_samples))
            biased = isinstance(made, UnitBlocks)
            found.append(
                layer.layout.from_matrix(made.solve(gradient) if biased else made * gradient)
            )
        return lin.like_params(found)

    def workspace(self, sizes, num_samples, itemsize):
        """Squares of inputs and sensitivities, and three matrices like the largest layer's parameters."""
        squares = sum(num_samples * s.positions * (s.num_inputs + s.num_units) for s in sizes)
        return squares + 3 * max(s.num_inputs * s.num_units for s in sizes)


def _has_bias(layer: LayerLinearization) -> bool:
    return getattr(layer.layout, "has_bias", False)


def _quasi_diagonal(layer: LayerLinearization, damping: Damping) -> UnitBlocks:
    """`UnitBlocks` of a layer with curvature sensitivities; its last input belongs to the bias."""
    n, _, t, _ = layer.sensitivities.shape
    corner, slope, rest, size = (_at_one_position if t == 1 else _over_positions)(layer)
    # Round-off of the weighted variance, relative to the weighted squares.
    flat = rest <= 100 * jnp.finfo(rest.dtype).eps * size
    return UnitBlocks(corner / n, slope, jnp.maximum(rest, 0) / n, flat, damping)


def _ratio(over, under):
    """``over / under``; 0 where the denominator is 0."""
    none = under == 0
    return jnp.where(none, 0, over / jnp.where(none, 1, under))


@full_precision
def _at_one_position(layer: LayerLinearization):
    """Sums over samples, by products of matrices: means and variances of the inputs, weighted by delta^2."""
    weights = jnp.sum(layer.sensitivities[:, :, 0] ** 2, axis=1)  # (N, M)
    a, constant = layer.inputs[:, 0, :-1], layer.inputs[0, 0, -1]
    total = jnp.sum(weights, axis=0, keepdims=True)
    # Centred at the plain mean, so that little cancels.
    centre = jnp.mean(a, axis=0, keepdims=True)
    moved = a - centre
    first, second = moved.T @ weights, (moved**2).T @ weights
    mean = _ratio(first, total)
    return (
        constant**2 * total,
        jnp.where(total == 0, 0, (centre.T + mean) / constant),
        second - mean * first,
        second,
    )


@full_precision
def _over_positions(layer: LayerLinearization):
    """The same from rows of the Jacobian, in two passes over the samples: variances are sums of squares."""
    factors = layer.inputs, layer.sensitivities
    shape = layer.inputs.shape[-1], layer.sensitivities.shape[-1]

    def rows(sample):
        return jnp.einsum("tp,ctm->cpm", *sample)

    def summed(function, like):
        def add(total, sample):
            found = function(rows(sample))
            return jax.tree.map(lambda a, b: a + jnp.sum(b, axis=0), total, found), None

        return jax.lax.scan(add, like, factors)[0]

    zeros = jnp.zeros(shape, layer.sensitivities.dtype)
    products, squares = summed(lambda j: (j * j[:, -1:], j**2), (zeros, zeros))
    corner = products[-1:]
    slope = _ratio(products[:-1], corner)
    rest = summed(lambda j: (j[:, :-1] - slope[None] * j[:, -1:]) ** 2, zeros[:-1])
    return corner, slope, rest, squares[:-1]
