"""Preconditioners of the optimiser: statistics of a batch, and an inverse made from their running averages.

Each works on one layer at a time, on its (P, M) matrix of parameters. The inputs are a (N, T, P); the sensitivities
delta (N, K, T, M) are those of targets drawn from the model (docs/theory.md sections 6 and 9). ``gamma^2`` is the
damping on the scale of the preconditioner itself.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.fisher.entry_wise import diagonal_fisher
from ngd_theory.fisher.factored_damping import factored_damping
from ngd_theory.fisher.kronecker import (
    DiagonalInverse,
    KroneckerFisher,
    invert_diagonal,
    invert_tridiagonal,
    kronecker_fisher,
)
from ngd_theory.linalg import cholesky_factor, eigh, lower_inverse
from ngd_theory.networks import LayerLinearization, ParameterLayout
from ngd_theory.precision import full_precision
from ngd_theory.pytrees import pytree

Matrix = Float[Array, "_ _"]


class Preconditioner(abc.ABC):
    """Makes statistics from a batch, and inverts them. It has no state of its own."""

    #: Whether it is defined for layers of one position only.
    dense_only: ClassVar[bool] = False
    #: Whether `correct` does anything.
    corrects: ClassVar[bool] = False

    @abc.abstractmethod
    def statistics(self, layers: Sequence[LayerLinearization]) -> Any:
        """Means over the samples of a batch, as a pytree; the optimiser keeps their running averages."""

    @abc.abstractmethod
    def inverses(self, statistics: Any) -> Callable[[Float[Array, ""]], Any]:
        """The function from gamma to the inverse; eigenvectors, which do not depend on gamma, are computed once.

        An inverse is a pytree whose ``apply`` maps (P, M) matrices, one per layer, to the preconditioned ones.
        """

    def correct(self, inverse: Any, layers: Sequence[LayerLinearization], decay: float) -> Any:
        """The inverse after another batch; by default it stays the same until the next refresh."""
        return inverse


class BlockDiagonal(Preconditioner):
    """F-breve: ``A (x) B`` of each layer, with factored Tikhonov damping [K-FAC, sections 4.2 and 6.3; KFC]."""

    def statistics(self, layers):
        """A and B of each layer."""
        return kronecker_fisher(layers, 0)

    def inverses(self, statistics):
        """Two Cholesky factorisations per layer and gamma."""
        return lambda gamma: invert_diagonal(statistics, _factor_dampings(statistics, gamma))


class BlockTridiagonal(Preconditioner):
    """F-hat, whose inverse is block-tridiagonal [K-FAC, section 4.3]."""

    dense_only = True

    def statistics(self, layers):
        """A and B of each layer, and between neighbours."""
        return kronecker_fisher(layers, 1)

    def inverses(self, statistics):
        """See `invert_tridiagonal`."""
        return lambda gamma: invert_tridiagonal(statistics, _factor_dampings(statistics, gamma))


@pytree("inputs", "sensitivities", "moments", "count", "damping")
@dataclass(frozen=True)
class EigenInverse:
    """Inverses that are diagonal in a basis of each factor, ``V -> U_A ((U_A^T V U_B)/(s + rho)) U_B^T``.

    Attributes
    ----------
    inputs, sensitivities : tuples of (P, P) and (M, M) arrays
        Eigenvectors of A and of B, as columns.
    moments : tuple of (P, M) arrays
        s: K-FAC's products of eigenvalues at first, then running averages of second moments.
    count : int32
        Batches in the averages.
    damping : tuple of scalar arrays
        rho of each layer, no smaller than the rounding of s.
    """

    inputs: tuple[Array, ...]
    sensitivities: tuple[Array, ...]
    moments: tuple[Array, ...]
    count: Array
    damping: tuple[Array, ...]

    def apply(self, matrices: Sequence[Matrix]) -> list[Matrix]:
        """Inverse times a vector, given as one (P_i, M_i) matrix per layer."""
        layers = zip(
            self.inputs, self.sensitivities, self.moments, self.damping, matrices, strict=True
        )
        return [a @ ((a.T @ v @ b) / (s + rho)) @ b.T for a, b, s, rho, v in layers]


class EKFAC(Preconditioner):
    """K-FAC's eigenbasis, with second moments of the gradients in it (George et al. 2018, with a running average).

    The basis is recomputed with every inverse; the moments are updated with every batch of statistics. The damping is
    added to the moments: ``s + gamma^2``.
    """

    corrects = True

    def statistics(self, layers):
        """Those of K-FAC."""
        return kronecker_fisher(layers, 0)

    @full_precision
    def inverses(self, statistics):
        """Two eigendecompositions per layer; the moments are K-FAC's until `correct` has seen a batch."""
        found = [
            [eigh(matrix) for matrix in statistics.block(i, i)] for i in range(statistics.depth)
        ]
        moments = tuple(jnp.maximum(a, 0)[:, None] * jnp.maximum(b, 0) for (a, _), (b, _) in found)
        return lambda gamma: EigenInverse(
            tuple(u for (_, u), _ in found),
            tuple(v for _, (_, v) in found),
            moments,
            jnp.zeros((), jnp.int32),
            tuple(_at_least_rounding(gamma**2, jnp.max(s), len(s)) for s in moments),
        )

    @full_precision
    def correct(self, inverse, layers, decay):
        """``s_ij = (1/N) sum (sum_t (u_j . a)(v_i . delta))^2``, averaged since the basis was made."""
        count = inverse.count + 1
        moments = []
        for layer, a, b, old in zip(
            layers, inverse.inputs, inverse.sensitivities, inverse.moments, strict=True
        ):
            rotated = LayerLinearization(
                layer.inputs @ a,
                layer.sensitivities @ b,
                ParameterLayout(old.shape, has_bias=False),
            )
            keep = jnp.minimum(1 - 1 / count.astype(old.dtype), decay)
            moments.append(keep * old + (1 - keep) * diagonal_fisher(rotated)["weight"])
        return replace(inverse, moments=tuple(moments), count=count)


