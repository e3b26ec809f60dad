"""Function-space predictions: what the linearised network does (docs/theory.md section 2)."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory import losses
from ngd_theory.arguments import check_finite, checked, is_finite
from ngd_theory.dynamics.checks import check_schedule, check_targets
from ngd_theory.dynamics.trajectory import Trajectory
from ngd_theory.errors import InputError
from ngd_theory.fisher import Approximation
from ngd_theory.fisher.base import train_and_test_maps
from ngd_theory.fisher.damping import Damping, as_damping
from ngd_theory.linalg import differentiated_as, eigh
from ngd_theory.networks import Linearization
from ngd_theory.numerics import geometric_sum, norm, power
from ngd_theory.precision import full_precision


@checked
def predict(
    approximation: Approximation,
    lin: Linearization,
    targets: Float[Array, "N C"],
    step_size: float | Array,
    num_steps: int,
    damping: float | Array | Damping,
    at: Linearization | None = None,
    loss: str | losses.Loss = "mse",
) -> Trajectory:
    """Predict training with ``f <- f - eta K residual(f)``, K frozen at ``lin``.

    For MSE in closed form, from the eigenbasis of the symmetric ``K = U diag(lambda) U^T``:
    ``r_t = U (1 - eta lambda)^t U^T r_0`` and ``f_t(at) = f_0(at) - Q U g_t(lambda) U^T r_0`` with
    ``g_t = (1 - (1 - eta lambda)^t)/lambda``: exact at every t, whatever damping and approximation; with
    `Identity` it is gradient descent in the eigenbasis of the NTK, with `Exact` the spectral form
    ``lambda = theta/(theta + rho)``. For cross-entropy the recursion is simulated, the Jacobian frozen and
    the Fisher's Lambda taken at the current outputs.

    Parameters
    ----------
    approximation : Approximation
        For cross-entropy one whose ``kind`` has that loss.
    lin : Linearization
        At the N training inputs, at initialisation.
    targets : (N, C)
        Real numbers; for cross-entropy a distribution a row.
    step_size : float
        eta.
    num_steps : int
    damping : float
        rho.
    at : Linearization, optional
        At N' test inputs.
    loss : {"mse", "cross-entropy", "sigmoid-cross-entropy"} or Loss

    Returns
    -------
    Trajectory
        ``test_outputs`` is None without ``at``; ``parameter_distances`` and ``displacement`` are None in the
        closed form.

    Raises
    ------
    InputError
        For targets of the wrong shape or that the loss has no meaning for, a NaN or infinity, numbers beyond the range
        of the outputs' type, a step size that is not positive, ``num_steps < 0``, or more steps than memory has room
        for. Inside jit, vmap and grad values are not known, and only shapes are checked.
    SingularKernelError
        Where a solve breaks down; inside jit the trajectory is NaN instead.
    """
    objective = losses.by_name(loss)
    test_outputs = None if at is None else at.outputs
    check_schedule(step_size, num_steps, lin.outputs, test_outputs)
    targets = check_targets(objective, targets, lin.outputs)
    if objective == losses.MSE:
        k, q = train_and_test_maps(approximation, lin, damping, at)
        return predict_from_maps(k, lin.outputs, targets, step_size, num_steps, q, test_outputs)
    check_finite("at", at)
    outputs, test, distances, moved = _recursion(
        approximation,
        lin,
        targets,
        jnp.asarray(step_size, lin.outputs.dtype),
        num_steps,
        as_damping(damping, lin.outputs.dtype),
        at,
        objective,
    )
    if not is_finite((outputs, test)):
        _explain(approximation, lin, objective, targets, damping, outputs, test)
    values = _values(objective, outputs, targets)
    return Trajectory(outputs, test, values, distances, displacement=moved)


def _explain(approximation, lin, objective, targets, damping, outputs, test) -> None:
    """Raise where the first step that is not finite is a solve's fault; else the outputs grew without bound."""
    recorded = [a.reshape(len(a), -1) for a in (outputs, test) if a is not None]
    finite = np.isfinite(np.concatenate(recorded, axis=1)).all(axis=1)
    last = outputs[max(np.argmin(finite) - 1, 0)]
    residual = objective.residual(last, targets)
    if is_finite(residual):
        approximation.natural_gradient(replace(lin, outputs=last), residual, damping)


