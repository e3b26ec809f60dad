"""EKFAC: second moments in the eigenbasis of K-FAC (George et al. 2018; docs/theory.md section 9)."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.fisher.base import Approximation, Look, approximation
from ngd_theory.fisher.damping import Damping, as_damping
from ngd_theory.fisher.entry_wise import diagonal_fisher, inverse_of_diagonal, weighted_kernel
from ngd_theory.fisher.kinds import Kind, TrueFisher, curvature_sensitivities
from ngd_theory.fisher.law import mean_share
from ngd_theory.fisher.premises import of_both_factors
from ngd_theory.fisher.solve import as_rows, but_round_off
from ngd_theory.kernels import layer_kernel
from ngd_theory.linalg import by_shape, is_tall, kept, resting_eigh, smaller_gram
from ngd_theory.networks import LayerLinearization, ParameterLayout
from ngd_theory.precision import full_precision
from ngd_theory.pytrees import pytree


@pytree("inputs", "sensitivities", "inverse", "outside")
@dataclass(frozen=True)
class Eigenbasis:
    """One layer's ``(G_l + rho)^-1`` in K-FAC's eigenbasis.

    Attributes
    ----------
    inputs : (r, P)
        Eigenvectors v_j of A as rows; zero rows outside the range of a.
    sensitivities : (q, M)
        Eigenvectors w_i of B.
    inverse : (r, q)
        ``1/(s + rho)``; at rho = 0 it is 0 where s is 0.
    outside : LayerLinearization or None
        The part of the sensitivities that B misses, divided by rho. None for Lambda = I, which has no such
        part, and at rho = 0.
    """

    inputs: Array
    sensitivities: Array
    inverse: Array
    outside: LayerLinearization | None

    def rotated(self, layer: LayerLinearization) -> LayerLinearization:
        """The layer's rows in the basis."""
        shape = (len(self.inputs), len(self.sensitivities))
        return LayerLinearization(
            layer.inputs @ self.inputs.T,
            layer.sensitivities @ self.sensitivities.T,
            ParameterLayout(shape, has_bias=False),
        )


@approximation
@dataclass(frozen=True)
class EKFAC(Approximation):
    """``G_l = sum_ij s_ij (v_j v_j^T) (x) (w_i w_i^T)``: the diagonal of the Fisher in K-FAC's eigenbasis.

    ``s_ij = (1/N) sum_{n,c} (sum_t delta'[n,c,t,i] a'[n,t,j])^2`` with inputs and sensitivities in the eigenvectors of
    ``A = (1/N) sum a a^T`` and ``B = (1/(N T)) sum delta delta^T``. The damping comes after the correction: it is added
    to G itself, ``s + rho``. The bases have min(NT, P) and min(NCT, M) vectors, and a natural gradient goes through an
    (r, q) matrix of coordinates.

    EKFAC is nearer to the Fisher in the Frobenius norm than K-FAC, but less isotropic. tr K_l is exactly that of K-FAC,
    and the dispersion of a hidden layer does not fall with the width. It is ``2/(N sqrt(C))`` if the eigenvectors of
    the layer's Gram matrices are random, as with Gaussian inputs, and larger if they concentrate on few samples, as
    with images.

    If eigenvalues of a factor are equal and the Fisher's are not, G depends on the choice of eigenvectors, so it is not
    a function of the network. Derivatives assume that eigenvectors of equal eigenvalues do not turn among themselves.
    There are none by a factor of zeros, which has no eigenvectors to hold.

    Attributes
    ----------
    kind : TrueFisher, SampledFisher or EmpiricalFisher
        Which Fisher B and s are of.
    """

    name = "ekfac"
    look = Look("#9467BD", "p", "EKFAC")
    named_only = "its K keeps a dispersion at every width, so name it to run it"
    needs_layers = True
    by_layers = True
    trace_only = True
    has_limit = False
    requirements = (
        "distinct-inputs",
        "general-position",
        "equal-leverages",
        "full-rank-sensitivities",
    )
    kind: Kind = field(default=TrueFisher())

    @full_precision
    def factor(self, lin, damping):
        """Every layer's eigenbasis, and the damped moments there."""
        root = self.kind.root(lin.outputs)
        rows = []
        for layer in lin.layers:
            n, _, t, _ = layer.sensitivities.shape
            curved = curvature_sensitivities(layer.sensitivities, root)
            rows += [(as_rows(layer.inputs), 1 / n), (as_rows(curved), 1 / (n * t))]
        bases = _eigenvectors(rows)
        pairs = zip(lin.layers, bases[::2], bases[1::2], strict=True)
        return tuple(_eigenbasis(layer, of_a, of_b, root, damping) for layer, of_a, of_b in pairs)

    def precondition(self, lin, cotangent, factors):
        """Into the basis, divided by the moments, and back: one matmul of the gradient's size per layer."""
        bases = self.factored(lin, factors)
        cotangent = cotangent / lin.num_samples
        pairs = zip(lin.layers, bases, strict=True)
        return lin.like_params([_step(layer, basis, cotangent) for layer, basis in pairs])

    def layer_terms(self, lin, factors, at):
        """``(1/N) sum_ij g_ij(at) g_ij^T / (s_ij + rho)``, ``g_ij = sum_t delta'_i a'_j``."""
        found = []
        for here, there, basis in zip(
            lin.layers, at.layers, self.factored(lin, factors), strict=True
        ):
            term = weighted_kernel(basis.rotated(there), basis.rotated(here), basis.inverse)
            if basis.outside is not None:
                term = term + layer_kernel(there, basis.outside)
            found.append(term / lin.num_samples)
        return found

    def workspace(self, sizes, num_samples, itemsize):
        """Bases, rows in them, moments, eigenvectors, and the largest matrices that are diagonalised."""
        c, n = sizes[-1].output_dim, num_samples
        total, largest = 0, 0
        for s in sizes:
            rows = n * s.positions, n * c * s.positions
            r, q = min(rows[0], s.num_inputs), min(rows[1], s.num_units)
            total += r * s.num_inputs + q * s.num_units + rows[0] * r + rows[1] * q + 2 * r * q
            total += r**2 + q**2
            largest = max(largest, 2 * (r**2 + q**2))
        return total + largest

    def damping_bias(self, lin, damping):
        """``tr(K(0) - K(rho)) / tr K(0)``: the mean of ``rho / (s_ij + rho)`` over non-zero moments."""
        inverse = [basis.inverse for basis in self.factor(lin, as_damping(0.0, lin.outputs.dtype))]
        relative = damping * np.concatenate([np.ravel(each[each > 0]) for each in inverse])
        return float(np.mean(relative / (1 + relative))) if relative.size else 0.0

    def broken_premises(self, sizes, num_samples, equal_leverages=False):
        """Premises for layer 1 (unless the leverages are equal) and for hidden layers of full rank NC."""
        return of_both_factors(self.name, sizes, num_samples, equal_leverages)

    def layer_constants(self, sizes, num_samples):
        """As for K-FAC: ``sum_nc g_ij[nc]^2 / s_ij = N`` for every pair of eigenvectors, so only ranks count.

        None with several positions: then perhaps no sample sees a pair of eigenvectors.
        """
        if any(s.positions > 1 for s in sizes):
            return None
        return tuple(mean_share(s, num_samples, sizes[-1].output_dim) for s in sizes)


