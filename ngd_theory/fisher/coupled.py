"""The dual system of layers that a Fisher couples, for any output-space Fisher ``Lambda = R R^T``.

    [(Sigma (x) Lambda) blockdiag(Theta_l) + rho] w = b,

with a right-hand side and a solution a layer. It is solved in a symmetric form that keeps its digits where a kernel or
Sigma is singular, and differentiated as what it is: a linear system whose matrix is smooth in kernels, Lambda and rho.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.fisher.damping import Damping
from ngd_theory.fisher.loops import batch_size, map_items
from ngd_theory.fisher.solve import DampedMatrix, limit_of_inverse, shifted
from ngd_theory.linalg import (
    cholesky_factor,
    cholesky_solve,
    eigh,
    gram,
    kept,
    lower_inverse,
    lu_factor,
    lu_solve,
    pinv,
    root_spectrum,
    symmetric_roots,
)
from ngd_theory.precision import full_precision
from ngd_theory.pytrees import pytree

#: One (NC, k) array a layer.
Layers = Sequence[Float[Array, "NC k"]]
#: Rows of Sigma: as static parts of pytrees, tuples.
Coupling = tuple[tuple[float, ...], ...]


def dual_solve(kernel, cotangents, damping: Damping, root=None):
    """``(Lambda Theta + rho)^-1 V``, or its limit as the natural gradient sees it (`coupled_solve`)."""
    return coupled_solve(np.ones((1, 1)), [kernel], cotangents, damping, root)[0]


def coupled_solve(
    coupling: np.ndarray,
    kernels: Sequence[Float[Array, "NC NC"]],
    cotangents: Float[Array, "NC k"],
    damping: Damping,
    root: Float[Array, "N C K"] | None = None,
) -> list[Array]:
    """`coupled_system`, solved for ``cotangents`` (NC, k)."""
    return coupled_system(coupling, kernels, damping, root).solve(cotangents)


@full_precision
def coupled_system(
    coupling: np.ndarray,
    kernels: Sequence[Float[Array, "NC NC"]],
    damping: Damping,
    root: Float[Array, "N C K"] | None = None,
) -> "CoupledSystem":
    """``[(Sigma (x) Lambda) blockdiag(Theta_l) + rho] w = 1 (x) V``, factored once for many V.

    At rho = 0 this is the limit of the natural gradient, ``pinv(G) J^T V / N``: with symmetric roots
    ``U_l U_l = R^T Theta_l R`` the matrix ``X_lm = Sigma_lm U_l U_m`` has the non-zero spectrum of G, and
    ``w = R pinv(U) pinv(X) pinv(U) R^T Theta (1 (x) V)``. For a singular Sigma this is not
    ``(pinv(Sigma) 1)_l pinv(Theta_l) V``, which gives the same K on the training set but is no limit.

    Parameters
    ----------
    coupling : (L, L)
        Sigma, symmetric.
    kernels : L arrays (NC, NC)
    damping : Damping
        Where only the run knows whether it is zero, each solve factors: the two ways have nothing in common to hold.
    root : (N, C, K), optional
        R with ``R R^T = Lambda``; None for the identity. With one layer this is then the symmetric `DampedMatrix`.

    Returns
    -------
    A pytree with ``solve(V (NC, k)) -> [w_l (NC, k)]``.
    """
    sigma = tuple(map(tuple, np.asarray(coupling, float).tolist()))
    if root is None and len(kernels) == 1 and sigma == ((1.0,),):
        return _One(DampedMatrix.of(kernels[0], damping))
    kernels = list(kernels)
    if damping.zero is None:
        return _Undecided(sigma, kernels, damping, root)
    if damping.zero:
        return _Limit.of(sigma, kernels, root)
    return _Damped.of(sigma, kernels, jnp.asarray(damping.value), root)


@pytree("matrix")
@dataclass(frozen=True)
class _One:
    """One kernel, Lambda = I."""

    matrix: DampedMatrix

    def solve(self, cotangents) -> list[Array]:
        return [self.matrix.solve(cotangents)]


@pytree("kernels", "rho", "root", "inner")
@dataclass(frozen=True)
class _Damped:
    """`coupled_system` for rho > 0."""

    coupling: Coupling
    kernels: list[Array]
    rho: Array
    root: Array | None
    inner: Any

    @classmethod
    @full_precision
    def of(cls, coupling: Coupling, kernels: list[Array], rho, root) -> "_Damped":
        rho = rho.astype(kernels[0].dtype)
        # Constants to a derivative, which is that of the system.
        fixed_kernels, fixed_rho, fixed_root = jax.lax.stop_gradient((kernels, rho, root))
        fixed_root = None if root is None else at_most_square(fixed_root)
        inner = [
            _apply_transpose(fixed_root, _apply_transpose(fixed_root, k).T) for k in fixed_kernels
        ]
        if len(kernels) == 1:
            solver = _Single(cholesky_factor(shifted(inner[0], fixed_rho)))
        else:
            solver = _Several.of_kernels(coupling, inner, fixed_rho)
        return cls(coupling, kernels, rho, root, solver)

    @full_precision
    def solve(self, cotangents) -> list[Array]:
        products = _products(self.kernels)
        fixed, inner = jax.lax.stop_gradient((self.kernels, self.inner))
        rhs = [cotangents] * len(self.kernels)
        how = (self.coupling, products, _products(fixed), rhs, self.rho, self.root, inner)
        return damped_solve(*how)[0]


@pytree("root", "crossed", "inverses", "inverse")
@dataclass(frozen=True)
class _Limit:
    """`coupled_system` as rho -> 0: ``R^T Theta_l``, ``pinv(U_l)`` and ``pinv(X)``."""

    root: Array | None
    crossed: list[Array]
    inverses: list[Array]
    inverse: Array

    @classmethod
    @full_precision
    def of(cls, coupling: Coupling, kernels: list[Array], root) -> "_Limit":
        root = None if root is None else at_most_square(root)
        crossed = [_apply_transpose(root, k) for k in kernels]
        inner = [_apply_transpose(root, k.T) for k in crossed]
        roots, inverses = zip(*[symmetric_roots(k) for k in inner], strict=True)
        return cls(root, crossed, list(inverses), pinv(_coupled(coupling, roots)))

    @full_precision
    def solve(self, cotangents, rho=None) -> list[Array]:
        pairs = zip(self.inverses, self.crossed, strict=True)
        rhs = jnp.concatenate([i @ (k @ cotangents) for i, k in pairs])
        solved = jnp.split(limit_of_inverse(rho, self.inverse, rhs), len(self.inverses))
        return [_apply(self.root, i @ s) for i, s in zip(self.inverses, solved, strict=True)]


@pytree("kernels", "damping", "root")
@dataclass(frozen=True)
class _Undecided:
    """`coupled_system` for a damping that may be zero."""

    coupling: Coupling
    kernels: list[Array]
    damping: Damping
    root: Array | None

    def solve(self, cotangents) -> list[Array]:
        def positive(rho, kernels, cotangents, root):
            return _Damped.of(self.coupling, kernels, rho, root).solve(cotangents)

        def limit(rho, kernels, cotangents, root):
            return _Limit.of(self.coupling, kernels, root).solve(cotangents, rho)

        return self.damping.select(positive, limit, self.kernels, cotangents, self.root)


CoupledSystem = _One | _Damped | _Limit | _Undecided


def _products(kernels: Sequence[Array]) -> Callable[[Layers], list[Array]]:
    return lambda w: [k @ x for k, x in zip(kernels, w, strict=True)]


@runtime_checkable
class InnerSolver(Protocol):
    """Solves the system with ``Lambda = I`` and kernels ``R^T Theta_l R``; says something about it, or None."""

    def solve(self, rhs: Layers) -> tuple[list[Array], Any]:
        """Layers of weights for any right-hand sides."""
        ...

    def solve_transposed(self, rhs: Layers) -> tuple[list[Array], Any]:
        """The same with the transposed matrix."""
        ...


@full_precision
def damped_solve(
    coupling: np.ndarray | Coupling,
    products: Callable[[Layers], list[Array]],
    fixed_products: Callable[[Layers], list[Array]],
    rhs: Layers,
    rho: Float[Array, ""],
    root: Float[Array, "N C K"] | None,
    inner: InnerSolver,
) -> tuple[list[Array], Any]:
    """``w`` of the module's equation for rho > 0, differentiable in all that the system is made of.

    With ``b = R Y + b'``, b' outside the range of R, ``w = R z + b'/rho`` where z solves the system with kernels
    ``R^T Theta_l R`` and right-hand side ``Y - Sigma R^T Theta b'/rho``.

    Parameters
    ----------
    coupling : (L, L)
    products : ``w -> (Theta_l w_l)``
        A closure over what the result is differentiated by.
    fixed_products : ``w -> (Theta_l w_l)``
        The same, with constants to a derivative.
    rhs : L arrays (NC, k)
    rho : scalar
    root : (N, C, K) or None
    inner : InnerSolver
        Of a root with at most C columns, as `at_most_square` makes it.

    Returns
    -------
    (list of (NC, k), what ``inner`` says)
    """

    def matrix(w: Layers) -> list[Array]:
        curved = [_apply(root, _apply_transpose(root, m)) for m in _mix(coupling, products(w))]
        return [c + rho * x for c, x in zip(curved, w, strict=True)]

    if root is None:
        return jax.lax.custom_linear_solve(
            matrix,
            list(rhs),
            solve=lambda _, b: inner.solve(b),
            transpose_solve=lambda _, b: inner.solve_transposed(b),
            has_aux=True,
        )
    small, fixed_rho = at_most_square(jax.lax.stop_gradient(root)), jax.lax.stop_gradient(rho)
    inverse = _pseudo_inverse(small)

    def solve(_, b: Layers):
        inside = [_apply(inverse, x) for x in b]
        outside = [
            _but_round_off(x - _apply(small, y), x, len(small)) / fixed_rho
            for x, y in zip(b, inside, strict=True)
        ]
        images = _mix(coupling, fixed_products(outside))
        spilled = [_apply_transpose(small, m) for m in images]
        solved, said = inner.solve([y - s for y, s in zip(inside, spilled, strict=True)])
        return [_apply(small, z) + x for z, x in zip(solved, outside, strict=True)], said

    def transpose_solve(_, b: Layers):
        solved, said = inner.solve_transposed([_apply_transpose(small, x) for x in b])
        images = fixed_products(_mix(coupling, [_apply(small, s) for s in solved]))
        rest = [x - m for x, m in zip(b, images, strict=True)]
        outside = [r - _apply_transpose(inverse, _apply_transpose(small, r)) for r in rest]
        found = [
            _apply_transpose(inverse, s) + _but_round_off(o, r, len(small)) / fixed_rho
            for s, o, r in zip(solved, outside, rest, strict=True)
        ]
        return found, said

    return jax.lax.custom_linear_solve(matrix, list(rhs), solve, transpose_solve, has_aux=True)


@pytree("factor")
@dataclass(frozen=True)
class _Single:
    """``Theta + rho`` of one layer or one group, by its Cholesky factor."""

    factor: Array

    def solve(self, rhs: Layers):
        return [cholesky_solve(self.factor, rhs[0])], None

    solve_transposed = solve


#: Smaller systems are always solved by eigenvalues, which OpenBLAS computes on one thread: their program is short.
PIVOTED = 64


@pytree("kernels", "rho", "pivots", "eigenvalues")
@dataclass(frozen=True)
class _Several:
    """Several layers with ``Lambda = I``: by pivots where they keep the digits, else by eigenvalues.

    Eigenvalues are computed at once where there are no pivots, and else in the solve that takes them, hardly ever.
    """

    coupling: Coupling
    kernels: Sequence[Array]
    rho: Array
    pivots: "_Pivots | None"
    eigenvalues: "_Eigenvalues | None"

    @classmethod
    def of_kernels(cls, coupling: Coupling, kernels, rho) -> "_Several":
        order = pivot_order(coupling) if len(kernels[0]) >= PIVOTED else None
        if order is None:
            return cls(
                coupling, kernels, rho, None, _Eigenvalues.of_kernels(coupling, kernels, rho)
            )
        return cls(coupling, kernels, rho, _Pivots.of_kernels(coupling, kernels, rho, order), None)

    def solve(self, rhs: Layers):
        return self._by("solve", rhs), None

    def solve_transposed(self, rhs: Layers):
        return self._by("solve_transposed", rhs), None

    def _by(self, method: str, rhs: Layers) -> list[Array]:
        if self.pivots is None:
            return getattr(self.eigenvalues, method)(rhs)

        def by_eigenvalues():
            solver = _Eigenvalues.of_kernels(self.coupling, self.kernels, self.rho)
            return getattr(solver, method)(rhs)

        by_pivots = partial(getattr(self.pivots, method), rhs)
        return jax.lax.cond(self.pivots.sound, by_pivots, by_eigenvalues)


def pivot_order(coupling: np.ndarray | Coupling) -> list[tuple[int, int]] | None:
    """Rows of Sigma in an order in which Gaussian elimination needs no exchange, with the signs of their pivots.

    None where there is none: a singular Sigma is one.
    """
    rest, left, order = np.array(coupling, float), list(range(len(coupling))), []
    while left:
        # The first of the largest: three layers of a tridiagonal Sigma give 1, 3, 2.
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
class _Pivots:
    """``M = S D`` with the symmetric ``S = Sigma + rho D^-1``, eliminated layer by layer.

    The pivot of layer p is ``Q = B + rho Theta^-1``, where B has the sign of Sigma's pivot if rho is small beside the
    kernels. With the symmetric ``T = Theta + rho B^-1``, which contains no inverse of Theta,

        (Q Theta)^-1 = T^-1 B^-1,    Q^-1 = B^-1 - rho B^-1 T^-1 B^-1.

    A block of S is a matrix, or a number: that multiple of I.
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
    def of_kernels(cls, coupling, kernels, rho, order) -> "_Pivots":
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
    """The inverse of a block that is definite with the sign, and its Cholesky factor with a size, if it takes one."""
    if jnp.ndim(block) == 0:
        return 1 / block, []
    factor = cholesky_factor(sign * block)
    return sign * gram(lower_inverse(factor).T), [(factor, 1.0)]


