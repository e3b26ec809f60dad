"""Expected squared error of the linearised network over label noise: bias, variance, and over initialisations.

Labels ``y = y* + e`` with independent noise of covariance ``sigma^2 I`` are trained under MSE with maps K and Q
(docs/theory.md sections 2 and 11). The outputs are affine in the labels and in the outputs f_0 at the start,

    f_t = f_0 + W_t (y - f_0),     W_t = eta Q sum_{s<t} (I - eta K)^s     (on the training set Q = K),

so that with ``m = E f_0`` and ``V = Cov f_0`` over initialisations, means over e and f_0 are closed forms:

    bias      |m' - y*' - W_t (m - y*)|^2,     variance  sigma^2 |W_t|_F^2,     spread  tr(A V A^T),  A = [-W_t, I],

each divided by the number of outputs: a mean over the N'C outputs, without 1/2. Their sum is the risk.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory import losses
from ngd_theory.arguments import check_finite, check_range, checked, is_known
from ngd_theory.dynamics.checks import check_schedule, check_targets
from ngd_theory.dynamics.ensembles import by_doubling
from ngd_theory.dynamics.limit import Predictor
from ngd_theory.dynamics.predict import check_map
from ngd_theory.errors import InputError, NotPredictedError, shown
from ngd_theory.fisher import Approximation
from ngd_theory.fisher.base import train_and_test_maps
from ngd_theory.kernels.infinite import nngp
from ngd_theory.kernels.infinite.limit import joined
from ngd_theory.linalg import (
    differentiated_as,
    eigh,
    symmetric_roots,
)
from ngd_theory.networks import Linearization, Network
from ngd_theory.numerics import geometric_sum, norm, power
from ngd_theory.precision import full_precision
from ngd_theory.pytrees import pytree

#: The last time that is counted in steps; beyond it is infinity.
LAST_TIME = 2**31 - 1


@pytree("times", "bias", "variance", "spread", "test_bias", "test_variance", "test_spread")
@dataclass(frozen=True)
class Risk:
    """Mean squared error of the outputs against clean targets, at T times, in its parts.

    Each is a mean over the NC or N'C outputs, with no 1/2. The clean targets are what is compared with: noise of fresh
    labels would add sigma^2.

    Attributes
    ----------
    times : (T,)
        Updates made; infinity is convergence.
    bias, test_bias : (T,)
        Squared: of the mean over label noise and initialisations. Test parts are None without a test set.
    variance, test_variance : (T,)
        Over label noise.
    spread, test_spread : (T,)
        Variance over initialisations; 0 where one is given.
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
        y* there; with ``at``.

    Returns
    -------
    Risk
        With a spread of 0.

    Raises
    ------
    InputError
        As `predict`; for a noise or a time that is negative or not finite (but for infinity), and infinity where
        the step size is too large to converge.
    NotPredictedError
        For infinity where the outputs come to no limit otherwise.
    SingularKernelError
        Where a solve breaks down.

    Notes
    -----
    Inside jit, vmap and grad what has no limit is NaN instead of an error. Derivatives of what is at infinity are NaN
    where K is singular, or not done after 2^31 steps. Eigenvalues of K below its rounding are zero: outputs along
    them stay.
    """
    _require_whole_test_set(at=at, test_targets=test_targets)
    k, q = train_and_test_maps(approximation, lin, damping, at)
    test_outputs = None if at is None else at.outputs
    how = targets, noise, step_size, times, q, test_outputs, test_targets
    # G is symmetric, and so is K, whatever rounding made of it.
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
    """Risk from function-space maps at hand, such as those of `ngd_theory.fisher.population_maps`; see `risk`.

    Parameters
    ----------
    k : (N*C, N*C)
        Map on the training set. It need not be symmetric; inside jit, where this cannot be read, it is taken not to be.
    outputs : (N, C) or (R, N, C)
        f_0 on the training set, of one initialisation or of R, which are the distribution: mean and covariance
        have 1/R. The maps are held, as they are in the limit of wide networks; where those of each initialisation
        differ, make a `Risk` of each and take the mean of their totals.
    targets : (N, C)
        y*, clean.
    noise, step_size, times
        As in `risk`.
    q : (N'*C, N*C), optional
        Map to the test set; needs the next two.
    test_outputs : (N', C) or (R, N', C), optional
        Of the same initialisations.
    test_targets : (N', C), optional

    Returns
    -------
    Risk

    Raises
    ------
    InputError, NotPredictedError
        As `risk`; for maps and outputs of other shapes. Where K is not symmetric, infinity needs an invertible K
        that has converged after 2^31 steps.
    """
    return _from_maps(
        *(k, outputs, targets, noise, step_size, times, q, test_outputs, test_targets),
        symmetric=is_known(k) and k.shape == k.shape[::-1] and bool(_is_symmetric(k)),
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
        Of the same ``net``, ``x`` and ``x_test``.
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
        As `risk`; for maps of other numbers of inputs.
    """
    n, m = len(x), len(x_test)
    if maps.test_map.shape != (m, n):
        raise InputError(
            f"maps are for {maps.test_map.shape[::-1]} train and test inputs, not {(n, m)}"
        )
    nowhere = jnp.zeros(jnp.shape(targets), maps.train_map.dtype)
    no_test = jnp.zeros(jnp.shape(test_targets), maps.train_map.dtype)
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
    root = _root(nngp(net, joined(net, x, x_test)))
    # Of each output alike, so that K (x) I_C needs no C copies: targets are columns.
    train, test = (-means[0], root[:n]), (-means[1], root[n:])
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
    """Raise `InputError` where some of what belongs together is None."""
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
    """Raise `InputError` for a noise, step size or time that has no meaning."""
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


@jax.jit
def _is_symmetric(k):
    """Up to what solves may lose: half the digits."""
    return norm(k - k.T) <= jnp.finfo(k.dtype).eps ** 0.5 * norm(k)


@jax.jit
def _root(prior):
    return symmetric_roots(prior)[0]


@jax.jit
def _moments(outputs, targets):
    """``E f_0 - y*``, (NC, 1), and a root of the covariance of f_0, (NC, R), with no column for one initialisation."""
    each = outputs.reshape(-1, targets.size)
    mean = jnp.mean(each, axis=0)
    root = (each - mean).T / len(each) ** 0.5
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
    if ends and is_known(parts[0]) and bool(jnp.isnan(parts[0]).any()):
        raise _explain(np.asarray(k), float(step_size), symmetric)
    return Risk(jnp.asarray([float(t) for t in times], k.dtype), *parts)


def _explain(k, step_size, symmetric) -> Exception:
    """Why there is no limit."""
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
    """The fields of `Risk` but the times."""
    way = partial(_by_powers, ends)
    if symmetric:
        # Eigenvectors of an isotropic K have no derivatives; the risk has.
        way = differentiated_as(way)(partial(_by_spectrum, ends))
    found = []
    for bias, spread, gain, rows in way(k, q, start, test_start, step_size, steps):
        found += [part[places] / rows for part in (bias, noise**2 * gain, spread)]
    return found


def _squared(rows: tuple[Array, Array]) -> tuple[Array, Array]:
    """Mean squares a row, of the mean's columns and of the root's all together."""
    mean, root = rows
    return jnp.sum(mean**2) / mean.shape[1], jnp.sum(root**2)


@full_precision
def _by_spectrum(ends, k, q, start, test_start, step_size, steps):
    """For each set bias, spread and ``|W|_F^2`` at all times, and its rows, in the eigenbasis of K."""
    eigenvalues, vectors = eigh((k + k.T) / 2)
    rates, times = step_size * eigenvalues[None], steps[:, None]
    decay, travelled = power(1 - rates, times), step_size * geometric_sum(rates, times)
    images = vectors * eigenvalues[None], None if q is None else q @ vectors
    if ends:
        # What is zero is told by how much rounding made of K: its asymmetry shows what solves have lost.
        floor = 10 * len(k) * jnp.finfo(k.dtype).eps * jnp.max(jnp.abs(eigenvalues))
        stays = jnp.abs(eigenvalues) <= floor + norm(k - k.T)
        converges = jnp.all(stays | (jnp.abs(1 - rates[0]) < 1))
        if images[1] is not None:
            # What K does not see must move no test output.
            stray = norm(jnp.where(stays[None], images[1], 0))
            converges &= stray <= jnp.finfo(k.dtype).eps ** 0.5 * norm(images[1])
        inverse = jnp.where(stays, 0, 1 / jnp.where(stays, 1, eigenvalues))
        last = [stays.astype(k.dtype), inverse]
        last = [jnp.where(converges, row, jnp.nan)[None] for row in last]
        decay, travelled = (
            jnp.concatenate(rows) for rows in zip((decay, travelled), last, strict=True)
        )
    inside = jax.tree.map(lambda columns: vectors.T @ columns, start)

    def at(factors):
        left, passed = factors
        sets = [jax.tree.map(lambda c: vectors @ (left[:, None] * c), inside)]
        if q is not None:
            moved = jax.tree.map(lambda c: images[1] @ (passed[:, None] * c), inside)
            sets.append(jax.tree.map(jnp.subtract, test_start, moved))
        gains = [jnp.sum((image * passed[None]) ** 2) for image in images if image is not None]
        return [(*_squared(rows), gain) for rows, gain in zip(sets, gains, strict=True)]

    return _with_rows(jax.lax.map(at, (decay, travelled)), k, q)


@full_precision
def _by_powers(ends, k, q, start, test_start, step_size, steps):
    """The same from powers of ``I - eta K``, which need no eigenvectors."""

    def at(powers):
        decay, total = powers
        sets = [jax.tree.map(lambda c: decay @ c, start)]
        gains = [jnp.sum((k @ total) ** 2)]
        if q is not None:
            weights = q @ total
            moved = jax.tree.map(lambda c: weights @ c, start)
            sets.append(jax.tree.map(jnp.subtract, test_start, moved))
            gains.append(jnp.sum(weights**2))
        return [(*_squared(rows), gain) for rows, gain in zip(sets, gains, strict=True)]

    def after(t):
        decay, total = by_doubling(step_size * k, t[None])
        return decay[0], step_size * total[0]

    found = jax.lax.map(lambda t: at(after(t)), steps)
    if ends:
        decay, total = after(jnp.asarray(LAST_TIME, jnp.int32))
        # Where nothing is left to rounding, what is summed is the limit.
        gone = norm(decay) <= len(k) * jnp.finfo(k.dtype).eps
        last = at(tuple(jnp.where(gone, x, jnp.nan) for x in (decay, total)))
        found = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), found, last)
    return _with_rows(found, k, q)


def _with_rows(found, k, q):
    """Each set's numbers, and how many rows its map has."""
    maps = [a_map for a_map in (k, q) if a_map is not None]
    return [(*numbers, float(len(a_map))) for numbers, a_map in zip(found, maps, strict=True)]
