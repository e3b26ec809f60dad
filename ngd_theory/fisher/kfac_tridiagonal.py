"""K-FAC with a block-tridiagonal inverse (Martens & Grosse 2015 section 4.3; docs/theory.md section 6)."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.errors import InputError, choose
from ngd_theory.fisher.base import Approximation, Look, approximation
from ngd_theory.fisher.damping import Damping
from ngd_theory.fisher.factored_damping import SPLITS, factored_damping
from ngd_theory.fisher.kfac import KFAC
from ngd_theory.fisher.kinds import Kind, TrueFisher, curvature_sensitivities
from ngd_theory.fisher.kronecker import TridiagonalInverse, invert_tridiagonal, kronecker_fisher
from ngd_theory.fisher.premises import input_rank, width
from ngd_theory.fisher.sample_coordinates import coordinates, sample_factors
from ngd_theory.linalg import differentiated_as, orthonormal_columns
from ngd_theory.networks import LayerLinearization, Linearization, ParameterLayout
from ngd_theory.precision import full_precision

#: Power of eps in the smallest damping. It balances the damping's own error against the round-off it amplifies.
RESOLVED = 7 / 8


@approximation
@dataclass(frozen=True)
class KFACTridiagonal(Approximation):
    """F-hat: its inverse is block-tridiagonal, and it agrees with K-FAC's F-tilde on the three central diagonals.

    The diagonal factors are damped as in `KFAC`, those between layers are not. Factors are held in an
    orthonormal basis of the samples' inputs and sensitivities: their sizes are at most min(N, P) and min(NC, M).
    Dense layers only.

    The limit rho -> 0 of the natural gradient exists, but it is not that of pseudo-inverses: all hidden layers but
    the last add nothing to K on the training set, and still their parameters move. A damping below the smallest
    resolved one, eps^(7/8) times the mean diagonal of ``A (x) B``, is replaced by it; so is zero.

    Attributes
    ----------
    kind : TrueFisher, SampledFisher or EmpiricalFisher
    damping_split : {"factored", "equal"}
        See `ngd_theory.fisher.factored_damping`.
    """

    name = "kfac-tridiagonal"
    look = Look("#E69F00", ">", "K-FAC, tridiagonal")
    named_only = "its test predictions are too near those of kfac for the claim distinct-minima, so name it to run it"
    needs_layers = True
    has_limit = False
    requirements = ("distinct-inputs", "full-rank-features", "full-rank-sensitivities")
    kind: Kind = field(default=TrueFisher())
    damping_split: str = "factored"

    def __post_init__(self):
        choose(SPLITS, self.damping_split, "damping_split")

    def broken_premises(self, sizes, num_samples, equal_leverages=False):
        """Premises for layer 1 up to depth 2 (deeper layers make up for it) and for hidden layers of full rank NC."""
        mend = " or depth 3"
        full = width(self.name, sizes, num_samples * sizes[-1].output_dim)
        return full if len(sizes) > 2 else input_rank(self.name, sizes, num_samples, mend) | full

    def factor(self, lin, damping):
        """The damping, for derivatives; the layers in the samples' bases, these bases, and the inverse in them."""
        # Constant for derivatives: these come from the samples' coordinates.
        lin, fixed = jax.lax.stop_gradient((lin, damping))
        small, bases = zip(*map(_compress, lin.layers), strict=True)
        return damping, (small, bases, self._inverse(lin, small, fixed))

    def precondition(self, lin, cotangent, factors):
        """Apply the inverse in the samples' basis, and go back."""
        damping, made = self.factored(lin, factors)
        return _natural_gradient(self, lin, cotangent, damping, made)

    def preconditioned_map(self, lin, factors, at):
        """``sum_i (Xi J(at)^T)_i^T S_i^-1 (Xi J^T)_i / N``, one direction of the inputs at a time."""
        damping, made = self.factored(lin, factors)
        return _map(self, lin, damping, at, made)

    def matched_damping(self, damping):
        """``damping^2``, as for `KFAC`."""
        return damping**2

    def workspace(self, sizes, num_samples, itemsize):
        """The samples' bases, and a dozen factors in them per layer."""
        c, n = sizes[-1].output_dim, num_samples
        sides = [(min(n, s.num_inputs), min(n * c, s.num_units)) for s in sizes]
        bases = sum(
            a * s.num_inputs + b * s.num_units for (a, b), s in zip(sides, sizes, strict=True)
        )
        return bases + 6 * sum(a**2 + b**2 for a, b in sides)

    def damping_bias(self, lin, damping):
        """The bound of `KFAC` times the depth: each layer couples to the next in proportion to it."""
        small, _ = zip(*map(_compress, lin.layers), strict=True)
        _, means = self._factors(lin, small)
        # The damping that is used, which is larger than an unresolved rho.
        taken = max(float(_resolved(damping, a, b)) for a, b in means)
        bound = KFAC(self.kind, damping_split=self.damping_split).damping_bias(lin, taken)
        return len(lin.layers) * bound

    def isotropy_constant(self, sizes, num_samples):
        """``1 + r (N - 1)/N`` with r the rank of the inputs of the last layer but one: N for wide networks.

        Layers before the last two add nothing: their inputs and sensitivities are functions of the next
        layer's on the samples. None if hidden layers are too narrow for that, or share weights over positions.
        """
        c, n = sizes[-1].output_dim, num_samples
        if any(s.positions > 1 for s in sizes):
            return None
        if len(sizes) == 1:
            return sizes[0].input_rank(n) / n
        features = min(s.input_rank(n) for s in sizes[1:])
        sensitivities = min(s.sensitivity_rank(n, c) for s in sizes[:-1])
        if features < n or sensitivities < n * c:
            return None
        return 1 + sizes[-2].input_rank(n) * (n - 1) / n

    def _factors(self, lin: Linearization, small: tuple[LayerLinearization, ...]):
        """Factors in the samples' bases, and the mean diagonals of the full factors, the units of damping."""
        root = self.kind.root(lin.outputs)
        curved = [
            replace(y, sensitivities=curvature_sensitivities(y.sensitivities, root)) for y in small
        ]
        fisher = kronecker_fisher(curved, bandwidth=1)
        # In the basis a factor loses only zeros, so the trace is that of the full factor.
        means = [
            (
                _positive(jnp.trace(fisher.inputs[i][0]) / y.layout.num_inputs),
                _positive(jnp.trace(fisher.sensitivities[i][0]) / y.layout.num_units),
            )
            for i, y in enumerate(lin.layers)
        ]
        return fisher, means

    @full_precision
    def _inverse(
        self, lin: Linearization, small: tuple[LayerLinearization, ...], damping: Damping
    ) -> TridiagonalInverse:
        fisher, means = self._factors(lin, small)
        return invert_tridiagonal(fisher, [self._dampings(damping, a, b) for a, b in means])

    def _dampings(self, damping: Damping, mean_a, mean_b):
        """rho_A and rho_B of a layer."""
        root = jnp.sqrt(_resolved(damping.value, mean_a, mean_b))
        return factored_damping(mean_a, mean_b, root, self.damping_split)


