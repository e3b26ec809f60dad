"""What natural gradient descent does to an infinitely wide network, and to an ensemble of them.

Per output, on the training inputs ``r_t = (I - eta K)^t r_0``, and anywhere ``f_t = f_0 - S_t r_0`` with ``S_t = eta Q
sum_{s<t} (I - eta K)^s``; K and Q are the approximation's maps of the limit (docs/theory.md section 5), the same for
every initialisation, and ``f_0 ~ GP(0, NNGP)``. So f_t is Gaussian over initialisations:

    mean  S_t y,        covariance  V'' - S_t V' - V'^T S_t^T + S_t V S_t^T,       V the NNGP kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ngd_theory.arguments import check_finite, check_range, checked, require_known
from ngd_theory.errors import InputError, NotPredictedError, require_type, shown
from ngd_theory.kernels.infinite.evaluate import MEMORY_BUDGET, nngp
from ngd_theory.kernels.infinite.limit import joined, linearize
from ngd_theory.kernels.infinite.units import unit_wise_maps
from ngd_theory.linalg import differentiated_as, eigh
from ngd_theory.networks import Network
from ngd_theory.numerics import geometric_sum, power
from ngd_theory.precision import full_precision
from ngd_theory.pytrees import pytree

#: Default number of units drawn a layer.
NUM_UNITS = 1000


@runtime_checkable
class Approximation(Protocol):
    """What is used of a Fisher approximation of `ngd_theory.fisher`."""

    name: ClassVar[str]
    has_limit: ClassVar[bool]

    def function_space_map(self, lin, damping, at=None) -> Array:
        """Of a linearisation, as in `ngd_theory.fisher.Approximation`."""
        ...


@pytree("train_map", "test_map", "train_error", "test_error")
@dataclass(frozen=True)
class Predictor:
    """An approximation's function-space maps in the infinite-width limit, per output.

    Attributes
    ----------
    name : str
        Of the approximation.
    train_map : (N, N)
        K: one step is ``r <- r - eta K r``. Of C outputs the map is ``K (x) I_C``.
    test_map : (N', N)
        Q: one step is ``f' <- f' - eta Q r``.
    train_error, test_error : like the maps, or None
        Standard errors, for maps estimated by Monte Carlo.
    """

    made_by: ClassVar[str] = "ngd.kernels.infinite.predictor(...)"
    name: str
    train_map: Float[Array, "N N"]
    test_map: Float[Array, "M N"]
    train_error: Float[Array, "N N"] | None = None
    test_error: Float[Array, "M N"] | None = None

    @property
    def constant(self) -> Float[Array, ""]:
        """``alpha = tr K / N``."""
        return jnp.mean(jnp.diagonal(self.train_map))

    @property
    def weights(self) -> Float[Array, "M N"]:
        """``Q / alpha``: with ``K = alpha I``, converged test outputs are ``f_0' - weights r_0``."""
        return self.test_map / self.constant


@checked
def predictor(
    approximation: Approximation,
    net: Network,
    x: Float[Array, "N *S"],
    x_test: Float[Array, "M *S"],
    *,
    damping: float = 0.0,
    key: Any = None,
    num_units: int = NUM_UNITS,
    memory_budget: int = MEMORY_BUDGET,
) -> Predictor:
    """Maps of an approximation in the infinite-width limit, on training and test inputs.

    At ``damping = 0``, with full-rank kernels: identity ``K = Theta/N``, ``Q = Theta'/N``; exact ``Q =
    Theta' Theta^-1``; block-diagonal ``sum_l Theta_l' Theta_l^-1``; block-tridiagonal ``sum_l s_l
    Theta_l' Theta_l^-1`` with ``Sigma s = 1`` (its limit rho -> 0 where Sigma is singular); K-FAC
    ``N sum_l (B_l' B_l^-1) o (A_l' A_l^-1)``, of which the output layer is ``A_L' A_L^-1``.

    Parameters
    ----------
    approximation : Approximation
        For example ``ngd.fisher.by_name("exact")``.
    net : Network
        A multi-layer perceptron. Its widths matter for unit-wise only.
    x, x_test : (N, *input_shape), (N', *input_shape)
    damping : float
        rho >= 0.
    key : jax.random key, optional
        Needed for unit-wise, which is averaged over ``num_units`` random units a layer.
    num_units : int
    memory_budget : int
        See `layer_kernels`.

    Returns
    -------
    Predictor

    Raises
    ------
    NotPredictedError
        For an approximation without `has_limit` (entry-wise, kfac-tridiagonal), and as `unit_wise_maps` and
        `layer_kernels`.
    InputError
        For unit-wise without ``key``, and a damping that is negative or beyond the range of its type.
    SingularKernelError
        Where a solve breaks down.
    """
    require_type("approximation", approximation, Approximation, "ngd.fisher.by_name('kfac'), say")
    name = approximation.name
    n = len(x)
    if not approximation.has_limit:
        raise NotPredictedError(
            f"{name!r} has no infinite-width predictor: its map depends on single weights (entry-wise) or on how "
            "the damping is shared between factors of given sizes (kfac-tridiagonal)"
        )
    if name == "unit-wise":
        if key is None:
            raise InputError("unit-wise is estimated by Monte Carlo over units: pass key")
        require_known("the limit of unit-wise", damping)
        if not 0 <= damping < float("inf"):
            raise InputError(f"damping is {damping}; it must be one finite number >= 0")
        check_range("damping", damping, jnp.result_type(x))
        maps, errors = unit_wise_maps(net, x, x_test, damping, key, num_units)
        return Predictor(name, maps[:n], maps[n:], errors[:n], errors[n:])
    lin, at = linearize(net, x, x_test, output_dim=1, memory_budget=memory_budget)
    return Predictor(
        name,
        approximation.function_space_map(lin, damping),
        approximation.function_space_map(lin, damping, at),
    )


@pytree("mean", "covariance", "test_mean", "test_covariance")
@dataclass(frozen=True)
class Ensemble:
    """Outputs over initialisations at several times: Gaussian, outputs c independent.

    Attributes
    ----------
    mean, test_mean : (T, N, C), (T, N', C)
    covariance, test_covariance : (T, N, N), (T, N', N')
        Of each output alike.
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
        Of the same ``net``, ``x`` and ``x_test``.
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
    if maps.test_map.shape != (m, n):
        raise InputError(
            f"maps are for {maps.test_map.shape[::-1]} train and test inputs, not {(n, m)}"
        )
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
def _by_doubling(matrix, times):
    """`_powers` without eigenvectors, which have no derivatives where eigenvalues are equal."""
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)

    def at(t):
        def double(state, bit):
            decay, total = state
            decay, total = decay @ decay, total + decay @ total
            longer = decay - matrix @ decay, total + decay
            odd = (t >> bit) & 1 == 1
            return jax.tree.map(partial(jnp.where, odd), longer, (decay, total)), None

        start = identity, jnp.zeros_like(matrix)
        return jax.lax.scan(double, start, jnp.arange(31)[::-1])[0]

    return jax.lax.map(at, times)


@differentiated_as(_by_doubling)
@full_precision
def _powers(matrix: Float[Array, "N N"], times: Int[Array, " T"]) -> tuple[Array, Array]:
    """``(I - A)^t`` and ``sum_{s<t} (I - A)^s`` of a symmetric A, (T, N, N) each."""
    eigenvalues, vectors = eigh(matrix)

    def at(t):
        spectra = power(1 - eigenvalues, t), geometric_sum(eigenvalues, t)
        return tuple((vectors * f[None]) @ vectors.T for f in spectra)

    return jax.lax.map(at, times)
