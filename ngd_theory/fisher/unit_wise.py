"""Unit-wise Fisher: one block an output unit or channel, its row of W and its bias (docs/theory.md section 3).

Unit i has the Jacobian rows ``J_i[(n,c)] = sum_t delta_i[n,c,t] a[n,t]``. Per sample write the (C, T)
matrix ``delta_i[n] = Q R`` with r rows in R: then ``J_i = Q (R a)`` and the unit's dual problem has N*r
unknowns,

    K_i = R_i (a a^T) R_i^T / N,     natural gradient of unit i = (R_i a)^T (K_i + rho)^-1 Q_i^T v / N.

For a dense layer (T = 1) delta has rank one: R is its norm over the outputs and r = 1, so that the cost
does not grow as C^3. With T > 1, Q = I and r = C.

K_i comes from the Gram matrix ``a a^T`` (NT x NT) that all units share, or the rows ``R_i a`` (N r x P) are made
for each unit and the problem is solved on their smaller side: whichever takes fewer operations.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.fisher.base import Approximation, approximation
from ngd_theory.fisher.loops import batch_size, map_items, sum_items
from ngd_theory.fisher.solve import precondition_rows, ridge, round_off, solve_psd
from ngd_theory.networks import LayerLinearization
from ngd_theory.precision import full_precision


@approximation
@dataclass(frozen=True)
class UnitWise(Approximation):
    """Block-diagonal over units: ``K = sum_i Q_i K_i (K_i + rho)^-1 Q_i^T``, true Fisher under MSE.

    Each block is ``(1/N) sum_{n,c} J_i J_i^T``. Units are solved in batches of bounded memory, a Cholesky of size
    N*r, or P where that is smaller, each: ``O(M (N r)^3)`` a layer, and one (P, NT, M) matmul for the gradient.
    """

    name = "unit-wise"
    needs_layers = True
    by_layers = True
    asymptotic = True
    requirements = ("distinct-inputs", "full-rank-inputs", "many-units")

    def precondition(self, lin, cotangent, damping):
        """Per layer: solve each unit's dual problem, then one matmul with the inputs."""
        return tuple(_layer_gradient(layer, cotangent, damping) for layer in lin.layers)

    def preconditioned_map(self, lin, damping, at):
        """Sum over layers and units of ``J_i(at) J_i^T``-sized projections."""
        terms = [_layer_map(x, y, damping) for x, y in zip(lin.layers, at.layers, strict=True)]
        return sum(terms[1:], terms[0])

    def workspace(self, sizes, num_samples, itemsize):
        """The Gram matrix of the positions, a batch of units, and coefficients like the sensitivities of one output."""
        largest = max(num_samples * s.positions for s in sizes)
        coefficients = max(num_samples * s.positions * s.num_units for s in sizes)
        return largest**2 + 2**26 // itemsize + coefficients

    def damping_bias(self, lin, damping):
        """Mean of ``rho/(rho + |delta_i[n]|^2 mu_n)`` over the active units and samples of all layers.

        ``1/mu_n`` is the n-th diagonal entry of ``(a a^T/N)^-1``. By the Schur complement
        ``(K_i + rho)^-1_nn <= 1/(rho + delta^2 mu_n)``, so this bounds the share of alpha that damping
        takes. Sensitivities near 0 make it of order sqrt(rho), not rho. None where positions share weights: their
        Gram matrix is singular at once.
        """
        if damping == 0:
            return 0.0
        if any(layer.inputs.shape[1] > 1 for layer in lin.layers):
            return None
        lost, active = 0.0, 0
        for layer in lin.layers:
            n, _, t, _ = layer.sensitivities.shape
            gram = np.asarray(_gram(layer, layer)) / n
            gram = gram + round_off(np.linalg.eigvalsh(gram)) * np.eye(len(gram))
            mu = 1 / np.diagonal(np.linalg.inv(gram)).reshape(n, t, 1)
            squares = np.sum(np.asarray(layer.sensitivities) ** 2, axis=1)
            shares = np.where(squares > 0, damping / (damping + squares * mu), 0)
            lost, active = lost + float(shares.sum()), active + int((squares > 0).sum())
        return lost / max(active, 1)

    def layer_constants(self, sizes, num_samples):
        """``M min(N E[min(C, active positions)], rank a)/(NC)``: gamma M/C for a wide dense layer, 1 for the output."""
        c = sizes[-1].num_units
        return tuple(
            s.num_units
            * min(num_samples * s.unit_rank(c), s.input_rank(num_samples))
            / (num_samples * c)
            for s in sizes
        )