@checked
def predict_from_maps(
    k: Float[Array, "NC NC"],
    outputs: Float[Array, "N C"],
    targets: Float[Array, "N C"],
    step_size: float | Array,
    num_steps: int,
    q: Float[Array, "MC NC"] | None = None,
    test_outputs: Float[Array, "M C"] | None = None,
) -> Trajectory:
    """Predict training under MSE from function-space maps already at hand; see `predict`.

    Parameters
    ----------
    k : (N*C, N*C)
        Map on the training set, symmetric.
    outputs : (N, C)
        f_0 on the training set.
    targets : (N, C)
    step_size : float
    num_steps : int
    q : (N'*C, N*C), optional
        Map to the test set; needs ``test_outputs``, f_0 there.
    test_outputs : (N', C), optional

    Raises
    ------
    InputError
        As `predict`; for maps of other shapes than the outputs ask for, or a ``q`` without ``test_outputs``.
    """
    check_schedule(step_size, num_steps, outputs, test_outputs)
    targets = check_targets(losses.MSE, targets, outputs)
    check_map("k", k, outputs, outputs)
    if (q is None) != (test_outputs is None):
        raise InputError("q and test_outputs belong together: give both, or neither")
    if q is not None:
        check_map("q", q, test_outputs, outputs)
    check_finite("outputs", (outputs, test_outputs))
    eta = jnp.asarray(step_size, jnp.result_type(k))
    train, test = _spectral(k, q, outputs, test_outputs, targets, eta, num_steps)
    return Trajectory(train, test, _values(losses.MSE, train, targets))


@partial(jax.jit, static_argnums=0)
def _values(objective, outputs, targets):
    return jax.vmap(lambda f: objective.value(f, targets))(outputs)


def check_map(name, map, rows, columns):
    """Raise `InputError` unless a map takes residuals like ``columns`` to outputs like ``rows``, and is finite."""
    wanted = (rows.size, columns.size)
    if map.shape != wanted:
        raise InputError(f"{name} has shape {map.shape}; outputs of these numbers need {wanted}")
    check_finite(name, map)


@partial(jax.jit, static_argnames="num_steps")
def _spectral(k, q, outputs, test_outputs, targets, step_size, num_steps):
    # Eigenvectors of an isotropic K have no derivatives; what is predicted has.
    predict = differentiated_as(partial(_step_by_step, num_steps))(partial(_at_once, num_steps))
    return predict(k, q, outputs, test_outputs, targets, step_size)


@full_precision
def _at_once(num_steps, k, q, outputs, test_outputs, targets, step_size):
    """Outputs at all times from the eigenbasis of K."""
    eigenvalues, vectors = eigh((k + k.T) / 2)
    initial = vectors.T @ (outputs - targets).ravel()
    times, rates = jnp.arange(num_steps + 1)[:, None], step_size * eigenvalues[None]
    residuals = (power(1 - rates, times) * initial[None]) @ vectors.T
    train = targets[None] + residuals.reshape(-1, *outputs.shape)
    if q is None:
        return train, None
    travelled = geometric_sum(rates, times) * step_size
    test = test_outputs.ravel()[None] - ((travelled * initial[None]) @ vectors.T) @ q.T
    return train, test.reshape(-1, *test_outputs.shape)


@full_precision
def _step_by_step(num_steps, k, q, outputs, test_outputs, targets, step_size):
    """The same from the recursion."""

    def step(state, _):
        f, f_at = state
        residual = (f - targets).ravel()
        f = f - step_size * (k @ residual + k.T @ residual).reshape(f.shape) / 2
        f_at = None if q is None else f_at - step_size * (q @ residual).reshape(f_at.shape)
        return (f, f_at), (f, f_at)

    start = outputs, None if q is None else test_outputs
    _, rest = jax.lax.scan(step, start, length=num_steps)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, rest)


@partial(jax.jit, static_argnames=("num_steps", "objective"))
@full_precision
def _recursion(approximation, lin, targets, step_size, num_steps, damping, at, objective):
    """Outputs at ``lin`` and ``at``, distances, all (num_steps + 1, ...), and the final displacement."""

    def step(state, _):
        f, f_at, moved = state
        here = replace(lin, outputs=f)
        gradient = approximation.natural_gradient(here, objective.residual(f, targets), damping)
        f = f - step_size * lin.jvp(gradient)
        f_at = None if at is None else f_at - step_size * at.jvp(gradient)
        moved = jax.tree.map(lambda m, g: m - step_size * g, moved, gradient)
        return (f, f_at, moved), (f, f_at, norm(moved))

    nowhere = jax.tree.map(jnp.zeros_like, lin.vjp(jnp.zeros_like(lin.outputs)))
    start = lin.outputs, None if at is None else at.outputs
    (_, _, moved), rest = jax.lax.scan(step, (*start, nowhere), length=num_steps)
    first = (*start, jnp.zeros((), lin.outputs.dtype))
    return *jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest), moved
