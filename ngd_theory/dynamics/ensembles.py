"""Outputs of an ensemble of infinitely wide networks that natural gradient descent trains.

For each output, the residual on the training inputs is ``r_t = (I - eta K)^t r_0``, and at any input
``f_t = f_0 - S_t r_0`` with ``S_t = eta Q sum_{s<t} (I - eta K)^s``. K and Q are the approximation's maps in the limit
(docs/theory.md section 5), the same for all initialisations, and ``f_0 ~ GP(0, NNGP)``. So f_t is Gaussian over them:

    mean  S_t y,        covariance  V'' - S_t V' - V'^T S_t^T + S_t V S_t^T,       V the NNGP kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ngd_theory.arguments import check_finite, check_range, checked
from ngd_theory.dynamics.limit import Predictor
from ngd_theory.errors import InputError, shown
from ngd_theory.kernels.infinite import nngp
from ngd_theory.kernels.infinite.limit import joined
from ngd_theory.linalg import differentiated_as, eigh
from ngd_theory.networks import Network
from ngd_theory.numerics import geometric_sum, power
from ngd_theory.precision import full_precision
from ngd_theory.pytrees import pytree


@pytree("mean", "covariance", "test_mean", "test_covariance")
@dataclass(frozen=True)
class Ensemble:
    """Distribution of the outputs over initialisations at several times: Gaussian, independent for each output c.

    Attributes
    ----------
    mean, test_mean : (T, N, C), (T, N', C)
    covariance, test_covariance : (T, N, N), (T, N', N')
        The same for each output.
    """

    mean: Float[Array, "T N C"]
    covariance: Float[Array, "T N N"]
    test_mean: Float[Array, "T M C"]
    test_covariance: Float[Array, "T M M"]


@checked
def ensemble(
    maps: Predictor,
    net: Network,
    x: Float[Array, "N *S"],
    x_test: Float[Array, "M *S"],
    targets: Float[Array, "..."],
    step_size: float,
    steps: Sequence[int],
) -> Ensemble:
    """Mean and covariance of the outputs over initialisations after each of ``steps`` updates (MSE).

    Parameters
    ----------
    maps : Predictor
        Made for the same ``net``, ``x`` and ``x_test``.
    net : Network
    x, x_test : (N, *input_shape), (N', *input_shape)
    targets : (N, C)
    step_size : float
        eta.
    steps : sequence of int
        Times t >= 0; 0 is the prior.

    Raises
    ------
    InputError
        For targets or maps of the wrong shape, targets that are not finite, a step size that is not positive and
        finite, or a negative time.
    """
    n, m = len(x), len(x_test)
    maps.require_samples(n, m)
    if jnp.ndim(targets) != 2 or len(targets) != n:
        raise InputError(f"targets have shape {jnp.shape(targets)}; they must be ({n}, C)")
    check_finite("targets", targets)
    if not 0 < step_size < float("inf"):
        raise InputError(f"step_size is {step_size}; it must be positive and finite")
    check_range("step_size", step_size, maps.train_map.dtype, positive=True)
    for t in steps:
        if not 0 <= t < 2**31:
            raise InputError(f"steps has {shown(t)}; they must be whole numbers from 0 to 2^31 - 1")
    prior = nngp(net, joined(net, x, x_test))
    times = jnp.asarray([int(t) for t in steps], jnp.int32)
    return _propagate(maps.train_map, maps.test_map, prior, jnp.asarray(targets), step_size, times)


@jax.jit
@full_precision
def _propagate(train_map, test_map, prior, targets, step_size, times) -> Ensemble:
    n = len(train_map)
    powers = _powers(step_size * (train_map + train_map.T) / 2, times)

    def at(powers):
        decay, total = powers
        travelled = step_size * (test_map @ total)
        cross = travelled @ prior[:n, n:]
        test = prior[n:, n:] - cross - cross.T + travelled @ prior[:n, :n] @ travelled.T
        return (
            targets - decay @ targets,
            decay @ prior[:n, :n] @ decay.T,
            travelled @ targets,
            test,
        )

    return Ensemble(*jax.lax.map(at, powers))


@full_precision
def by_doubling(matrix, times):
    """`_powers` of any square matrix, without eigenvectors, which have no derivatives if eigenvalues are equal."""
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)

    def at(t):
        def double(state, bit):
            decay, total = state
            decay, total = decay @ decay, total + decay @ total
            longer = decay - matrix @ decay, total + decay
            odd = (t >> bit) & 1 == 1
            return jax.tree.map(partial(jnp.where, odd), longer, (decay, total)), None

        start = identity, jnp.zeros_like(matrix)
        return jax.lax.scan(double, start, jnp.arange(31, dtype=times.dtype)[::-1])[0]

    return jax.lax.map(at, times)


@differentiated_as(by_doubling)
@full_precision
def _powers(matrix: Float[Array, "N N"], times: Int[Array, " T"]) -> tuple[Array, Array]:
    """``(I - A)^t`` and ``sum_{s<t} (I - A)^s`` of a symmetric A, (T, N, N) each."""
    eigenvalues, vectors = eigh(matrix)

    def at(t):
        spectra = power(1 - eigenvalues, t), geometric_sum(eigenvalues, t)
        return tuple((vectors * f[None]) @ vectors.T for f in spectra)

    return jax.lax.map(at, times)
