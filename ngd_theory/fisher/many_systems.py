"""Many damped systems that share a Gram matrix: ``(diag(s_i) Gamma + rho) w_i = b_i``, one for each unit i.

They are solved by conjugate gradients on all units at once, whose step is one matrix product, in the symmetric form
``diag(s)^(1/2) Gamma diag(s)^(1/2) + rho``. Where Gamma is well-conditioned, or rho is not small beside a unit's
spectrum, a few steps are as accurate as a Cholesky factorisation, and much faster. A unit that does not converge is
factorised.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ngd_theory.fisher.loops import batch_size, map_items
from ngd_theory.fisher.solve import shifted
from ngd_theory.linalg import cholesky_factor, cholesky_solve
from ngd_theory.precision import full_precision

#: Steps of conjugate gradients at most, as a share of N: more take as long as the factorisation.
MOST_STEPS = 0.4
#: Steps after which units that do not converge fast enough are given up.
TRIED = 5
#: Residuals are at most so many roundings of ``|A| |x| + |b|``, as those of a Cholesky factorisation are.
ROUNDINGS = 4


@full_precision
def scaled_solve(
    gram: Float[Array, "N N"],
    squares: Float[Array, "N u"],
    rhs: Float[Array, "N k"],
    rho: Float[Array, ""],
    symmetric_solve: Callable,
    transpose: bool = False,
) -> Float[Array, "N k"]:
    """``(diag(s) Gamma + rho)^-1 rhs`` or its transpose's for rho > 0, with derivatives of the system itself.

    Unlike those of the root of s these exist where s = 0.

    Parameters
    ----------
    gram : (N, N)
        Gamma, positive semi-definite.
    squares : (N, 1) or like rhs
        s >= 0: one for all right-hand sides, or one for each.
    rhs : (N, k)
    rho : scalar array
    symmetric_solve : ``(Gamma, root, rho, b) -> (diag(root) Gamma diag(root) + rho)^-1 b``
        ``root`` is like ``squares``.
    """
    rho = rho.astype(gram.dtype)

    def plain(w):
        return squares * (gram @ w) + rho * w

    def transposed(w):
        return gram @ (squares * w) + rho * w

    # Constants to a derivative, which is that of the system.
    kernel, fixed, level = jax.lax.stop_gradient((gram, squares, rho))
    on, root, inverse = roots(fixed)
    inner = partial(symmetric_solve, kernel, root, level)

    def solve(_, b):
        off = jnp.where(on, 0, b / level)
        rest = b - fixed * (kernel @ off)
        return root * inner(inverse * rest) + off

    def solve_transposed(_, b):
        y = inner(root * b)
        return jnp.where(on, inverse * y, (b - kernel @ (root * y)) / level)

    if transpose:
        return jax.lax.custom_linear_solve(transposed, rhs, solve_transposed, solve)
    return jax.lax.custom_linear_solve(plain, rhs, solve, solve_transposed)


def roots(squares: Float[Array, "N u"]):
    """Where s > 0, its root there and 0 elsewhere, and the root's inverse likewise."""
    on = squares > 0
    root = jnp.sqrt(jnp.where(on, squares, 1))
    return on, jnp.where(on, root, 0), jnp.where(on, 1 / root, 0)


def by_cholesky(kernel, root: Float[Array, "N 1"], rho, rhs: Float[Array, "N k"]):
    """``(diag(root) Gamma diag(root) + rho)^-1 rhs`` of one unit."""
    return cholesky_solve(cholesky_factor(shifted(root * kernel * root.T, rho)), rhs)


