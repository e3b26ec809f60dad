"""The system of coupled layers with ``Lambda = I``: one layer by Cholesky, several by pivots or by eigenvalues.

    [(Sigma (x) 1) blockdiag(Theta_l) + rho] w = b,    rho > 0,

with one right-hand side and one solution per layer. These are the inner solvers of `ngd_theory.fisher.coupled`.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.fisher.solve import shifted
from ngd_theory.linalg import (
    cholesky_factor,
    cholesky_solve,
    eigh,
    gram,
    kept,
    lower_inverse,
    lu_factor,
    lu_solve,
    root_spectrum,
)
from ngd_theory.pytrees import pytree

#: One (NC, k) array per layer.
Layers = Sequence[Float[Array, "NC k"]]
#: Rows of Sigma, as tuples because they are static parts of pytrees.
Coupling = tuple[tuple[float, ...], ...]


@pytree("factor")
@dataclass(frozen=True)
class Single:
    """``Theta + rho`` of one layer or one group, by its Cholesky factor."""

    factor: Array

    def solve(self, rhs: Layers):
        """Weights for any right-hand sides."""
        return [cholesky_solve(self.factor, rhs[0])], None

    solve_transposed = solve


#: Kernels with fewer rows are always solved by eigenvalues: OpenBLAS uses one thread, and the program is short.
PIVOTED = 64


@pytree("kernels", "rho", "pivots", "eigenvalues")
@dataclass(frozen=True)
class Several:
    """Several layers with ``Lambda = I``: by pivots if these are accurate, else by eigenvalues.

    Without pivots, eigenvalues are computed at once. With pivots, a solve computes them only if the pivots lost too
    many digits, which is rare.
    """

    coupling: Coupling
    kernels: Sequence[Array]
    rho: Array
    pivots: "Pivots | None"
    eigenvalues: "Eigenvalues | None"

    @classmethod
    def of_kernels(cls, coupling: Coupling, kernels, rho) -> "Several":
        """Factor the system."""
        order = pivot_order(coupling) if len(kernels[0]) >= PIVOTED else None
        if order is None:
            return cls(coupling, kernels, rho, None, Eigenvalues.of_kernels(coupling, kernels, rho))
        return cls(coupling, kernels, rho, Pivots.of_kernels(coupling, kernels, rho, order), None)

    def solve(self, rhs: Layers):
        """Weights for any right-hand sides."""
        return self._by("solve", rhs), None

    def solve_transposed(self, rhs: Layers):
        """The same with the transposed matrix."""
        return self._by("solve_transposed", rhs), None

    def _by(self, method: str, rhs: Layers) -> list[Array]:
        if self.pivots is None:
            return getattr(self.eigenvalues, method)(rhs)

        def by_eigenvalues():
            solver = Eigenvalues.of_kernels(self.coupling, self.kernels, self.rho)
            return getattr(solver, method)(rhs)

        by_pivots = partial(getattr(self.pivots, method), rhs)
        return jax.lax.cond(self.pivots.sound, by_pivots, by_eigenvalues)


def pivot_order(coupling: np.ndarray | Coupling) -> list[tuple[int, int]] | None:
    """Order of Sigma's rows in which Gaussian elimination needs no exchange, with the signs of the pivots.

    None if there is no such order, for example for a singular Sigma.
    """
    rest, left, order = np.array(coupling, float), list(range(len(coupling))), []
    while left:
        # Take the first of the largest pivots: three layers of a tridiagonal Sigma give 1, 3, 2.
        p = max(left, key=lambda i: abs(rest[i, i]))
        pivot = rest[p, p]
        if not abs(pivot) > 0.1:
            return None
        left.remove(p)
        order.append((p, int(np.sign(pivot))))
        rest = rest - np.outer(rest[:, p], rest[p]) / pivot
    return order


@pytree("kernels", "factors", "inverses", "rows", "sound")
@dataclass(frozen=True)
class Pivots:
    """``M = S D`` with the symmetric ``S = Sigma + rho D^-1``, eliminated layer by layer.

    The pivot of layer p is ``Q = B + rho Theta^-1``, where B has the sign of Sigma's pivot if rho is small beside the
    kernels. With the symmetric ``T = Theta + rho B^-1``, which contains no inverse of Theta,

        (Q Theta)^-1 = T^-1 B^-1,    Q^-1 = B^-1 - rho B^-1 T^-1 B^-1.

    A block of S is a matrix, or a number that stands for this multiple of I.
    """

    order: tuple[tuple[int, int], ...]
    kernels: Sequence[Array]
    #: Cholesky factors of T.
    factors: dict[int, Array]
    #: ``B^-1``.
    inverses: dict[int, Any]
    #: The rest of the pivot's row.
    rows: dict[int, dict[int, Any]]
    sound: Array

    @classmethod
    def of_kernels(cls, coupling, kernels, rho, order) -> "Pivots":
        """Factor the system."""
        blocks: dict[tuple[int, int], Any] = {
            (i, j): c for i, row in enumerate(_rows(coupling)) for j, c in enumerate(row) if c
        }
        left, made = [p for p, _ in order], []
        factors, inverses, rows = {}, {}, {}
        for p, sign in order:
            left.remove(p)
            inverses[p], pivots = _inverse_block(blocks[p, p], sign)
            factors[p] = cholesky_factor(_plus(kernels[p], _times(inverses[p], rho)))
            made += [*pivots, (factors[p], jnp.max(jnp.diagonal(kernels[p])))]
            rows[p] = {i: blocks[p, i] for i in left if (p, i) in blocks}
            if not rows[p]:
                continue
            half = _times(lower_inverse(factors[p]), inverses[p])
            inverse = _plus(inverses[p], -rho * gram(half.T))
            for i, j in itertools.combinations_with_replacement(rows[p], 2):
                taken = _times(_transposed(rows[p][i]), _times(inverse, rows[p][j]))
                blocks[i, j] = _plus(blocks.get((i, j), 0.0), -taken)
                blocks[j, i] = _transposed(blocks[i, j])
        # Smaller pivots lose too many digits. The comparison is False for NaN.
        limit = jnp.finfo(rho.dtype).eps ** (1 / 3)
        sound = [jnp.min(jnp.diagonal(f)) ** 2 > limit * size for f, size in made]
        return cls(tuple(order), list(kernels), factors, inverses, rows, jnp.stack(sound).all())

    def solve(self, rhs: Layers) -> list[Array]:
        """Weights for any right-hand sides."""
        rest, weights, images = list(rhs), list(rhs), list(rhs)
        for p, _ in self.order:
            if not self.rows[p]:
                continue
            image = self.kernels[p] @ self._divide(p, rest[p])
            for i, block in self.rows[p].items():
                rest[i] = rest[i] - _times(_transposed(block), image)
        for p, _ in reversed(self.order):
            known = [_times(block, images[i]) for i, block in self.rows[p].items()]
            weights[p] = self._divide(p, rest[p] - sum(known, 0.0))
            images[p] = self.kernels[p] @ weights[p]
        return weights

    def solve_transposed(self, rhs: Layers) -> list[Array]:
        """The same with the transposed matrix."""
        found, images = list(rhs), [jnp.zeros_like(b) for b in rhs]
        for p, _ in self.order:
            # The transpose of `_divide`, and of `_divide` followed by the kernel.
            found[p] = self._divide_transposed(p, rhs[p] + self.kernels[p] @ images[p])
            for i, block in self.rows[p].items():
                images[i] = images[i] - _times(_transposed(block), found[p])
        for p, _ in reversed(self.order):
            if self.rows[p]:
                later = sum(_times(block, found[i]) for i, block in self.rows[p].items())
                found[p] = found[p] - self._divide_transposed(p, self.kernels[p] @ later)
        return found

    def _divide(self, p: int, x):
        """``(Q Theta)^-1 x``."""
        return cholesky_solve(self.factors[p], _times(self.inverses[p], x))

    def _divide_transposed(self, p: int, x):
        return _times(self.inverses[p], cholesky_solve(self.factors[p], x))


def _inverse_block(block, sign: int):
    """Inverse of a block that is definite with this sign, and [(Cholesky factor, size)]; [] for a number."""
    if jnp.ndim(block) == 0:
        return 1 / block, []
    factor = cholesky_factor(sign * block)
    return sign * gram(lower_inverse(factor).T), [(factor, 1.0)]


def _times(left, right):
    """Product of two blocks; a number stands for this multiple of I."""
    return left * right if jnp.ndim(left) == 0 or jnp.ndim(right) == 0 else left @ right


def _plus(left, right):
    """Sum of two blocks."""
    if jnp.ndim(left) == jnp.ndim(right):
        return left + right
    number, matrix = (left, right) if jnp.ndim(left) == 0 else (right, left)
    return matrix + number * jnp.eye(len(matrix), dtype=matrix.dtype)


def _transposed(block):
    return block if jnp.ndim(block) == 0 else block.T


@pytree("roots", "inverse_roots", "null_vectors", "factors", "rho")
@dataclass(frozen=True)
class Eigenvalues:
    """``M = Sigma D + rho`` with ``D = blockdiag(Theta_l) = U U``.

    With the projector P on the range of D and the symmetric ``X = U Sigma U``,

        M^-1 = pinv(U) (X + rho)^-1 U + (1 - P) (1 - Sigma U (X + rho)^-1 U) / rho.
    """

    coupling: Coupling
    roots: Sequence[Array]
    inverse_roots: Sequence[Array]
    null_vectors: Sequence[Array]
    #: LU factors of ``X + rho``.
    factors: tuple[Array, Array]
    rho: Array

    @classmethod
    def of_kernels(cls, coupling, kernels, rho) -> "Eigenvalues":
        """Factor the system."""
        systems = [eigh(k) for k in kernels]
        # Vectors in the range become zero columns, so that without a null space the projector is exactly zero.
        null = [v * (~kept(e)).astype(v.dtype)[None] for e, v in systems]
        spectra = [root_spectrum(e) for e, _ in systems]
        roots, inverses = (
            [(v * s[side][None]) @ v.T for (_, v), s in zip(systems, spectra, strict=True)]
            for side in (0, 1)
        )
        factors = lu_factor(shifted(coupled_matrix(coupling, roots), rho))
        return cls(coupling, roots, inverses, null, factors, rho)

    def solve(self, rhs: Layers) -> list[Array]:
        """Weights for any right-hand sides."""
        solved = self._middle([u @ b for u, b in zip(self.roots, rhs, strict=True)])
        spread = mix(self.coupling, [u @ y for u, y in zip(self.roots, solved, strict=True)])
        return [
            i @ y + v @ (v.T @ (b - s)) / self.rho
            for i, y, v, b, s in zip(
                self.inverse_roots, solved, self.null_vectors, rhs, spread, strict=True
            )
        ]

    def solve_transposed(self, rhs: Layers) -> list[Array]:
        """The same with the transposed matrix."""
        null = [v @ (v.T @ b) / self.rho for v, b in zip(self.null_vectors, rhs, strict=True)]
        spread = mix(self.coupling, null)
        solved = self._middle(
            [
                i @ b - u @ s
                for i, b, u, s in zip(self.inverse_roots, rhs, self.roots, spread, strict=True)
            ]
        )
        return [u @ y + x for u, y, x in zip(self.roots, solved, null, strict=True)]

    def _middle(self, rhs: Layers) -> list[Array]:
        return jnp.split(lu_solve(*self.factors, jnp.concatenate(rhs)), len(rhs))


def _rows(coupling: np.ndarray | Coupling) -> list[list[float]]:
    """Rows of Python numbers: NumPy numbers would turn float32 arrays into float64."""
    return np.asarray(coupling).tolist()


def mix(coupling: np.ndarray | Coupling, terms: Layers) -> list[Array]:
    """``sum_m Sigma_lm terms_m``."""
    return [
        sum((c * t for c, t in zip(row, terms, strict=True) if c), jnp.zeros_like(terms[0]))
        for row in _rows(coupling)
    ]


def coupled_matrix(
    coupling: np.ndarray | Coupling, roots: Sequence[Array]
) -> Float[Array, "LK LK"]:
    """``X_lm = Sigma_lm U_l U_m``."""
    blocks = [
        [c * (u @ v) for c, v in zip(row, roots, strict=True)]
        for row, u in zip(_rows(coupling), roots, strict=True)
    ]
    return jnp.block(blocks)