def _layer_gradient(layer: LayerLinearization, cotangent, damping):
    n, _, t, m = layer.sensitivities.shape
    if _rows_are_cheaper(layer):

        def column(delta):
            q, r = _compress(delta)
            weights = jnp.einsum("ncr,nc->nr", q, cotangent).ravel()
            return ridge(_rows(layer, r), weights, damping, 1 / n) / n

        p = layer.inputs.shape[-1]
        size = batch_size(n * _rows_a_sample(layer), p, itemsize=layer.inputs.itemsize)
        columns = map_items(column, jnp.moveaxis(layer.sensitivities, -1, 0), size)
        return layer.layout.from_matrix(columns.T)
    gram = _gram(layer, layer)

    def unit(delta):
        q, r = _compress(delta)
        kernel = _unit_kernel(r, gram, r) / n
        weights = jnp.einsum("ncr,nc->nr", q, cotangent)
        dual = solve_psd(kernel, weights.reshape(-1, 1), damping).reshape(weights.shape)
        return jnp.einsum("nr,nrt->nt", dual, r) / n

    unknowns = n * _rows_a_sample(layer)
    size = batch_size(unknowns, max(unknowns, n * t), itemsize=gram.itemsize)
    coefficients = map_items(unit, jnp.moveaxis(layer.sensitivities, -1, 0), size)
    return layer.layout.pull_back(layer.inputs, coefficients.reshape(m, n, t).transpose(1, 2, 0))


def _layer_map(layer: LayerLinearization, there: LayerLinearization, damping):
    n, c, t, _ = layer.sensitivities.shape
    by_rows = _rows_are_cheaper(layer)

    # ``J_i(at) (R a)^T (K_i + rho)^-1 / N``: (N'C, N r), in two ways.
    def solved_by_rows(r, delta_there):
        whitened = precondition_rows(_rows(layer, r), damping, 1 / n)
        return _rows(there, delta_there) @ whitened.T / n

    def solved_by_grams():
        gram, cross = _gram(layer, layer), _gram(there, layer)

        def solved(r, delta_there):
            kernel = _unit_kernel(r, gram, r) / n
            return solve_psd(kernel, _unit_kernel(delta_there, cross, r).T / n, damping).T

        return solved

    solved = solved_by_rows if by_rows else solved_by_grams()

    def unit(deltas):
        delta, delta_there = deltas
        q, r = _compress(delta)
        # Back from the compressed columns to the outputs by Q^T.
        columns = solved(r, delta_there).reshape(-1, n, q.shape[-1])
        return jnp.einsum("xnr,ncr->xnc", columns, q)

    units = (jnp.moveaxis(layer.sensitivities, -1, 0), jnp.moveaxis(there.sensitivities, -1, 0))
    rows = there.sensitivities.shape[0] * there.sensitivities.shape[1]
    # A CPU takes them one at a time. Rows have P columns; by Gram matrices a half-made kernel has N T.
    columns = max(n * c, layer.inputs.shape[-1] if by_rows else n * t)
    size = batch_size(max(n * c, rows), columns, itemsize=layer.inputs.itemsize)
    total = sum_items(unit, units, jnp.zeros((rows, n, c), layer.inputs.dtype), size)
    return total.reshape(rows, n * c)


def _rows_are_cheaper(layer: LayerLinearization) -> bool:
    """Whether a unit's problem takes fewer operations by its rows than by the Gram matrix of all positions."""
    n, _, t, _ = layer.sensitivities.shape
    r, p = _rows_a_sample(layer), layer.inputs.shape[-1]
    smaller = min(n * r, p)
    by_rows = n * r * t * p + n * r * smaller * p + smaller**3
    by_gram = n * r * t * n * t + (n * r) ** 2 * t + (n * r) ** 3
    return by_rows < by_gram


def _rows_a_sample(layer: LayerLinearization) -> int:
    """r, as `_compress` makes it."""
    _, c, t, _ = layer.sensitivities.shape
    return 1 if t == 1 else c


@full_precision
def _rows(layer: LayerLinearization, r: Float[Array, "N r T"]) -> Float[Array, "Nr P"]:
    """``R a``: the unit's Jacobian rows, compressed."""
    return jnp.einsum("nrt,ntp->nrp", r, layer.inputs).reshape(-1, layer.inputs.shape[-1])


@full_precision
def _gram(left: LayerLinearization, right: LayerLinearization) -> Float[Array, "NT MS"]:
    a, b = left.inputs, right.inputs
    return a.reshape(-1, a.shape[-1]) @ b.reshape(-1, b.shape[-1]).T


def _compress(delta: Float[Array, "N C T"]):
    """``delta[n] = Q[n] R[n]``: Q (N, C, r) with orthonormal (or zero) columns, R (N, r, T)."""
    n, c, t = delta.shape
    if t > 1 or c == 1:
        return jnp.broadcast_to(jnp.eye(c, dtype=delta.dtype), (n, c, c)), delta
    norm = jnp.sqrt(jnp.sum(delta**2, axis=1, keepdims=True))
    return delta / jnp.where(norm > 0, norm, 1), norm


@full_precision
def _unit_kernel(left: Float[Array, "N r T"], gram: Float[Array, "NT MS"], right):
    """``R (a a'^T) R'^T`` as an (N*r, M*r') matrix."""
    n, r, t = left.shape
    m, q, s = right.shape
    if t == s == 1:
        return (
            left.reshape(n * r, 1)
            * jnp.repeat(jnp.repeat(gram, r, axis=0), q, axis=1)
            * right.reshape(1, m * q)
        )
    half = jnp.einsum("nrt,ntms->nrms", left, gram.reshape(n, t, m, s))
    return jnp.einsum("nrms,mqs->nrmq", half, right).reshape(n * r, m * q)
