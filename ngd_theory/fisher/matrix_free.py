"""Dual solves without the kernel: preconditioned conjugate gradients on ``(R^T Theta R + rho) w = v``.

A product with ``Theta = J J^T / N`` is a vjp and then a jvp: ``O(N C (P + M) T)`` per layer, besides the matmuls with
the weights' shapes. Memory is needed for the linearisation, a tangent and the preconditioner; nothing has size (NC)^2.
The preconditioner is Nystrom's, from the kernel's columns at samples that are evenly spaced over the data set:

    B B^T ~ Theta,    P^-1 = (s_k + rho) U (S + rho)^-1 U^T + (I - U U^T),

with U S U^T the eigendecomposition of ``B B^T`` and s_k its least kept eigenvalue (Frangella, Tropp & Udell 2023).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ngd_theory.arguments import checked_fields
from ngd_theory.errors import InputError
from ngd_theory.fisher.coupled import at_most_square, damped_solve
from ngd_theory.fisher.kinds import curvature_sensitivities
from ngd_theory.kernels import layer_kernel
from ngd_theory.linalg import eigh, inverse_spectrum
from ngd_theory.networks import LayerLinearization
from ngd_theory.numerics import norm
from ngd_theory.precision import full_precision


@checked_fields
@dataclass(frozen=True)
class ConjugateGradients:
    """Settings of the conjugate gradients.

    Attributes
    ----------
    tolerance : float or None
        Largest ``|v - (Theta + rho) w| / |v|``; 1e-10 in float64 and 1e-5 in float32 when None. If round-off does not
        allow that, the limit is ``4 eps (|Theta| + rho) |w| / |v|``, as accurate as a factorisation.
    max_iterations : int
        If the solve has not converged by then, that is an error; no less accurate result is returned.
    rank : int
        Number of kernel columns that make the preconditioner.
    """

    tolerance: float | None = None
    max_iterations: int = 500
    rank: int = 256

    def __post_init__(self):
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise InputError(f"tolerance is {self.tolerance}; it must be in (0, 1), or None")
        for name in ("max_iterations", "rank"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def tolerance_in(self, dtype) -> float:
        """The tolerance, or its default for ``dtype`` if it is None."""
        if self.tolerance is not None:
            return self.tolerance
        return 1e-10 if jnp.finfo(dtype).bits == 64 else 1e-5

    @full_precision
    def solve(
        self,
        layers: Sequence[LayerLinearization],
        rhs: Float[Array, "N C"],
        rho: Float[Array, ""],
    ) -> "Solution":
        """Solve ``(Theta + rho) w = rhs`` for the kernel of these layers, ``Theta = (1/N) sum_l J_l J_l^T``."""
        shape = rhs.shape
        basis, spectrum = nystrom(layers, self.rank)
        return conjugate_gradients(
            lambda v: kernel_product(layers, v.reshape(shape)).ravel(),
            rhs.ravel(),
            rho.astype(rhs.dtype),
            basis,
            spectrum,
            self.tolerance_in(rhs.dtype),
            self.max_iterations,
        )


class Solution(NamedTuple):
    """What conjugate gradients found.

    Attributes
    ----------
    weights : (N*C,)
        NaN if the solve did not converge. A natural gradient outside jit then raises an error.
    iterations : int
    residual : float
        ``|v - (Theta + rho) w| / |v|``, from a fresh product.
    converged : bool
    """

    weights: Float[Array, " NC"]
    iterations: Int[Array, ""]
    residual: Float[Array, ""]
    converged: Array


@full_precision
def damped_solution(
    iteration: ConjugateGradients,
    layers: Sequence[LayerLinearization],
    cotangent: Float[Array, "N C"],
    rho: Float[Array, ""],
    root: Float[Array, "N C K"] | None,
) -> Solution:
    """Solve ``(Lambda Theta + rho) w = v`` for these layers' kernel. Derivatives use the same iteration."""

    def products(layers):
        return lambda w: [kernel_product(layers, w[0].reshape(cotangent.shape)).reshape(-1, 1)]

    fixed, fixed_rho, small = jax.lax.stop_gradient((layers, rho, root))
    small = None if small is None else at_most_square(small)
    inner = _Iterated(
        iteration,
        [replace(y, sensitivities=curvature_sensitivities(y.sensitivities, small)) for y in fixed],
        fixed_rho,
    )
    (weights,), (iterations, residual, converged) = damped_solve(
        np.ones((1, 1)),
        products(layers),
        products(fixed),
        [cotangent.reshape(-1, 1)],
        rho,
        root,
        inner,
    )
    return Solution(weights[:, 0], iterations, residual, converged)


