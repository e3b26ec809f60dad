"""The Kronecker-factored Fisher of Martens & Grosse (2015) and its two inverses.

With layer inputs a and sensitivities delta (docs/theory.md section 1) block (i, j) of the exact Fisher is
``E[(a_i a_j^T) (x) (delta_i delta_j^T)]``; K-FAC takes the expectation of each factor separately,

    Ft_ij = A_ij (x) B_ij,   A_ij = (1/N) sum_n a_i a_j^T,   B_ij = (1/N) sum_{n,k} delta_i delta_j^T,

which is F-tilde of the paper (its factors are called Abar_{i-1,j-1} and G_{i,j} there). Two approximations of
it are cheap to invert. F-breve (`invert_diagonal`) is its block diagonal. F-hat (`invert_tridiagonal`) agrees
with it on the three central block diagonals and has a block-tridiagonal *inverse*. Only `KroneckerFisher.dense`
forms anything larger than a factor. The (P, M) matrix V of a layer is vectorised row by row:
``(A (x) B) vec(V) = vec(A V B^T)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.arguments import check_range, checked, is_number
from ngd_theory.errors import InputError, shown
from ngd_theory.linalg import by_shape, cholesky_factor, gram, lower_inverse, resting_eigh
from ngd_theory.networks import LayerLinearization
from ngd_theory.precision import full_precision
from ngd_theory.pytrees import pytree

#: rho_A and rho_B of a layer: numbers or scalar arrays.
FactorDamping = tuple[Any, Any]


@pytree("inputs", "sensitivities")
@dataclass(frozen=True)
class KroneckerFisher:
    """Second moments of inputs and sensitivities, for pairs of layers up to `bandwidth` apart.

    Attributes
    ----------
    inputs : tuple of tuple of (P_i, P_j) arrays
        ``inputs[i][j - i] = A_ij`` for ``i <= j <= i + bandwidth``.
    sensitivities : tuple of tuple of (M_i, M_j) arrays
        ``B_ij`` likewise.
    """

    made_by: ClassVar[str] = "ngd.fisher.kronecker_fisher(layers)"
    inputs: tuple[tuple[Array, ...], ...]
    sensitivities: tuple[tuple[Array, ...], ...]

    @property
    def depth(self) -> int:
        """L."""
        return len(self.inputs)

    @property
    def bandwidth(self) -> int:
        """Largest distance between two layers whose factors are held."""
        return len(self.inputs[0]) - 1

    def block(self, i: int, j: int) -> tuple[Float[Array, "P Q"], Float[Array, "M K"]]:
        """Factors ``(A_ij, B_ij)``; i and j are 0-based and in either order.

        Raises
        ------
        InputError
            For layers further apart than `bandwidth`.
        """
        if abs(i - j) > self.bandwidth:
            raise InputError(
                f"layers {i + 1} and {j + 1} are further apart than the bandwidth {self.bandwidth} of these factors"
            )
        if i > j:
            a, b = self.block(j, i)
            return a.T, b.T
        return self.inputs[i][j - i], self.sensitivities[i][j - i]

    def dense(self) -> Float[Array, "P P"]:
        """F-tilde as one matrix of all parameters, zero beyond `bandwidth`: for small networks only.

        Layer l's parameters are its (P_l, M_l) matrix row by row.
        """
        sizes = [
            len(a[0]) * len(b[0]) for a, b in zip(self.inputs, self.sensitivities, strict=True)
        ]
        return jnp.block(
            [
                [
                    jnp.kron(*self.block(i, j))
                    if abs(i - j) <= self.bandwidth
                    else jnp.zeros((sizes[i], sizes[j]), self.inputs[0][0].dtype)
                    for j in range(self.depth)
                ]
                for i in range(self.depth)
            ]
        )


@checked
def kronecker_fisher(
    layers: Sequence[LayerLinearization], bandwidth: int | None = None
) -> KroneckerFisher:
    """Factors from layer inputs and curvature sensitivities.

    ``A_ij = (1/N) sum_{n,t} a_i a_j^T`` and ``B_ij = (1/(N T)) sum_{n,k,t} delta_i delta_j^T``. The sum over k
    is the expectation over targets. It is exact for the rows of ``R^T delta``, and a sample for one sampled score.

    Parameters
    ----------
    layers : sequence of LayerLinearization
        Inputs (N, T, P) and curvature sensitivities (N, K, T, M), as `ngd_theory.networks.backpropagate` or
        `ngd_theory.fisher.curvature_sensitivities` give them.
    bandwidth : int, optional
        Largest distance between layers: 0 for the block diagonal, 1 for F-hat, all pairs when None.

    Raises
    ------
    InputError
        For no layers, a negative bandwidth, or factors between layers that share weights over positions (convolutions).
    """
    depth = len(layers)
    if depth == 0:
        raise InputError("layers is empty; give those of a network")
    bandwidth = depth - 1 if bandwidth is None else min(bandwidth, depth - 1)
    if bandwidth < 0:
        raise InputError(f"bandwidth is {bandwidth}; it must be at least 0")
    if bandwidth and any(layer.inputs.shape[1] > 1 for layer in layers):
        raise InputError(
            "factors between layers are defined for dense layers; a convolution has only its own (bandwidth 0)"
        )
    a = [layer.inputs.reshape(-1, layer.inputs.shape[-1]) for layer in layers]
    b = [layer.sensitivities.reshape(-1, layer.sensitivities.shape[-1]) for layer in layers]
    scales = [1 / layer.inputs.shape[0] for layer in layers]
    positions = [layer.inputs.shape[1] for layer in layers]

    def banded(rows, scales):
        return tuple(
            tuple(
                scales[i] * (rows[i].T @ rows[j]) for j in range(i, min(i + bandwidth + 1, depth))
            )
            for i in range(depth)
        )

    return KroneckerFisher(
        banded(a, scales),
        banded(b, [s / t for s, t in zip(scales, positions, strict=True)]),
    )


@pytree("inputs", "sensitivities")
@dataclass(frozen=True)
class DiagonalInverse:
    """The inverse of F-breve: ``V_i -> A_i^-1 V_i B_i^-1``.

    Attributes
    ----------
    inputs : tuple of (P_i, P_i) arrays
    sensitivities : tuple of (M_i, M_i) arrays
    """

    inputs: tuple[Array, ...]
    sensitivities: tuple[Array, ...]

    def apply(self, matrices: Sequence[Float[Array, "_ _"]]) -> list[Array]:
        """Inverse times a vector, given as one (P_i, M_i) matrix per layer."""
        return [
            a @ v @ b for a, v, b in zip(self.inputs, matrices, self.sensitivities, strict=True)
        ]


@checked
@full_precision
def invert_diagonal(fisher: KroneckerFisher, damping: Sequence[FactorDamping]) -> DiagonalInverse:
    """Invert every layer's ``(A_ii + rho_A) (x) (B_ii + rho_B)``, with two Cholesky factorisations per layer.

    Raises
    ------
    InputError
        Unless ``damping`` has a pair (rho_A, rho_B) for every layer.
    """
    _check_pairs(fisher, damping)
    diagonal = [fisher.block(i, i) for i in range(fisher.depth)]
    whitened = [
        tuple(_whitening(m, rho) for m, rho in zip(pair, rhos, strict=True))
        for pair, rhos in zip(diagonal, damping, strict=True)
    ]
    return DiagonalInverse(tuple(gram(w) for w, _ in whitened), tuple(gram(w) for _, w in whitened))


@pytree("basis", "weights", "regression")
@dataclass(frozen=True)
class _Stage:
    """One layer of F-hat's inverse, ``S_i^-1`` and ``Psi_i``, each for inputs and sensitivities.

    Attributes
    ----------
    basis : ((P_i, p), (M_i, q))
        Directions in which both factors of S_i are diagonal.
    weights : (p, q)
        Inverse of S_i in that basis.
    regression : ((P_i, P_{i+1}), (M_i, M_{i+1})) or ()
        Factors of ``Psi_i = Ft_{i,i+1} Ft_{i+1,i+1}^-1``; empty for the last layer.
    """

    basis: tuple[Array, Array]
    weights: Array
    regression: tuple[Array, ...]

    def solve(self, matrix: Float[Array, "P M"]) -> Float[Array, "P M"]:
        """``S_i^-1 V``."""
        a, b = self.basis
        return a @ (self.weights * (a.T @ matrix @ b)) @ b.T


@pytree("stages")
@dataclass(frozen=True)
class TridiagonalInverse:
    """The inverse of F-hat, ``Xi^T diag(S_1^-1, .., S_L^-1) Xi`` with Xi unit upper block-bidiagonal.

    ``S_i = Ft_ii - Psi_i Ft_{i+1,i+1} Psi_i^T`` is the difference of two Kronecker products ``A (x) B - C (x) D``.
    It is positive semi-definite, as ``C <= A`` and ``D <= B`` are conditional moments: with whitened
    ``C = E diag(s) E^T`` and ``D = E' diag(s') E'^T`` its spectrum is ``1 - s s'``, where s and s' are the squared
    canonical correlations of a layer's inputs (sensitivities) with the next layer's.
    """

    stages: tuple[_Stage, ...]

    def apply(self, matrices: Sequence[Float[Array, "_ _"]]) -> list[Array]:
        """Inverse times a vector, given as one (P_i, M_i) matrix per layer."""
        regressions = [stage.regression for stage in self.stages[:-1]]
        right = [
            psi_a @ v @ psi_b.T for (psi_a, psi_b), v in zip(regressions, matrices[1:], strict=True)
        ]
        conditional = [v - w for v, w in zip(matrices, right, strict=False)]
        solved = [
            stage.solve(v)
            for stage, v in zip(self.stages, [*conditional, matrices[-1]], strict=True)
        ]
        back = [psi_a.T @ w @ psi_b for (psi_a, psi_b), w in zip(regressions, solved, strict=False)]
        return [solved[0], *(w - spread for w, spread in zip(solved[1:], back, strict=True))]


@checked
@full_precision
def invert_tridiagonal(
    fisher: KroneckerFisher, damping: Sequence[FactorDamping]
) -> TridiagonalInverse:
    """Invert F-hat, with dampings added to the diagonal blocks of the factors.

    Without damping S_i is singular if a layer's inputs and sensitivities are both functions of the next
    layer's. Then the limit of the inverse depends on how the dampings go to zero. The cost is one Cholesky
    factorisation and one eigendecomposition of the size of each factor.

    Parameters
    ----------
    fisher : KroneckerFisher
        Of bandwidth at least 1 (or one layer).
    damping : sequence of (rho_A, rho_B)
        One pair per layer; positive.

    Raises
    ------
    InputError
        Unless ``damping`` has a pair for every layer.
    """
    _check_pairs(fisher, damping)
    whitened = [
        tuple(_whitening(m, rho) for m, rho in zip(fisher.block(i, i), rhos, strict=True))
        for i, rhos in zip(range(fisher.depth), damping, strict=True)
    ]
    canonical = _canonical(
        [
            each
            for i, pairs in enumerate(pairwise(whitened))
            for each in zip(fisher.block(i, i + 1), *pairs, strict=True)
        ]
    )
    stages = []
    for sides in zip(canonical[::2], canonical[1::2], strict=True):
        basis, squares, regression = zip(*sides, strict=True)
        remaining = 1 - squares[0][:, None] * squares[1][None, :]
        floor = max(remaining.shape) * jnp.finfo(remaining.dtype).eps
        stages.append(_Stage(basis, 1 / jnp.maximum(remaining, floor), regression))
    a, b = whitened[-1]
    last = jnp.ones((a.shape[1], b.shape[1]), a.dtype)
    return TridiagonalInverse((*stages, _Stage((a, b), last, ())))


def _check_pairs(fisher: KroneckerFisher, damping: Sequence[FactorDamping]) -> None:
    if len(damping) != fisher.depth:
        raise InputError(f"damping has {len(damping)} pairs for {fisher.depth} layers")
    for layer, pair in enumerate(damping):
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(map(is_number, pair)):
            raise InputError(
                f"damping[{layer}] is {shown(pair)}; it must be a pair of numbers (rho_A, rho_B)"
            )
        for rho in pair:
            check_range(f"damping[{layer}]", rho, fisher.inputs[0][0].dtype)


def _whitening(matrix: Float[Array, "n n"], rho) -> Float[Array, "n n"]:
    """W with ``W W^T = (matrix + rho I)^-1``."""
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)
    return lower_inverse(cholesky_factor(matrix + rho * identity)).T


def _canonical(sides: list[tuple[Array, Array, Array]]) -> list[tuple[Array, Array, Array]]:
    """Bases (P, p) that diagonalise the conditional moments, squared correlations (p,), and regressions (P, Q).

    Each is for one coupling (P, Q), with the whitenings (P, P) of its layer and (Q, Q) of the next one.
    """
    correlations = [here.T @ coupling @ following for coupling, here, following in sides]
    systems = by_shape(resting_eigh, [each @ each.T for each in correlations])
    return [
        (here @ rotation, jnp.clip(squares, 0, 1), coupling @ following @ following.T)
        for (coupling, here, following), (squares, rotation) in zip(sides, systems, strict=True)
    ]