def _by_samples(self, lin: Linearization, cotangent, damping: Damping, made: Any = None):
    """The natural gradient in the form in which `_natural_gradient` is differentiated."""
    root = self.kind.root(lin.outputs)

    def factors(layer: LayerLinearization):
        layout = layer.layout

        def dampings(trace_a, trace_b):
            means = trace_a / layout.num_inputs, trace_b / layout.num_units
            return self._dampings(damping, *map(_positive, means))

        return sample_factors(layer, root, dampings)

    found = coordinates([factors(y) for y in lin.layers], root, cotangent)
    return lin.like_params(
        [
            y.layout.from_matrix(
                y.inputs[:, 0].T @ x @ y.sensitivities.reshape(-1, y.sensitivities.shape[-1])
            )
            for y, x in zip(lin.layers, found, strict=True)
        ]
    )


def _columns(self, lin: Linearization, damping: Damping, at: Linearization, made: Any):
    """The map in the form in which `_map` is differentiated."""
    n, c = lin.outputs.shape
    basis = jnp.eye(n * c, dtype=lin.outputs.dtype).reshape(n * c, n, c)
    return jax.lax.map(lambda e: at.jvp(_by_samples(self, lin, e, damping)).ravel(), basis).T


@differentiated_as(_by_samples)
@full_precision
def _natural_gradient(self, lin: Linearization, cotangent, damping: Damping, made: Any):
    small, bases, inverse = made
    gradient = [y.layout.to_matrix(y.vjp(cotangent / lin.num_samples)) for y in small]
    solved = inverse.apply(gradient)
    return lin.like_params(
        [
            layer.layout.from_matrix(a @ v @ b.T)
            for layer, (a, b), v in zip(lin.layers, bases, solved, strict=True)
        ]
    )


