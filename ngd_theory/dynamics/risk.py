"""Expected squared error of the linearised network: bias, variance over label noise, spread over initialisations.

The network is trained under MSE with maps K and Q, on labels ``y = y* + e`` with independent noise e of covariance
``sigma^2 I`` (docs/theory.md sections 2 and 13). The outputs are affine in the labels and in the initial outputs f_0,

    f_t = f_0 + W_t (y - f_0),     W_t = eta Q sum_{s<t} (I - eta K)^s     (on the training set Q = K),

so means over e and f_0 are closed forms. With ``m = E f_0`` and ``V = Cov f_0`` over initialisations they are:

    bias      |m' - y*' - W_t (m - y*)|^2,     variance  sigma^2 |W_t|_F^2,     spread  tr(A V A^T),  A = [-W_t, I],

each divided by the number of outputs N'C: means over the outputs, without 1/2. Their sum is the risk.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory import losses
from ngd_theory.arguments import check_finite, check_range, checked, is_known
from ngd_theory.dynamics.checks import check_schedule, check_targets
from ngd_theory.dynamics.limit import Predictor
from ngd_theory.dynamics.predict import check_map
from ngd_theory.dynamics.second_moments import LAST_TIME, second_moments
from ngd_theory.errors import InputError, NotPredictedError, shown
from ngd_theory.fisher import Approximation
from ngd_theory.fisher.base import train_and_test_maps
from ngd_theory.kernels.infinite import nngp
from ngd_theory.kernels.infinite.limit import joined
from ngd_theory.linalg import symmetric_roots
from ngd_theory.networks import Linearization, Network
from ngd_theory.numerics import norm
from ngd_theory.pytrees import pytree


@pytree("times", "bias", "variance", "spread", "test_bias", "test_variance", "test_spread")
@dataclass(frozen=True)
class Risk:
    """Mean squared error of the outputs against clean targets, at T times, in its parts.

    Each is a mean over the NC or N'C outputs, with no 1/2. Outputs are compared with clean targets; comparison with
    fresh noisy labels would add sigma^2.

    Attributes
    ----------
    times : (T,)
        Updates made; infinity is convergence.
    bias, test_bias : (T,)
        Squared error of the mean over label noise and initialisations. Test parts are None without a test set.
    variance, test_variance : (T,)
        Variance over label noise.
    spread, test_spread : (T,)
        Variance over initialisations; 0 if only one is given.
    """

    made_by: ClassVar[str] = "ngd.dynamics.risk(...)"
    times: Array
    bias: Array
    variance: Array
    spread: Array
    test_bias: Array | None = None
    test_variance: Array | None = None
    test_spread: Array | None = None

    @property
    def total(self) -> Array:
        """(T,): the risk on the training inputs."""
        return self.bias + self.variance + self.spread

    @property
    def test_total(self) -> Array | None:
        """(T,): the risk on the test inputs."""
        if self.test_bias is None or self.test_variance is None or self.test_spread is None:
            return None
        return self.test_bias + self.test_variance + self.test_spread


@checked
def risk(
    approximation: Approximation,
    lin: Linearization,
    targets: Float[Array, "N C"],
    noise: float | Array,
    step_size: float | Array,
    times: Sequence[float],
    damping,
    at: Linearization | None = None,
    test_targets: Float[Array, "M C"] | None = None,
) -> Risk:
    """Risk of the network linearised at ``lin`` and trained under MSE, over noise of its labels.

    Parameters
    ----------
    approximation : Approximation
    lin : Linearization
        At the N training inputs, at initialisation.
    targets : (N, C)
        y*, clean.
    noise : float
        sigma >= 0, the standard deviation of each label's noise.
    step_size : float
        eta.
    times : sequence
        Whole numbers t >= 0 of updates, and ``math.inf`` for convergence.
    damping : float
        rho.
    at : Linearization, optional
        At N' test inputs.
    test_targets : (N', C), optional
        y* at the test inputs; needed with ``at``.

    Returns
    -------
    Risk
        With a spread of 0.

    Raises
    ------
    InputError
        As `predict`; also for a noise that is negative or not finite, a time that is neither a whole number >= 0 nor
        infinity, and infinity if the step size is too large to converge.
    NotPredictedError
        For infinity if the outputs have no limit for another reason.
    SingularKernelError
        If a solve breaks down.

    Notes
    -----
    Inside jit, vmap and grad a missing limit gives NaN instead of an error. Derivatives at infinity are NaN if K is
    singular, or if training has not converged after 2^31 steps. Eigenvalues of K below its rounding count as zero:
    outputs along them do not change.
    """
    _require_whole_test_set(at=at, test_targets=test_targets)
    k, q = train_and_test_maps(approximation, lin, damping, at)
    test_outputs = None if at is None else at.outputs
    how = targets, noise, step_size, times, q, test_outputs, test_targets
    # G is symmetric, so K is symmetric up to rounding.
    return _from_maps(k, lin.outputs, *how, symmetric=True)


@checked
def risk_from_maps(
    k: Float[Array, "NC NC"],
    outputs: Float[Array, "..."],
    targets: Float[Array, "N C"],
    noise: float | Array,
    step_size: float | Array,
    times: Sequence[float],
    q: Float[Array, "MC NC"] | None = None,
    test_outputs: Float[Array, "..."] | None = None,
    test_targets: Float[Array, "M C"] | None = None,
) -> Risk:
    """Risk from given function-space maps, such as those of `ngd_theory.fisher.population_maps`; see `risk`.

    Parameters
    ----------
    k : (N*C, N*C)
        Map on the training set. It need not be symmetric. Inside jit it cannot be read, and counts as not symmetric.
    outputs : (N, C) or (R, N, C)
        f_0 on the training set, of one initialisation or of R. The R initialisations are the whole distribution: mean
        and covariance have 1/R. All have the same maps, as in the limit of wide networks. If each initialisation has
        its own maps, make a `Risk` of each and take the mean of their totals.
    targets : (N, C)
        y*, clean.
    noise, step_size, times
        As in `risk`.
    q : (N'*C, N*C), optional
        Map to the test set; needs the next two.
    test_outputs : (N', C) or (R, N', C), optional
        f_0 on the test set, of the same initialisations.
    test_targets : (N', C), optional

    Returns
    -------
    Risk

    Raises
    ------
    InputError, NotPredictedError
        As `risk`; also for maps and outputs whose shapes do not fit. If K is not symmetric, infinity needs an
        invertible K and training that has converged after 2^31 steps.
    """
    return _from_maps(
        *(k, outputs, targets, noise, step_size, times, q, test_outputs, test_targets),
        symmetric=_is_symmetric(k),
    )


@checked
def prior_risk(
    k: Float[Array, "NC NC"],
    q: Float[Array, "MC NC"],
    prior: Float[Array, "RC RC"],
    noise: float | Array,
    step_size: float | Array,
    times: Sequence[float],
) -> Risk:
    """Risk for clean targets that are random, ``y* - f_0 ~ N(0, prior)``, as in Amari et al. (2020).

    Targets ``y* = f_0 + J theta`` with ``theta ~ N(0, C)`` have the prior ``J C J^T`` over both sets. Among all maps
    that fit the labels, the map of the preconditioner C has the smallest test bias at convergence: gradient descent if
    C = I ("aligned"), and the natural gradient if C is the inverse of its Fisher ("misaligned").

    Parameters
    ----------
    k : (N*C, N*C)
        As in `risk_from_maps`.
    q : (N'*C, N*C)
    prior : (N*C + N'*C, N*C + N'*C)
        Covariance of ``y* - f_0`` over training and test outputs, positive semi-definite.
    noise, step_size, times
        As in `risk`.

    Returns
    -------
    Risk
        With biases averaged over the prior, and a spread of 0.

    Raises
    ------
    InputError, NotPredictedError
        As `risk_from_maps`; also for a prior of another shape, or one that is not symmetric.
    """
    rows, test_rows, both = (np.zeros((n, 1), k.dtype) for n in (len(k), len(q), len(k) + len(q)))
    _check_schedule(noise, step_size, times, rows)
    check_map("k", k, rows, rows)
    check_map("q", q, test_rows, rows)
    check_map("prior", prior, both, both)
    if is_known(prior) and not _is_symmetric(prior):
        raise InputError("prior is not symmetric; it must be a covariance")
    root, test_root = _roots(prior, len(k))
    starts = (rows, root), (test_rows, test_root)
    found = _evaluate(k, q, starts[0], starts[1], noise, step_size, times, _is_symmetric(k))
    nothing = found.bias
    return replace(
        found, bias=found.spread, test_bias=found.test_spread, spread=nothing, test_spread=nothing
    )


@checked
def ensemble_risk(
    maps: Predictor,
    net: Network,
    x: Float[Array, "N *S"],
    x_test: Float[Array, "M *S"],
    targets: Float[Array, "N C"],
    test_targets: Float[Array, "M C"],
    noise: float | Array,
    step_size: float | Array,
    times: Sequence[float],
) -> Risk:
    """Risk of infinitely wide networks over label noise and initialisations, ``f_0 ~ GP(0, NNGP)``; see `ensemble`.

    Parameters
    ----------
    maps : Predictor
        Made for the same ``net``, ``x`` and ``x_test``.
    net : Network
    x, x_test : (N, *input_shape), (N', *input_shape)
    targets, test_targets : (N, C), (N', C)
        y*, clean.
    noise, step_size, times
        As in `risk`.

    Returns
    -------
    Risk

    Raises
    ------
    InputError, NotPredictedError
        As `risk`; also for maps of other numbers of inputs.
    """
    n, m = len(x), len(x_test)
    maps.require_samples(n, m)
    nowhere = np.zeros(jnp.shape(targets), maps.train_map.dtype)
    no_test = np.zeros(jnp.shape(test_targets), maps.train_map.dtype)
    if nowhere.ndim != 2 or len(nowhere) != n:
        raise InputError(f"targets have shape {nowhere.shape}; they must be ({n}, C)")
    if no_test.shape != (m, nowhere.shape[1]):
        raise InputError(
            f"test_targets have shape {no_test.shape}; they must be {(m, nowhere.shape[1])}"
        )
    _check_schedule(noise, step_size, times, nowhere)
    means = [
        check_targets(losses.MSE, clean, like)
        for clean, like in ((targets, nowhere), (test_targets, no_test))
    ]
    root, test_root = _roots(nngp(net, joined(net, x, x_test)), n)
    # The distribution is the same for each output, so targets are columns and K (x) I_C is not formed.
    train, test = (-means[0], root), (-means[1], test_root)
    return _evaluate(maps.train_map, maps.test_map, train, test, noise, step_size, times, True)


def _from_maps(
    k, outputs, targets, noise, step_size, times, q, test_outputs, test_targets, *, symmetric
) -> Risk:
    """`risk_from_maps`, told whether K is symmetric."""
    _require_whole_test_set(q=q, test_outputs=test_outputs, test_targets=test_targets)
    one, start = _start("outputs", outputs, targets)
    _check_schedule(noise, step_size, times, one)
    check_map("k", k, one, one)
    test_start = None
    if q is not None:
        if jnp.shape(test_outputs)[:-2] != jnp.shape(outputs)[:-2]:
            raise InputError(
                f"outputs have shape {jnp.shape(outputs)} and test_outputs {jnp.shape(test_outputs)}; they must be "
                "of the same initialisations"
            )
        test_one, test_start = _start("test_outputs", test_outputs, test_targets)
        check_map("q", q, test_one, one)
    return _evaluate(k, q, start, test_start, noise, step_size, times, symmetric)


def _require_whole_test_set(**given) -> None:
    """Raise `InputError` if some of the arguments are None, but not all."""
    if len({value is None for value in given.values()}) > 1:
        raise InputError(f"{' and '.join(given)} belong together: give all of them, or none")


def _start(name, outputs, targets):
    """Outputs of one initialisation, and `_moments` of all against checked targets."""
    if jnp.ndim(outputs) not in (2, 3) or not len(outputs):
        raise InputError(f"{name} have shape {jnp.shape(outputs)}; it must be (N, C) or (R, N, C)")
    check_finite(name, outputs)
    one = outputs if jnp.ndim(outputs) == 2 else outputs[0]
    return one, _moments(outputs, check_targets(losses.MSE, targets, one))


def _check_schedule(noise, step_size, times, outputs) -> None:
    """Raise `InputError` for an invalid noise, step size or time."""
    check_schedule(step_size, 0, outputs)
    if np.ndim(noise) or (is_known(noise) and not 0 <= float(noise) < math.inf):
        raise InputError(f"noise is {shown(noise)}; it must be one finite number >= 0")
    check_range("noise", noise, jnp.result_type(outputs))
    if not len(times):
        raise InputError("times is empty; give one time at least")
    for t in times:
        if not is_known(t) or not (t == math.inf or (0 <= t <= LAST_TIME and t == int(t))):
            raise InputError(
                f"times has {shown(t)}; they must be whole numbers from 0 to 2^31 - 1, or math.inf"
            )


def _is_symmetric(k) -> bool:
    """Whether it is known to be a symmetric matrix."""
    return is_known(k) and k.shape == k.shape[::-1] and bool(_is_nearly_symmetric(k))


@jax.jit
def _is_nearly_symmetric(k):
    """Whether it is symmetric up to half the digits, which solves may lose."""
    return norm(k - k.T) <= jnp.finfo(k.dtype).eps ** 0.5 * norm(k)


@partial(jax.jit, static_argnums=1)
def _roots(covariance, num_train):
    """A root of the covariance over both sets: its rows for the training set, and those for the other set."""
    return tuple(jnp.split(symmetric_roots(covariance)[0], [num_train]))


@jax.jit
def _moments(outputs, targets):
    """``E f_0 - y*``, (NC, 1), and a root of the covariance of f_0, (NC, R), with no column for one initialisation."""
    each = outputs.reshape(-1, targets.size)
    mean = jnp.mean(each, axis=0)
    root = (each - mean[None]).T / len(each) ** 0.5
    return (mean - targets.ravel())[:, None], root[:, : 0 if outputs.ndim == 2 else None]


def _evaluate(k, q, start, test_start, noise, step_size, times, symmetric) -> Risk:
    """Risk from the moments at the start."""
    counted = sorted({int(t) for t in times if t != math.inf})
    ends = math.inf in times
    order = {t: place for place, t in enumerate([*counted, math.inf])}
    eta, sigma = (jnp.asarray(number, k.dtype) for number in (step_size, noise))
    steps = jnp.asarray(counted, jnp.int32)
    places = jnp.asarray([order[t] for t in times], jnp.int32)
    parts = _parts(symmetric, ends, k, q, start, test_start, eta, steps, sigma, places)
    if ends and is_known(parts[0]) and np.isnan(np.asarray(parts[0])).any():
        raise _explain(np.asarray(k), float(step_size), symmetric)
    return Risk(jnp.asarray([float(t) for t in times], k.dtype), *parts)


def _explain(k, step_size, symmetric) -> Exception:
    """The error that says why there is no limit."""
    eigenvalues = np.linalg.eigvalsh((k + k.T) / 2) if symmetric else np.linalg.eigvals(k)
    radius = float(np.max(np.abs(1 - step_size * eigenvalues)))
    if np.max(np.abs(eigenvalues)) * step_size >= 2:
        return InputError(
            f"step_size is {step_size:g}; training does not converge with it, as the residual grows by up to "
            f"{radius:.3g} a step: take a smaller one, or no infinity in times"
        )
    return NotPredictedError(
        f"the outputs have no limit at infinity: abs(1 - eta lambda) is {radius:.6g} at most. It takes a K that has no "
        "negative eigenvalue, moves no test output along its zero ones, and is invertible where it is not symmetric: "
        "raise the damping, or leave infinity out of times"
    )


@partial(jax.jit, static_argnums=(0, 1))
def _parts(symmetric, ends, k, q, start, test_start, step_size, steps, noise, places):
    """The fields of `Risk` except the times."""
    found = []
    moved = second_moments(symmetric, ends, k, q, start, test_start, step_size, steps)
    maps = [k] if q is None else [k, q]
    for a_map, (bias, spread, gain) in zip(maps, moved, strict=True):
        found += [part[places] / len(a_map) for part in (bias, noise**2 * gain, spread)]
    return found
