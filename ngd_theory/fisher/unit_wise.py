"""Unit-wise Fisher: one block per unit or channel, for its row of W and its bias (docs/theory.md section 3).

Unit i has the Jacobian rows ``J_i[(n,c)] = sum_t delta_i[n,c,t] a[n,t]``. With several positions its dual problem has
N*C unknowns,

    K_i = delta_i (a a^T) delta_i^T / N,     natural gradient of unit i = (delta_i a)^T (K_i + rho)^-1 v / N.

For a dense layer (T = 1) the C rows of a sample are multiples of one row, so N unknowns are left for every C. With
``s_n = sum_c delta_i[n,c]^2`` and ``u_n = sum_c delta_i[n,c] v[n,c]``

    natural gradient of unit i = a^T (diag(s) a a^T / N + rho)^-1 u / N,

This is smooth in delta where a sample's delta is zero; ``|delta|`` is not.

Both problems come from the Gram matrix ``a a^T`` (NT x NT) that all units share, or from rows that are made for each
unit and solved on their smaller side, whichever takes fewer operations.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.fisher.base import Approximation, Look, approximation
from ngd_theory.fisher.damping import Damping
from ngd_theory.fisher.loops import batch_size, map_items, sum_items
from ngd_theory.fisher.many_systems import all_units, by_cholesky, roots, scaled_solve
from ngd_theory.fisher.premises import input_rank, width
from ngd_theory.fisher.solve import (
    limit_solve,
    precondition_rows,
    ridge,
    round_off,
    solve_psd,
)
from ngd_theory.networks import LayerLinearization
from ngd_theory.precision import full_precision


@approximation
@dataclass(frozen=True)
class UnitWise(Approximation):
    """Block-diagonal over units: ``K = sum_i K_i (K_i + rho)^-1``, true Fisher under MSE.

    Each block is ``(1/N) sum_{n,c} J_i J_i^T``. The units of a dense layer are solved together by conjugate gradients,
    at ``O(M N^2)`` per step; units that do not converge are factorised. Other layers, and maps, need a Cholesky
    factorisation of size N*r, or P if that is smaller, for each unit, in batches of bounded memory. That costs
    ``O(M (N r)^3)`` per layer, with r = 1 for a dense layer and C for a convolution. The gradient is one matmul.

    At rho = 0 second derivatives work only in forward over reverse mode: units are a loop there, and JAX cannot
    differentiate it twice in reverse mode.
    """

    name = "unit-wise"
    look = Look("#009E73", "v")
    needs_layers = True
    by_layers = True
    asymptotic = True
    requirements = ("distinct-inputs", "full-rank-inputs", "many-units", "active-units")

    # Units are factored when they are applied: all factors together would be M matrices of N x N.
    def precondition(self, lin, cotangent, factors):
        """Per layer: solve each unit's dual problem, then one matmul with the inputs."""
        return lin.like_params([_layer_gradient(y, cotangent, factors) for y in lin.layers])

    def layer_terms(self, lin, factors, at):
        """Each layer's sum over units of ``(1/N) J_i(at) (G_i + rho)^-1 J_i^T``."""
        return [_layer_map(x, y, factors) for x, y in zip(lin.layers, at.layers, strict=True)]

    def workspace(self, sizes, num_samples, itemsize):
        """The Gram matrix of the positions, a batch of units, and coefficients like the sensitivities of one output."""
        largest = max(num_samples * s.positions for s in sizes)
        # A dense layer holds all units at once: right-hand sides and the arrays of conjugate gradients.
        held = max(
            num_samples * s.num_units * (s.positions if s.positions > 1 else 10) for s in sizes
        )
        return largest**2 + 2**26 // itemsize + held

    def damping_bias(self, lin, damping):
        """Root mean square over samples of what damping removes: the mean over units of ``rho/(rho + s mu_n)``.

        s is ``|delta_i[n]|^2``, and ``1/mu_n`` is the n-th diagonal entry of ``(a a^T/N)^-1``. By the Schur complement
        ``(K_i + rho)^-1_nn <= 1/(rho + s mu_n)``, so this bounds the diagonal of ``K(0) - K(rho)`` over alpha. A sample
        with a sensitivity near 0 may lose most, which makes the bias of order sqrt(rho), not rho. None if positions
        share weights: their Gram matrix is then singular.
        """
        if damping == 0:
            return 0.0
        if any(layer.inputs.shape[1] > 1 for layer in lin.layers):
            return None
        lost, active = np.zeros(lin.num_samples), 0
        for layer in lin.layers:
            squares, _, mu = _spreads(layer)
            shares = np.where(squares > 0, damping / (damping + squares * mu), 0)
            lost, active = lost + shares.sum(axis=1), active + int((squares > 0).sum())
        return float(np.sqrt(np.mean(lost**2))) * lin.num_samples / max(active, 1)

    def solve_condition(self, lin, damping):
        """Mean over units of ``tr K_i / (rho + min_n delta_i[n]^2 mu_n)``, with the mu_n of `damping_bias`.

        An estimate: the trace is at least the largest eigenvalue, and the minimum at least the smallest one.
        """
        if any(layer.inputs.shape[1] > 1 for layer in lin.layers):
            return None
        found = []
        for layer in lin.layers:
            squares, diagonal, mu = _spreads(layer)
            smallest = np.min(np.where(squares > 0, squares * mu, np.inf), axis=0)
            trace = (squares * diagonal).sum(0)
            found.append((trace / (damping + smallest))[trace > 0])
        every = np.concatenate(found)
        return float(every.mean()) if every.size else None

    def broken_premises(self, sizes, num_samples, equal_leverages=False):
        """Premises: layer 1 has at least N inputs, and hidden layers at least N units (N - 1 with biases)."""
        if any(s.positions > 1 for s in sizes):
            return {}
        biased = sizes[-1].num_inputs - sizes[-2].num_units if len(sizes) > 1 else 0
        return input_rank(self.name, sizes, num_samples, "") | width(
            self.name, sizes, num_samples - biased
        )

    def layer_constants(self, sizes, num_samples):
        """``M min(N E[min(C, active positions)], rank a)/(NC)``: gamma M/C for a wide dense layer, 1 for the output."""
        c = sizes[-1].output_dim
        return tuple(
            s.live_units
            * min(num_samples * s.unit_rank(c), s.input_rank(num_samples))
            / (num_samples * c)
            for s in sizes
        )