@differentiated_as(_columns)
def _map(self, lin: Linearization, damping: Damping, at: Linearization, made: Any):
    small, bases, inverse = made
    there = [_project(y, basis) for y, basis in zip(at.layers, bases, strict=True)]
    stages = inverse.stages
    terms = [
        _weighted_gram(
            _rotated(stage, there[i : i + 2]), _rotated(stage, small[i : i + 2]), stage.weights
        )
        for i, stage in enumerate(stages)
    ]
    return sum(terms[1:], terms[0]) / lin.num_samples


def _resolved(rho, mean_a: Float[Array, ""], mean_b: Float[Array, ""]) -> Float[Array, ""]:
    """The damping that is used: at least the smallest that the precision resolves."""
    unit = mean_a * mean_b
    return jnp.maximum(jnp.asarray(rho, unit.dtype), jnp.finfo(unit.dtype).eps ** RESOLVED * unit)


def _positive(mean: Float[Array, ""]) -> Float[Array, ""]:
    """A mean diagonal as a unit of damping: 1 for a layer that is all zeros."""
    return jnp.where(mean > 0, mean, 1)


Bases = tuple[Float[Array, "P p"], Float[Array, "M q"]]


def _compress(layer: LayerLinearization) -> tuple[LayerLinearization, Bases]:
    """The layer in orthonormal bases of its rows, and the bases."""
    if layer.inputs.shape[1] > 1:
        raise InputError(
            "kfac-tridiagonal is defined for layers with one position; with several (convolutions, tokens, a layer "
            "called twice) use kfac"
        )
    bases = _row_basis(layer.inputs), _row_basis(layer.sensitivities)
    return _project(layer, bases), bases


def _row_basis(rows: Float[Array, "*B p"]) -> Float[Array, "p k"]:
    """Orthonormal columns that span the rows; the identity if there are at least p rows."""
    rows = rows.reshape(-1, rows.shape[-1])
    count, size = rows.shape
    return jnp.eye(size, dtype=rows.dtype) if count >= size else orthonormal_columns(rows.T)


@full_precision
def _project(layer: LayerLinearization, bases: Bases) -> LayerLinearization:
    a, b = bases
    layout = ParameterLayout((a.shape[1], b.shape[1]), has_bias=False)
    return LayerLinearization(_within(layer.inputs, a), _within(layer.sensitivities, b), layout)


def _within(rows, basis: Float[Array, "p k"]):
    """Coordinates in a `_row_basis`; a square one is the identity."""
    return rows if basis.shape[0] == basis.shape[1] else rows @ basis


def _rotated(stage, layers):
    """Rows of ``(Xi J^T)_i`` in the basis of S_i: pairs of inputs (N, p) and sensitivities (N, C, q)."""
    pairs = [(y.inputs[:, 0], y.sensitivities[:, :, 0]) for y in layers]
    if stage.regression:
        psi_a, psi_b = stage.regression
        a, b = pairs[1]
        pairs[1] = a @ psi_a.T, b @ psi_b.T
    a, b = stage.basis
    return [(x @ a, y @ b) for x, y in pairs]


def _weighted_gram(left, right, weights: Float[Array, "p q"]) -> Float[Array, "MC NC"]:
    """``sum_pq weights[p,q] Z(at)[:,p,q] Z[:,p,q]^T``; only one Z[:,p] is held at a time."""

    def rows(pairs, p):
        own, *following = [x[:, None, None, p] * y for x, y in pairs]
        z = own - following[0] if following else own
        return z.reshape(-1, z.shape[-1])

    def add(total, p):
        return total + (rows(left, p) * weights[p][None]) @ rows(right, p).T, None

    (x, y), (x_at, y_at) = right[0], left[0]
    shape = (len(x_at) * y_at.shape[1], len(x) * y.shape[1])
    total, _ = jax.lax.scan(add, jnp.zeros(shape, weights.dtype), jnp.arange(len(weights)))
    return total
