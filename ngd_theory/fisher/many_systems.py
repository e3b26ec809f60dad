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

#: Most steps of conjugate gradients, as a fraction of N. More would take as long as the factorisation.
MOST_STEPS = 0.4
#: Steps after which the iteration may stop because it converges too slowly.
TRIED = 5
#: Largest residual, in roundings of ``|A| |x| + |b|``. Those of a Cholesky factorisation are as large.
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
    """``(diag(s) Gamma + rho)^-1 rhs`` for rho > 0, or the same with the transposed matrix.

    Derivatives are those of the linear system. They exist where s = 0; those of the root of s do not.

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

    # Constant for derivatives: these come from the linear system.
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
    """The mask ``s > 0``, the root of s and its inverse; both are 0 where s is 0."""
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

    NaN for a unit if conjugate gradients do not converge and its matrix cannot be factorised.
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
    """Solve ``A_i x_i = b_i`` with ``A_i = root_i Gamma root_i + rho``; also say which units converged.

    The preconditioner is the diagonal of A. It gives the matrix ``c Gamma' c + 1 - c^2``, where Gamma' is Gamma scaled
    to a unit diagonal and ``c^2 = root^2 Gamma_nn/(root^2 Gamma_nn + rho)``. The condition number is at most that of
    Gamma' for every root and damping, as 1 lies between the eigenvalues of Gamma'.

    At the end the residual is computed anew and compared with ``|A| |x| + |b|``. The largest diagonal entry of A, a
    lower bound, takes the place of ``|A|``.
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
        # The residual allowed at this step: log-linear down to the final one at the last step.
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
    # The comparison is False for NaN.
    bound = allowed(found)
    return found, ((_norm(rhs - product(found)) <= bound) & jnp.isfinite(bound))[0]


def _norm(x: Float[Array, "N M"]) -> Float[Array, "1 M"]:
    return jnp.sqrt(jnp.sum(x**2, axis=0, keepdims=True))


def _quotient(over, under):
    """``over / under``; 0 for a unit that has nothing left to solve."""
    return jnp.where(under > 0, over / jnp.where(under > 0, under, 1), 0)