def _eigenbasis(layer: LayerLinearization, of_a, of_b, root, damping: Damping) -> Eigenbasis:
    """The layer's moments in given eigenvectors, damped and inverted."""
    (values_a, inputs), (values_b, sensitivities) = of_a, of_b
    delta = layer.sensitivities
    basis = Eigenbasis(inputs, sensitivities, jnp.zeros((), delta.dtype), None)
    rotated = basis.rotated(layer)
    # Combined after the rotation, so that the curvature's rows of all layers need not be held.
    curved = curvature_sensitivities(rotated.sensitivities, root)
    moments = diagonal_fisher(replace(rotated, sensitivities=curved))["weight"]
    # A pair of directions that no sample shares has a moment of round-off only.
    floor = jnp.finfo(delta.dtype).eps * jax.lax.stop_gradient(values_a[:, None] * values_b[None])
    inverse = inverse_of_diagonal(jnp.where(moments > floor, moments, 0), damping)
    if root is None or damping.zero:
        return replace(basis, inverse=inverse)
    rest = but_round_off(delta - (delta @ sensitivities.T) @ sensitivities, delta)
    positive = damping.value > 0
    rest = jnp.where(positive, rest, 0) / jnp.where(positive, damping.value, 1).astype(delta.dtype)
    return replace(basis, inverse=inverse, outside=replace(layer, sensitivities=rest))


@full_precision
def _eigenvectors(rows: list[tuple[Float[Array, "_ _"], float]]) -> list[tuple[Array, Array]]:
    """Eigenvalues (r,) of ``scale X^T X`` and eigenvectors as rows (r, P), for each X and scale.

    Both are zero below round-off.
    """
    systems = by_shape(resting_eigh, [scale * smaller_gram(x) for x, scale in rows])
    found = []
    for (x, scale), (eigenvalues, vectors) in zip(rows, systems, strict=True):
        keep = kept(eigenvalues) & ~(eigenvalues <= 0)
        eigenvalues = jnp.where(keep, eigenvalues, 0)
        lengths = 1.0 if is_tall(x) else (scale / jnp.where(keep, eigenvalues, 1)) ** 0.5
        basis = vectors.T if is_tall(x) else vectors.T @ x
        found.append((eigenvalues, jnp.where(keep, lengths, 0).astype(x.dtype)[:, None] * basis))
    return found


def _step(layer: LayerLinearization, basis: Eigenbasis, cotangent) -> dict[str, Array]:
    # `pull_back` takes the eigenvectors of A as samples of one position.
    back = _coordinates(layer, basis, cotangent) @ basis.sensitivities
    step = layer.layout.pull_back(basis.inputs[:, None], back[:, None])
    if basis.outside is None:
        return step
    rest = basis.outside.vjp(cotangent)
    return {name: step[name] + rest[name] for name in step}


@full_precision
def _coordinates(layer: LayerLinearization, basis: Eigenbasis, cotangent) -> Float[Array, "r q"]:
    """``(G + rho)^-1 J^T cotangent`` in the basis; in full precision, as it is divided by moments."""
    return basis.rotated(layer).vjp(cotangent)["weight"] * basis.inverse