def _spreads(layer: LayerLinearization):
    """``|delta_i[n]|^2`` (N, M), and (N, 1) arrays: the diagonal of ``a a^T/N``, and 1 over that of its inverse."""
    n = layer.sensitivities.shape[0]
    a = np.asarray(layer.inputs)[:, 0]
    gram = a @ a.T / n
    # Keeps the inverse finite when the Gram matrix is singular, or zero.
    floor = max(round_off(np.linalg.eigvalsh(gram)), np.finfo(gram.dtype).tiny ** 0.5)
    inverse = np.linalg.inv(gram + floor * np.eye(n))
    squares = np.sum(np.asarray(layer.sensitivities)[:, :, 0] ** 2, axis=1)
    return squares, np.diagonal(gram)[:, None], 1 / np.diagonal(inverse)[:, None]


def _layer_gradient(layer: LayerLinearization, cotangent, damping: Damping):
    n, _, t, _ = layer.sensitivities.shape
    units = jnp.moveaxis(layer.sensitivities, -1, 0)
    if _rows_are_cheaper(layer):

        def column(delta):
            if t > 1:
                return ridge(_rows(layer, delta), cotangent.ravel(), damping, 1 / n) / n
            square, weights = _sums(delta, cotangent)
            return _solve_inputs(layer, square, layer.inputs[:, 0].T @ weights, damping) / n

        size = batch_size(
            n * _rows_a_sample(layer), layer.inputs.shape[-1], itemsize=layer.inputs.itemsize
        )
        return layer.layout.from_matrix(map_items(column, units, size).T)
    gram = _gram(layer, layer) / n
    if t == 1:
        squares = jnp.sum(layer.sensitivities[:, :, 0] ** 2, axis=1)
        weights = jnp.einsum("ncm,nc->nm", layer.sensitivities[:, :, 0], cotangent)
        coefficients = _all_units(gram, squares, weights, damping) / n
        return layer.layout.pull_back(layer.inputs, coefficients[:, None])

    def unit(delta):
        kernel = _unit_kernel(delta, gram, delta)
        dual = solve_psd(kernel, cotangent.reshape(-1, 1), damping)
        return jnp.einsum("nc,nct->nt", dual.reshape(cotangent.shape), delta) / n

    unknowns = n * _rows_a_sample(layer)
    size = batch_size(unknowns, max(unknowns, n * t), itemsize=gram.itemsize)
    coefficients = map_items(unit, units, size)
    return layer.layout.pull_back(layer.inputs, coefficients.transpose(1, 2, 0))