def _times(left, right):
    """Product of two blocks; a number is that multiple of I."""
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
class _Eigenvalues:
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
    def of_kernels(cls, coupling, kernels, rho) -> "_Eigenvalues":
        systems = [eigh(k) for k in kernels]
        # Zero columns for what is in the range: the projector is then exactly zero where there is no null space.
        null = [v * (~kept(e)).astype(v.dtype)[None] for e, v in systems]
        spectra = [root_spectrum(e) for e, _ in systems]
        roots, inverses = (
            [(v * s[side][None]) @ v.T for (_, v), s in zip(systems, spectra, strict=True)]
            for side in (0, 1)
        )
        factors = lu_factor(shifted(_coupled(coupling, roots), rho))
        return cls(coupling, roots, inverses, null, factors, rho)

    def solve(self, rhs: Layers) -> list[Array]:
        solved = self._middle([u @ b for u, b in zip(self.roots, rhs, strict=True)])
        spread = _mix(self.coupling, [u @ y for u, y in zip(self.roots, solved, strict=True)])
        return [
            i @ y + v @ (v.T @ (b - s)) / self.rho
            for i, y, v, b, s in zip(
                self.inverse_roots, solved, self.null_vectors, rhs, spread, strict=True
            )
        ]

    def solve_transposed(self, rhs: Layers) -> list[Array]:
        null = [v @ (v.T @ b) / self.rho for v, b in zip(self.null_vectors, rhs, strict=True)]
        spread = _mix(self.coupling, null)
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
    """Python's numbers: numpy's would make float64 of float32."""
    return np.asarray(coupling).tolist()