@pytree("inputs")
@dataclass(frozen=True)
class InputInverse:
    """``V -> A^-1 V``."""

    inputs: tuple[Array, ...]

    def apply(self, matrices: Sequence[Matrix]) -> list[Matrix]:
        """Inverse times a vector, given as one (P_i, M_i) matrix per layer."""
        return [a @ v for a, v in zip(self.inputs, matrices, strict=True)]


class KFACInput(Preconditioner):
    """FOOF (Benzing 2022): ``(A + gamma^2) (x) I``, K-FAC without its output factor.

    It has the scale of the inputs, not of the Fisher. gamma must have this scale too: give ``factor_damping``.
    """

    def statistics(self, layers):
        """A of each layer."""
        rows = [y.inputs.reshape(-1, y.inputs.shape[-1]) for y in layers]
        return tuple(a.T @ a / len(y.inputs) for a, y in zip(rows, layers, strict=True))

    def inverses(self, statistics):
        """One Cholesky factorisation per layer and gamma."""
        return lambda gamma: InputInverse(tuple(_inverse(a, gamma**2) for a in statistics))


class Shampoo(Preconditioner):
    """``(A + gamma^2)^(1/2) (x) (B + gamma^2)^(1/2)``: second moments of samples' gradients (Gupta et al. 2018).

    ``A = (1/N) sum g g^T`` and ``B = (1/N) sum g^T g`` with the gradients ``g = sum_t a delta^T`` (P, M) of drawn
    targets. gamma^2 is on the scale of these moments.
    """

    @full_precision
    def statistics(self, layers):
        """A and B of each layer."""
        return tuple(_gradient_moments(layer) for layer in layers)

    @full_precision
    def inverses(self, statistics):
        """Two eigendecompositions per layer."""
        found = [[eigh(matrix) for matrix in pair] for pair in statistics]

        def inverse(gamma):
            roots = [[_inverse_root(*each, gamma**2) for each in pair] for pair in found]
            return DiagonalInverse(tuple(a for a, _ in roots), tuple(b for _, b in roots))

        return inverse


#: By the option ``structure``; a new preconditioner is one class and one entry.
PRECONDITIONERS: Mapping[str, Preconditioner] = MappingProxyType(
    {
        "block-diagonal": BlockDiagonal(),
        "block-tridiagonal": BlockTridiagonal(),
        "ekfac": EKFAC(),
        "kfac-input": KFACInput(),
        "shampoo": Shampoo(),
    }
)


def _at_least_rounding(rho, largest, size: int):
    """The larger of ``rho`` and the rounding of a matrix whose largest or mean eigenvalue is ``largest``."""
    return jnp.maximum(rho, size * jnp.finfo(largest.dtype).eps * largest)


def _factor_dampings(factors: KroneckerFisher, gamma):
    """A pair (rho_A, rho_B) per layer, not below rounding, because factorisations would fail there."""
    found = []
    for i in range(factors.depth):
        pair = factors.block(i, i)
        means = [jnp.trace(m) / len(m) for m in pair]
        shares = zip(factored_damping(means[0], means[1], gamma), pair, means, strict=True)
        found.append(tuple(_at_least_rounding(rho, mean, len(m)) for rho, m, mean in shares))
    return found


@full_precision
def _inverse(matrix: Float[Array, "n n"], rho):
    rho = _at_least_rounding(rho, jnp.trace(matrix) / len(matrix), len(matrix))
    root = lower_inverse(cholesky_factor(matrix + rho * jnp.eye(len(matrix), dtype=matrix.dtype)))
    return root.T @ root


@full_precision
def _inverse_root(eigenvalues: Float[Array, " n"], vectors: Float[Array, "n n"], rho):
    rho = _at_least_rounding(rho, jnp.max(eigenvalues), len(vectors))
    # For a matrix of zeros this is the damping alone, or zero if that is zero too.
    scale = jnp.maximum(eigenvalues, 0) + rho
    return (vectors * jax.lax.rsqrt(scale)) @ vectors.T


def _gradient_moments(layer: LayerLinearization) -> tuple[Array, Array]:
    """``(1/N) sum g g^T`` and ``(1/N) sum g^T g`` over samples and drawn targets."""
    a, delta = layer.inputs, layer.sensitivities
    n, _, t, _ = delta.shape
    if t == 1:
        a, by_delta = a[:, 0], jnp.sum(delta[:, :, 0] ** 2, (1, 2))
        rows, by_inputs = delta.reshape(-1, delta.shape[-1]), jnp.sum(a**2, 1)
        weights = jnp.repeat(by_inputs, delta.shape[1])
        return (a * by_delta[:, None]).T @ a / n, (rows * weights[:, None]).T @ rows / n

    def one_sample(total, sample):
        inputs, sensitivities = sample
        gradients = jnp.einsum("tp,ktm->kpm", inputs, sensitivities)
        of_inputs = jnp.einsum("kpm,kqm->pq", gradients, gradients)
        of_sensitivities = jnp.einsum("kpm,kpo->mo", gradients, gradients)
        return (total[0] + of_inputs / n, total[1] + of_sensitivities / n), None

    of_inputs, of_sensitivities = (
        jnp.zeros((side, side), delta.dtype) for side in (a.shape[-1], delta.shape[-1])
    )
    return jax.lax.scan(one_sample, (of_inputs, of_sensitivities), (a, delta))[0]