def _all_units(
    gram: Float[Array, "N N"],
    squares: Float[Array, "N M"],
    weights: Float[Array, "N M"],
    damping: Damping,
) -> Float[Array, "N M"]:
    """`_scaled_solve` of every unit."""

    def positive(rho, gram, squares, weights):
        return scaled_solve(gram, squares, weights, rho, all_units)

    def limit(rho, gram, squares, weights):
        def unit(item):
            square, right = item
            return _scaled_limit(rho, gram, square[:, None], right[:, None])[:, 0]

        size = batch_size(*gram.shape, itemsize=gram.itemsize)
        return map_items(unit, (squares.T, weights.T), size).T

    return damping.select(positive, limit, gram, squares, weights)


def _sums(delta: Float[Array, "N C 1"], cotangent: Float[Array, "N C"]):
    """``s`` and ``u`` of the module's equation for one position."""
    return jnp.sum(delta[..., 0] ** 2, axis=1), jnp.sum(delta[..., 0] * cotangent, axis=1)


def _layer_map(layer: LayerLinearization, there: LayerLinearization, damping: Damping):
    n, c, t, _ = layer.sensitivities.shape
    by_rows = _rows_are_cheaper(layer)
    by = (_map_by_rows if by_rows else _map_by_gram)(layer, there, damping)

    def unit(deltas):
        return by(*deltas).reshape(-1, n, c)

    units = (jnp.moveaxis(layer.sensitivities, -1, 0), jnp.moveaxis(there.sensitivities, -1, 0))
    rows = there.sensitivities.shape[0] * there.sensitivities.shape[1]
    # For accelerators: a CPU takes one unit at a time. Rows have P columns; an unfinished kernel has N T.
    columns = max(n * c, layer.inputs.shape[-1] if by_rows else n * t)
    size = batch_size(max(n * c, rows), columns, itemsize=layer.inputs.itemsize)
    total = sum_items(unit, units, jnp.zeros((rows, n, c), layer.inputs.dtype), size)
    return total.reshape(rows, n * c)


def _map_by_rows(layer: LayerLinearization, there: LayerLinearization, damping: Damping):
    """Function of a unit's sensitivities at both: its share of the map, (N'*C, N*C), or (N', C, N, C) for T = 1."""
    n, _, t, _ = layer.sensitivities.shape

    def several(delta, delta_there):
        whitened = precondition_rows(_rows(layer, delta), damping, 1 / n)
        return _rows(there, delta_there) @ whitened.T / n

    def single(delta, delta_there):
        square = jnp.sum(delta[..., 0] ** 2, 1)
        solved = _solve_inputs(layer, square, layer.inputs[:, 0].T, damping)
        return _between_outputs(delta_there, there.inputs[:, 0] @ solved / n, delta)

    return several if t > 1 else single


