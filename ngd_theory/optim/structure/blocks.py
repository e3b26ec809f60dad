"""Blocks (i, j) of large symmetric matrices, computed on demand."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import get_lapack_funcs

from ngd_theory.errors import InputError
from ngd_theory.fisher.kronecker import FactorDamping, KroneckerFisher, TridiagonalInverse
from ngd_theory.networks import LayerLinearization

#: Matrix -> what it approximates.
REFERENCES = {
    "kronecker": "exact",
    "kronecker-inverse": "exact-inverse",
    "block-diagonal": "kronecker-damped",
    "block-tridiagonal": "kronecker-damped",
    "block-diagonal-inverse": "kronecker-inverse",
    "block-tridiagonal-inverse": "kronecker-inverse",
}

#: Block (i, j), i <= j, of a symmetric matrix.
BlockOf = Callable[[int, int], np.ndarray]


class Record:
    """Summary numbers of blocks; the blocks need not be in memory together."""

    def __init__(self, sizes: Sequence[int]):
        self.sizes = sizes
        self.means: dict[str, np.ndarray] = {}
        self.norms: dict[str, np.ndarray] = {}
        self.distances: dict[str, np.ndarray] = {}
        self.dense: dict[str, np.ndarray] = {}

    def add(self, name: str, blocks: dict[str, BlockOf]) -> None:
        """Record every block of the matrix ``name`` and of its reference; each is computed once."""
        depth = len(self.sizes)
        means, norms, distances = np.zeros((3, depth, depth))
        reference = REFERENCES.get(name)
        middle = self.sizes[1:-1]
        dense = np.zeros((sum(middle), sum(middle)))
        for j in range(depth):
            for i in range(j + 1):
                block = blocks[name](i, j)
                means[i, j] = means[j, i] = np.abs(block).mean()
                norms[i, j] = norms[j, i] = np.linalg.norm(block)
                if reference is not None:
                    apart = np.linalg.norm(block - blocks[reference](i, j))
                    distances[i, j] = distances[j, i] = apart
                if 0 < i and j < depth - 1:
                    part(middle, dense)(i - 1, j - 1)[:] = block
                    part(middle, dense)(j - 1, i - 1)[:] = block.T
        self.means[name], self.norms[name], self.dense[name] = means, norms, dense
        if reference is not None:
            self.distances[name] = distances


def part(sizes: Sequence[int], whole: np.ndarray) -> BlockOf:
    """Blocks of a matrix, as views."""
    ends = np.cumsum([0, *sizes])
    return lambda i, j: whole[ends[i] : ends[i + 1], ends[j] : ends[j + 1]]


def whole_matrix(sizes: Sequence[int], block: BlockOf) -> np.ndarray:
    """Matrix of the blocks on and above the diagonal, zero below."""
    whole = np.zeros((sum(sizes), sum(sizes)))
    for j in range(len(sizes)):
        for i in range(j + 1):
            part(sizes, whole)(i, j)[:] = block(i, j)
    return whole


def inverted(matrix: np.ndarray) -> np.ndarray:
    """Invert a symmetric positive definite matrix in place: the upper triangle is read, both triangles are set."""
    # The transpose of a C array is a Fortran array, which LAPACK overwrites.
    factorise, invert = get_lapack_funcs(("potrf", "potri"), (matrix,))
    factor, failed = factorise(matrix.T, lower=1, overwrite_a=1)
    if not failed:
        factor, failed = invert(factor, lower=1, overwrite_c=1)
    if failed:
        raise InputError("the damped Fisher is not positive definite in float64; raise the damping")
    upper = factor.T
    for k in range(len(upper)):
        upper[k + 1 :, k] = upper[k, k + 1 :]
    return upper


def _sum_of_products(
    a: Float[np.ndarray, "N P"], b: Float[np.ndarray, "N Q"], inner: Float[np.ndarray, "N M K"]
) -> np.ndarray:
    """``sum_n (a_n b_n^T) (x) inner_n``, one column of a at a time to save memory."""
    flat = inner.reshape(len(inner), -1)
    out = np.empty((a.shape[1], inner.shape[1], b.shape[1], inner.shape[2]))
    for p, column in enumerate(a.T):
        product = (column[:, None] * b).T @ flat
        out[p] = product.reshape(b.shape[1], *inner.shape[1:]).swapaxes(0, 1)
    return out.reshape(out.shape[0] * out.shape[1], -1)


def exact_block(layers: Sequence[LayerLinearization]) -> BlockOf:
    """``(1/N) sum_n (a_i a_j^T) (x) sum_k delta_i delta_j^T``."""
    inputs = [np.asarray(layer.inputs)[:, 0] for layer in layers]
    sensitivities = [np.asarray(layer.sensitivities)[:, :, 0] for layer in layers]

    def block(i, j):
        inner = sensitivities[i].swapaxes(1, 2) @ sensitivities[j] / len(inputs[i])
        return _sum_of_products(inputs[i], inputs[j], inner)

    return block


def kronecker_block(fisher: KroneckerFisher) -> BlockOf:
    """``A_ij (x) B_ij``."""
    return lambda i, j: np.kron(*map(np.asarray, fisher.block(i, j)))


def diagonal_blocks(sizes: Sequence[int], block: BlockOf) -> BlockOf:
    """The blocks on the diagonal, zeros elsewhere."""
    return lambda i, j: block(i, j) if i == j else np.zeros((sizes[i], sizes[j]))


def damped(fisher: KroneckerFisher, damping: Sequence[FactorDamping]) -> KroneckerFisher:
    """The same with ``rho`` added to both factors of every diagonal block."""

    def add(factors, rhos):
        return tuple(
            (own[0] + rho * jnp.eye(len(own[0]), dtype=own[0].dtype), *own[1:])
            for own, rho in zip(factors, rhos, strict=True)
        )

    rhos_a, rhos_b = zip(*damping, strict=True)
    return KroneckerFisher(add(fisher.inputs, rhos_a), add(fisher.sensitivities, rhos_b))


def completed(fisher: KroneckerFisher, inverse: TridiagonalInverse) -> KroneckerFisher:
    """F-hat, ``Fh_ij = Psi_i .. Psi_{j-1} Ft_jj`` for i < j: a Kronecker product in every block.

    Parameters
    ----------
    fisher : KroneckerFisher
        F-tilde with damped diagonal blocks.
    inverse : TridiagonalInverse
        The inverse of F-hat.
    """

    def complete(factors, regressions):
        rows: list[tuple[Array, ...]] = [(factors[-1][0],)]
        for own, psi in zip(factors[-2::-1], regressions[::-1], strict=True):
            rows.insert(0, (own[0], *(psi @ below for below in rows[0])))
        return tuple(rows)

    psi_a, psi_b = zip(*(stage.regression for stage in inverse.stages[:-1]), strict=True)
    return KroneckerFisher(complete(fisher.inputs, psi_a), complete(fisher.sensitivities, psi_b))


def inverse_tridiagonal_block(inverse: TridiagonalInverse, sizes: Sequence[int]) -> BlockOf:
    """Blocks of ``Xi^T diag(S^-1) Xi``: ``S_i^-1 + Psi_{i-1}^T S_{i-1}^-1 Psi_{i-1}`` and ``-S_i^-1 Psi_i``.

    With the basis (a, b) and weights w of a stage, ``S^-1 = sum_p (a_p a_p^T) (x) b diag(w_p) b^T``.
    """
    stages = [jax.tree.map(np.asarray, stage) for stage in inverse.stages]

    def block(i, j):
        if j > i + 1:
            return np.zeros((sizes[i], sizes[j]))
        (a, b), weights = stages[i].basis, stages[i].weights
        inner = (b * weights[:, None]) @ b.T
        if j > i:
            psi_a, psi_b = stages[i].regression
            return -_sum_of_products(a.T, a.T @ psi_a, inner @ psi_b)
        found = _sum_of_products(a.T, a.T, inner)
        if i:
            (a, b), weights = stages[i - 1].basis, stages[i - 1].weights
            psi_a, psi_b = stages[i - 1].regression
            a, b = a.T @ psi_a, b.T @ psi_b
            found += _sum_of_products(a, a, (b.T * weights[:, None]) @ b)
        return found

    return block