def _mix(coupling: np.ndarray | Coupling, terms: Layers) -> list[Array]:
    """``sum_m Sigma_lm terms_m``."""
    return [
        sum((c * t for c, t in zip(row, terms, strict=True) if c), jnp.zeros_like(terms[0]))
        for row in _rows(coupling)
    ]


def _coupled(coupling: np.ndarray | Coupling, roots: Sequence[Array]) -> Float[Array, "LK LK"]:
    """``X_lm = Sigma_lm U_l U_m``."""
    blocks = [
        [c * (u @ v) for c, v in zip(row, roots, strict=True)]
        for row, u in zip(_rows(coupling), roots, strict=True)
    ]
    return jnp.block(blocks)


@full_precision
def at_most_square(root: Float[Array, "N C K"]) -> Float[Array, "N C k"]:
    """A root of the same Lambda with at most C columns: the systems here are of size N K."""
    if root.shape[2] <= root.shape[1]:
        return root
    squares = jnp.einsum("nck,ndk->ncd", root, root)
    size = batch_size(*squares.shape[1:], itemsize=root.itemsize)
    return map_items(lambda square: symmetric_roots(square)[0], squares, size)


def _pseudo_inverse(root: Float[Array, "N C K"]) -> Float[Array, "N K C"]:
    """``R^T pinv(R R^T)`` of each sample."""
    squares = jnp.einsum("nck,ndk->ncd", root, root)
    size = batch_size(*squares.shape[1:], itemsize=root.itemsize)
    return jnp.einsum("nck,ncd->nkd", root, map_items(pinv, squares, size))


def _but_round_off(x: Float[Array, "NC k"], whole: Float[Array, "NC k"], num_samples: int):
    """``x`` without what is round-off beside the same sample's ``whole``, of which it is a difference."""
    whole = whole.reshape(num_samples, -1, whole.shape[-1])
    floor = jnp.max(jnp.abs(whole), axis=1, keepdims=True)
    floor = 10 * whole.shape[1] * jnp.finfo(x.dtype).eps * floor
    outside = x.reshape(whole.shape)
    return jnp.where(jnp.abs(outside) > floor, outside, 0).reshape(x.shape)


def _apply(blocks: Float[Array, "N C K"] | None, x: Float[Array, "NK k"]) -> Float[Array, "NC k"]:
    """Block-diagonal (over samples) matrix times x; None is the identity."""
    if blocks is None:
        return x
    n, c, k = blocks.shape
    return jnp.einsum("nck,nkj->ncj", blocks, x.reshape(n, k, -1)).reshape(n * c, -1)


def _apply_transpose(
    blocks: Float[Array, "N C K"] | None, x: Float[Array, "NC k"]
) -> Float[Array, "NK k"]:
    return x if blocks is None else _apply(jnp.swapaxes(blocks, 1, 2), x)