class _Iterated(NamedTuple):
    """Conjugate gradients as the solver of the inner system."""

    iteration: ConjugateGradients
    layers: Sequence[LayerLinearization]
    rho: Array

    def solve(self, rhs):
        n, k = self.layers[0].sensitivities.shape[:2]
        weights, *said = self.iteration.solve(self.layers, rhs[0].reshape(n, k), self.rho)
        return [weights[:, None]], tuple(said)

    solve_transposed = solve


def kernel_product(
    layers: Sequence[LayerLinearization], v: Float[Array, "N C"]
) -> Float[Array, "N C"]:
    """``(1/N) sum_l J_l J_l^T v``."""
    terms = [layer.jvp(layer.vjp(v)) for layer in layers]
    return sum(terms[1:], terms[0]) / v.shape[0]


def nystrom(
    layers: Sequence[LayerLinearization], rank: int
) -> tuple[Float[Array, "NC k"], Float[Array, " k"]]:
    """Eigenvectors U and eigenvalues S of Nystrom's approximation to Theta, of rank at most max(rank, C).

    It uses the columns of whole samples and costs ``O(N C k (P + C M))`` per layer and ``O(N C k^2)``.
    """
    n, c = layers[0].sensitivities.shape[:2]
    samples = max(1, min(n, rank // c))
    chosen = (jnp.arange(samples) * n) // samples
    terms = [layer_kernel(layer, _rows_of(layer, chosen)) for layer in layers]
    columns = sum(terms[1:], terms[0]) / n
    rows = (chosen[:, None] * c + jnp.arange(c)[None]).ravel()
    core = columns[rows]
    eigenvalues, vectors = eigh((core + core.T) / 2)
    # B = columns core^(-1/2): B B^T is the approximation, B^T B has its spectrum.
    half = columns @ (vectors * jnp.sqrt(jnp.maximum(inverse_spectrum(eigenvalues), 0))[None])
    spectrum, basis = eigh(half.T @ half)
    inverse = jnp.maximum(inverse_spectrum(spectrum), 0)
    return half @ (basis * jnp.sqrt(inverse)[None]), jnp.where(inverse > 0, spectrum, 0)


def _rows_of(layer: LayerLinearization, samples) -> LayerLinearization:
    return replace(layer, inputs=layer.inputs[samples], sensitivities=layer.sensitivities[samples])


def conjugate_gradients(
    product: Callable[[Float[Array, " n"]], Float[Array, " n"]],
    rhs: Float[Array, " n"],
    rho: Float[Array, ""],
    basis: Float[Array, "n k"],
    spectrum: Float[Array, " k"],
    tolerance: float,
    max_iterations: int,
) -> Solution:
    """Solve ``(A + rho) w = rhs`` for a positive semi-definite A given by its products.

    Parameters
    ----------
    product : ``v -> A v``
    rhs : (n,)
    rho : scalar > 0
    basis, spectrum : (n, k), (k,)
        Of the preconditioner, from `nystrom`; zero columns for zero eigenvalues.
    tolerance, max_iterations
        See `ConjugateGradients`.
    """
    # Scale to length 1 (or 0): the iteration uses squares, which may be out of range.
    size = norm(rhs)
    size = jnp.where(size > 0, size, 1)
    rhs = rhs / size
    kept = spectrum > 0
    least = jnp.min(jnp.where(kept, spectrum, jnp.inf), initial=jnp.inf)
    shrink = jnp.where(kept, (jnp.where(kept, least, 0) + rho) / (spectrum + rho) - 1, 0)
    length_of_rhs, largest = norm(rhs), jnp.max(spectrum, initial=0)

    def precondition(r):
        return r + basis @ (shrink * (basis.T @ r))

    def bound(w):
        floor = 4 * jnp.finfo(rhs.dtype).eps * (largest + rho) * norm(w)
        return jnp.maximum(tolerance * length_of_rhs, floor)

    def apply(w):
        return product(w) + rho * w

    def unfinished(state):
        w, r, _, _, iteration = state
        # The comparison is False for NaN, which also stops the loop.
        return (norm(r) > bound(w)) & (iteration < max_iterations)

    def step(state):
        w, r, direction, descent, iteration = state
        image = apply(direction)
        length = descent / (direction @ image)
        w, r = w + length * direction, r - length * image
        z = precondition(r)
        old, descent = descent, r @ z
        return w, r, z + (descent / old) * direction, descent, iteration + 1

    z = precondition(rhs)
    start = jnp.zeros_like(rhs), rhs, z, rhs @ z, jnp.zeros((), jnp.int32)
    w, _, _, _, iterations = jax.lax.while_loop(unfinished, step, start)
    error = norm(rhs - apply(w))
    # The recurrence and the fresh product differ by round-off.
    converged = (error <= 2 * bound(w)) & jnp.isfinite(error)
    return Solution(jnp.where(converged, size * w, jnp.nan), iterations, error, converged)
