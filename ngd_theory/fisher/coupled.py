"""The dual system of a Fisher that couples layers, for any output-space Fisher ``Lambda = R R^T``.

    [(Sigma (x) Lambda) blockdiag(Theta_l) + rho] w = b,

with one right-hand side and one solution per layer. It is solved in a symmetric form, which stays accurate if a kernel
or Sigma is singular. Derivatives are those of the linear system, whose matrix is smooth in kernels, Lambda and rho.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.fisher.coupled_solvers import (
    Coupling,
    Layers,
    Several,
    Single,
    coupled_matrix,
    mix,
)
from ngd_theory.fisher.damping import Damping
from ngd_theory.fisher.loops import batch_size, map_items
from ngd_theory.fisher.solve import DampedMatrix, limit_of_inverse, shifted
from ngd_theory.linalg import (
    cholesky_factor,
    pinv,
    symmetric_roots,
)
from ngd_theory.precision import full_precision
from ngd_theory.pytrees import pytree


def dual_solve(kernel, cotangents, damping: Damping, root=None):
    """``(Lambda Theta + rho)^-1 V``; at rho = 0 the limit of the natural gradient (`coupled_system`)."""
    return coupled_solve(np.ones((1, 1)), [kernel], cotangents, damping, root)[0]


def coupled_solve(
    coupling: np.ndarray,
    kernels: Sequence[Float[Array, "NC NC"]],
    cotangents: Float[Array, "NC k"],
    damping: Damping,
    root: Float[Array, "N C K"] | None = None,
) -> list[Array]:
    """Solve `coupled_system` for ``cotangents`` (NC, k)."""
    return coupled_system(coupling, kernels, damping, root).solve(cotangents)


@full_precision
def coupled_system(
    coupling: np.ndarray,
    kernels: Sequence[Float[Array, "NC NC"]],
    damping: Damping,
    root: Float[Array, "N C K"] | None = None,
) -> "CoupledSystem":
    """``[(Sigma (x) Lambda) blockdiag(Theta_l) + rho] w = 1 (x) V``, factored once for many V.

    At rho = 0 the solution is that of the limiting natural gradient, ``pinv(G) J^T V / N``. With symmetric roots
    ``U_l U_l = R^T Theta_l R`` the matrix ``X_lm = Sigma_lm U_l U_m`` has the non-zero spectrum of G, and
    ``w = R pinv(U) pinv(X) pinv(U) R^T Theta (1 (x) V)``. If Sigma is singular, ``(pinv(Sigma) 1)_l pinv(Theta_l) V``
    differs from it: that gives the same K on the training set, but it is not the limit.

    Parameters
    ----------
    coupling : (L, L)
        Sigma, symmetric.
    kernels : L arrays (NC, NC)
    damping : Damping
        If only the run knows whether it is zero, each solve factors anew: the two cases share no factors.
    root : (N, C, K), optional
        R with ``R R^T = Lambda``; None for the identity. One layer without a root is the symmetric `DampedMatrix`.

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
        # Constant for derivatives: these come from the linear system.
        fixed_kernels, fixed_rho, fixed_root = jax.lax.stop_gradient((kernels, rho, root))
        fixed_root = None if root is None else at_most_square(fixed_root)
        inner = [
            _apply_transpose(fixed_root, _apply_transpose(fixed_root, k).T) for k in fixed_kernels
        ]
        if len(kernels) == 1:
            solver = Single(cholesky_factor(shifted(inner[0], fixed_rho)))
        else:
            solver = Several.of_kernels(coupling, inner, fixed_rho)
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
        return cls(root, crossed, list(inverses), pinv(coupled_matrix(coupling, roots)))

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
    """Solver of the system with ``Lambda = I`` and kernels ``R^T Theta_l R``; returns weights and a report or None."""

    def solve(self, rhs: Layers) -> tuple[list[Array], Any]:
        """Weights of every layer for any right-hand sides, and the report."""
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
    """``w`` of the module's equation for rho > 0, differentiable in kernels, right-hand sides, rho and root.

    Let ``b = R Y + b'`` with b' outside the range of R. Then ``w = R z + b'/rho``, where z solves the system with
    kernels ``R^T Theta_l R`` and right-hand side ``Y - Sigma R^T Theta b'/rho``.

    Parameters
    ----------
    coupling : (L, L)
    products : ``w -> (Theta_l w_l)``
        A closure over the arrays by which the result is differentiated.
    fixed_products : ``w -> (Theta_l w_l)``
        The same, over arrays that are constant for derivatives.
    rhs : L arrays (NC, k)
    rho : scalar
    root : (N, C, K) or None
    inner : InnerSolver
        Made for a root with at most C columns (`at_most_square`).

    Returns
    -------
    (list of (NC, k), the report of ``inner``)
    """

    def matrix(w: Layers) -> list[Array]:
        curved = [_apply(root, _apply_transpose(root, m)) for m in mix(coupling, products(w))]
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
        images = mix(coupling, fixed_products(outside))
        spilled = [_apply_transpose(small, m) for m in images]
        solved, said = inner.solve([y - s for y, s in zip(inside, spilled, strict=True)])
        return [_apply(small, z) + x for z, x in zip(solved, outside, strict=True)], said

    def transpose_solve(_, b: Layers):
        solved, said = inner.solve_transposed([_apply_transpose(small, x) for x in b])
        images = fixed_products(mix(coupling, [_apply(small, s) for s in solved]))
        rest = [x - m for x, m in zip(b, images, strict=True)]
        outside = [r - _apply_transpose(inverse, _apply_transpose(small, r)) for r in rest]
        found = [
            _apply_transpose(inverse, s) + _but_round_off(o, r, len(small)) / fixed_rho
            for s, o, r in zip(solved, outside, rest, strict=True)
        ]
        return found, said

    return jax.lax.custom_linear_solve(matrix, list(rhs), solve, transpose_solve, has_aux=True)


@full_precision
def at_most_square(root: Float[Array, "N C K"]) -> Float[Array, "N C k"]:
    """A root of the same Lambda with at most C columns, since the systems here have size N K."""
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
    """Zero the entries of the difference ``x`` that are round-off of the same sample's ``whole``."""
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