def all_units(
    kernel: Float[Array, "N N"],
    root: Float[Array, "N M"],
    rho: Float[Array, ""],
    rhs: Float[Array, "N M"],
) -> Float[Array, "N M"]:
    """``(diag(root_i) Gamma diag(root_i) + rho)^-1 b_i`` of every unit i.

    NaN for a unit whose matrix cannot be factorised, where conjugate gradients do not converge either.
    """
    # Squares of numbers far from 1 leave the range of floats.
    scale = jnp.max(jnp.abs(rhs), axis=0, keepdims=True)
    scale = jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1)
    found, converged = conjugate_gradients(kernel, root, rho, rhs / scale)
    found = scale * found

    def factorised():
        def unit(item):
            column, b, x, done = item
            left = partial(by_cholesky, kernel, column[:, None], rho, b[:, None])
            return jax.lax.cond(done, lambda: x, lambda: left()[:, 0])

        items = root.T, rhs.T, found.T, converged
        return map_items(unit, items, batch_size(*kernel.shape, itemsize=kernel.itemsize)).T

    return jax.lax.cond(jnp.all(converged), lambda: found, factorised)


class _Iterate(NamedTuple):
    step: Array
    solution: Array
    residual: Array
    direction: Array
    product: Array
    going: Array


def conjugate_gradients(
    kernel: Float[Array, "N N"],
    root: Float[Array, "N M"],
    rho: Float[Array, ""],
    rhs: Float[Array, "N M"],
) -> tuple[Float[Array, "N M"], Bool[Array, " M"]]:
    """Solutions of ``A_i x_i = b_i`` with ``A_i = root_i Gamma root_i + rho``, and where the residual is rounding's.

    Preconditioned by the diagonal of A, which leaves ``c Gamma' c + 1 - c^2`` with Gamma' = Gamma scaled to a unit
    diagonal and ``c^2 = root^2 Gamma_nn/(root^2 Gamma_nn + rho)``. Its condition number is at most that of Gamma' for
    every root and damping, as 1 lies between the eigenvalues of Gamma'.

    The residual is computed anew at the end, and is small beside ``|A| |x| + |b|`` with a lower bound of ``|A|``: its
    largest diagonal entry.
    """
    eps, most = float(jnp.finfo(kernel.dtype).eps), max(TRIED, int(MOST_STEPS * len(kernel)))
    diagonal = root**2 * jnp.diagonal(kernel)[:, None] + rho
    size = jnp.max(diagonal, axis=0, keepdims=True)

    def product(x):
        return root * (kernel @ (root * x)) + rho * x

    def allowed(x):
        return ROUNDINGS * eps * (size * _norm(x) + _norm(rhs))

    def advance(state: _Iterate) -> _Iterate:
        image = product(state.direction)
        length = _quotient(state.product, jnp.sum(state.direction * image, axis=0, keepdims=True))
        solution = state.solution + length * state.direction
        residual = state.residual - length * image
        scaled = residual / diagonal
        squares = jnp.sum(residual * scaled, axis=0, keepdims=True)
        direction = scaled + _quotient(squares, state.product) * state.direction
        left, step = jnp.max(_quotient(_norm(residual), allowed(solution))), state.step + 1
        # On a straight line from the first residual, in logarithms, to what is allowed after the most steps.
        line = (ROUNDINGS * eps) ** (step.astype(rhs.dtype) / most - 1)
        going = (left > 1) & (step < most) & ((step < TRIED) | (left <= line))
        return _Iterate(step, solution, residual, direction, squares, going)

    scaled = rhs / diagonal
    start = _Iterate(
        jnp.zeros((), jnp.int32),
        jnp.zeros_like(rhs),
        rhs,
        scaled,
        jnp.sum(rhs * scaled, axis=0, keepdims=True),
        jnp.any(rhs != 0),
    )
    found = jax.lax.while_loop(lambda state: state.going, advance, start).solution
    # False for what is not a number.
    bound = allowed(found)
    return found, ((_norm(rhs - product(found)) <= bound) & jnp.isfinite(bound))[0]


def _norm(x: Float[Array, "N M"]) -> Float[Array, "1 M"]:
    return jnp.sqrt(jnp.sum(x**2, axis=0, keepdims=True))


def _quotient(over, under):
    """0 where the unit has nothing left to solve."""
    return jnp.where(under > 0, over / jnp.where(under > 0, under, 1), 0)