def _map_by_gram(layer: LayerLinearization, there: LayerLinearization, damping: Damping):
    """As `_map_by_rows`, from Gram matrices."""
    n, _, t, _ = layer.sensitivities.shape
    gram, cross = _gram(layer, layer) / n, _gram(there, layer) / n

    def several(delta, delta_there):
        kernel = _unit_kernel(delta, gram, delta)
        return solve_psd(kernel, _unit_kernel(delta_there, cross, delta).T, damping).T

    def single(delta, delta_there):
        square = jnp.sum(delta[..., 0] ** 2, 1)
        samples = _scaled_solve(gram, square, cross.T, damping, transpose=True).T
        return _between_outputs(delta_there, samples, delta)

    return several if t > 1 else single


@full_precision
def _between_outputs(left: Float[Array, "X C 1"], samples: Float[Array, "X N"], right):
    """``left[x,c] samples[x,n] right[n,d]``."""
    return jnp.einsum("xc,xn,nd->xcnd", left[..., 0], samples, right[..., 0])


@full_precision
def _solve_inputs(layer: LayerLinearization, square: Float[Array, " N"], rhs, damping: Damping):
    """``(a^T diag(s) a / N + rho)^-1 rhs`` of one position, (P,) or (P, k)."""
    a = layer.inputs[:, 0]
    matrix = (a * square[:, None]).T @ a / len(a)
    return solve_psd(matrix, rhs.reshape(len(rhs), -1), damping).reshape(rhs.shape)


@full_precision
def _scaled_solve(
    gram: Float[Array, "N N"],
    square: Float[Array, " N"],
    rhs: Float[Array, "N k"],
    damping: Damping,
    transpose: bool = False,
) -> Float[Array, "N k"]:
    """``(diag(s) Gamma + rho)^-1 rhs`` of one unit, or with the transposed matrix; at rho = 0 it is 0 where s is 0."""

    def positive(rho, gram, square, rhs):
        return scaled_solve(gram, square, rhs, rho, by_cholesky, transpose)

    def limit(rho, gram, square, rhs):
        return _scaled_limit(rho, gram, square, rhs, transpose)

    return damping.select(positive, limit, gram, square[:, None], rhs)


@full_precision
def _scaled_limit(rho, gram, square: Float[Array, "N 1"], rhs, transpose: bool = False):
    _, root, inverse = roots(square)
    before, after = (root, inverse) if transpose else (inverse, root)
    return after * limit_solve(rho, root * gram * root.T, before * rhs)


def _rows_are_cheaper(layer: LayerLinearization) -> bool:
    """Whether a unit's problem takes fewer operations by its rows than by the Gram matrix of all positions."""
    n, _, t, _ = layer.sensitivities.shape
    r, p = _rows_a_sample(layer), layer.inputs.shape[-1]
    smaller = min(n * r, p)
    by_rows = n * r * t * p + n * r * smaller * p + smaller**3
    by_gram = n * r * t * n * t + (n * r) ** 2 * t + (n * r) ** 3
    return by_rows < by_gram


def _rows_a_sample(layer: LayerLinearization) -> int:
    """r, the unknowns of a sample."""
    _, c, t, _ = layer.sensitivities.shape
    return 1 if t == 1 else c


@full_precision
def _rows(layer: LayerLinearization, delta: Float[Array, "N C T"]) -> Float[Array, "NC P"]:
    """``delta a``: the unit's Jacobian rows."""
    return jnp.einsum("nct,ntp->ncp", delta, layer.inputs).reshape(-1, layer.inputs.shape[-1])


@full_precision
def _gram(left: LayerLinearization, right: LayerLinearization) -> Float[Array, "NT MS"]:
    a, b = left.inputs, right.inputs
    return a.reshape(-1, a.shape[-1]) @ b.reshape(-1, b.shape[-1]).T


@full_precision
def _unit_kernel(left: Float[Array, "N C T"], gram: Float[Array, "NT MS"], right):
    """``delta (a a'^T) delta'^T`` as an (N*C, N'*C') matrix."""
    n, r, t = left.shape
    m, q, s = right.shape
    half = jnp.einsum("nrt,ntms->nrms", left, gram.reshape(n, t, m, s))
    return jnp.einsum("nrms,mqs->nrmq", half, right).reshape(n * r, m * q)
