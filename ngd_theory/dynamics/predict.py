"""Function-space predictions: what the linearised network does (docs/theory.md section 2)."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ngd_theory import losses
from ngd_theory.arguments import check_finite, checked, is_finite
from ngd_theory.dynamics.batches import check_batches
from ngd_theory.dynamics.checks import check_schedule, check_targets
from ngd_theory.dynamics.momentum import Momentum, as_momentum, next_direction
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
    *,
    batches: Int[Array, "T B"] | None = None,
    momentum: float | Array | Momentum = 0.0,
) -> Trajectory:
    """Predict training with ``f <- f - eta K residual(f)``, K frozen at ``lin``.

    For MSE the prediction is a closed form in the eigenbasis of the symmetric ``K = U diag(lambda) U^T``:
    ``r_t = U (1 - eta lambda)^t U^T r_0`` and ``f_t(at) = f_0(at) - Q U g_t(lambda) U^T r_0`` with
    ``g_t = (1 - (1 - eta lambda)^t)/lambda``. It is exact at every t, for every damping and approximation. With
    `Identity` it is gradient descent in the eigenbasis of the NTK; with `Exact` it is the spectral form
    ``lambda = theta/(theta + rho)``. With momentum, each eigenvalue has its own 2 x 2 recursion. For cross-entropy the
    recursion is simulated: the Jacobian is frozen, and the Fisher's Lambda is that of the current outputs.

    With mini-batches ``f <- f - eta Q_S residual(f_S)`` is simulated too, exactly for these batches. Here
    ``Q_S = (1/B) J (G_S + rho)^-1 J_S^T`` belongs to the batch S (docs/theory.md section 12).

    Parameters
    ----------
    approximation : Approximation
        For cross-entropy, its ``kind`` must have that loss.
    lin : Linearization
        At the N training inputs, at initialisation.
    targets : (N, C)
        Real numbers; for cross-entropy one distribution per row.
    step_size : float
        eta.
    num_steps : int
    damping : float
        rho.
    at : Linearization, optional
        At N' test inputs.
    loss : {"mse", "cross-entropy", "sigmoid-cross-entropy"} or Loss
    batches : (num_steps, B) whole numbers, optional
        Indices of the samples of every step (`draw_batches`); all samples if None.
    momentum : float or Momentum
        Heavy ball, or `spring`.

    Returns
    -------
    Trajectory
        ``test_outputs`` is None without ``at``; ``parameter_distances`` and ``displacement`` are None in the
        closed form.

    Raises
    ------
    InputError
        For targets that have the wrong shape or are invalid for the loss, a NaN or infinity, numbers beyond the range
        of the outputs' type, a step size that is not positive, ``num_steps < 0``, more steps than memory has room for,
        batches of another shape, or a momentum out of range. Inside jit, vmap and grad values are not known, and only
        shapes are checked.
    SingularKernelError
        If a solve breaks down; inside jit the trajectory is NaN instead.

    Examples
    --------
    >>> import jax, ngd_theory as ngd
    >>> net = ngd.networks.mlp(8, [64, 64], 1, "tanh")
    >>> params = net.init(jax.random.key(0))
    >>> x = jax.random.normal(jax.random.key(1), (4, 8))
    >>> lin = ngd.networks.linearize(net, params, x)
    >>> exact = ngd.fisher.by_name("exact")
    >>> predicted = ngd.dynamics.predict(exact, lin, jax.numpy.ones((4, 1)), 0.5, 2, damping=1e-6)
    >>> [round(float(loss / predicted.losses[0]), 2) for loss in predicted.losses]
    [1.0, 0.25, 0.06]
    """
    objective = losses.by_name(loss)
    test_outputs = None if at is None else at.outputs
    check_schedule(step_size, num_steps, lin.outputs, test_outputs)
    targets = check_targets(objective, targets, lin.outputs)
    batches = check_batches(batches, lin.num_samples, num_steps)
    if objective == losses.MSE and batches is None:
        k, q = train_and_test_maps(approximation, lin, damping, at)
        return predict_from_maps(
            k, lin.outputs, targets, step_size, num_steps, q, test_outputs, momentum
        )
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
        batches,
        as_momentum(momentum, lin.outputs.dtype),
    )
    if not is_finite((outputs, test)):
        _explain(approximation, lin, objective, targets, damping, outputs, test, batches)
    values = _values(objective, outputs, targets)
    return Trajectory(outputs, test, values, distances, displacement=moved)


def _explain(approximation, lin, objective, targets, damping, outputs, test, batches) -> None:
    """Raise if a failed solve caused the first step that is not finite; else the outputs grew without bound."""
    recorded = [a.reshape(len(a), -1) for a in (outputs, test) if a is not None]
    finite = np.isfinite(np.concatenate(recorded, axis=1)).all(axis=1)
    step = max(np.argmin(finite) - 1, 0)
    batch = None if batches is None else batches[step]
    approximation, here, targets = _seen(
        approximation, replace(lin, outputs=outputs[step]), targets, batch
    )
    residual = objective.residual(here.outputs, targets)
    if is_finite(residual):
        approximation.natural_gradient(here, residual, damping)


def _seen(approximation, lin, targets, batch):
    """The approximation, linearisation and targets that a step on a batch uses."""
    if batch is None:
        return approximation, lin, targets
    return approximation.of_samples(batch), lin.take(batch), targets[batch]


@checked
def predict_from_maps(
    k: Float[Array, "NC NC"],
    outputs: Float[Array, "N C"],
    targets: Float[Array, "N C"],
    step_size: float | Array,
    num_steps: int,
    q: Float[Array, "MC NC"] | None = None,
    test_outputs: Float[Array, "M C"] | None = None,
    momentum: float | Array | Momentum = 0.0,
) -> Trajectory:
    """Predict training under MSE from given function-space maps; see `predict`.

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
        Map to the test set; needs ``test_outputs``.
    test_outputs : (N', C), optional
        f_0 on the test set.
    momentum : float or Momentum

    Raises
    ------
    InputError
        As `predict`; also for maps whose shapes do not fit the outputs, or only one of ``q`` and ``test_outputs``.
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
    how = num_steps, as_momentum(momentum, jnp.result_type(k))
    train, test = _spectral(k, q, outputs, test_outputs, targets, eta, *how)
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
def _spectral(k, q, outputs, test_outputs, targets, step_size, num_steps, momentum):
    # Eigenvectors of an isotropic K have no derivatives, but the prediction has.
    predict = differentiated_as(partial(_step_by_step, num_steps))(partial(_at_once, num_steps))
    return predict(k, q, outputs, test_outputs, targets, step_size, momentum)


@full_precision
def _at_once(num_steps, k, q, outputs, test_outputs, targets, step_size, momentum):
    """Outputs at all times from the eigenbasis of K."""
    eigenvalues, vectors = eigh((k + k.T) / 2)
    initial = vectors.T @ (outputs - targets).ravel()
    if momentum is None:
        residuals, travelled = _powers(eigenvalues, step_size, initial, num_steps)
    else:
        residuals, travelled = _pairs(eigenvalues, step_size, initial, num_steps, momentum)
    train = targets[None] + (residuals @ vectors.T).reshape(-1, *outputs.shape)
    if q is None:
        return train, None
    test = test_outputs.ravel()[None] - (travelled @ vectors.T) @ q.T
    return train, test.reshape(-1, *test_outputs.shape)


def _powers(eigenvalues, step_size, initial, num_steps):
    """Residuals along eigenvectors at all times, and eta times the sum of the earlier ones, from powers."""
    times, rates = jnp.arange(num_steps + 1)[:, None], step_size * eigenvalues[None]
    residuals = power(1 - rates, times) * initial[None]
    return residuals, geometric_sum(rates, times) * step_size * initial[None]


def _pairs(eigenvalues, step_size, initial, num_steps, momentum):
    """As `_powers`, with momentum: from the 2 x 2 recursion of each eigenvalue; the sum is that of directions."""
    kept = momentum.along(eigenvalues)

    def step(state, _):
        r, d, travelled = state
        d = kept * d + r
        r, travelled = r - step_size * eigenvalues * d, travelled + step_size * d
        return (r, d, travelled), (r, travelled)

    nothing = jnp.zeros_like(initial)
    _, rest = jax.lax.scan(step, (initial, nothing, nothing), length=num_steps)
    return tuple(
        jnp.concatenate([a[None], b]) for a, b in zip((initial, nothing), rest, strict=True)
    )


@full_precision
def _step_by_step(num_steps, k, q, outputs, test_outputs, targets, step_size, momentum):
    """The same as `_at_once`, by a recursion of the outputs and of the coordinates d of the direction ``J^T d``."""
    k = (k + k.T) / 2
    decay, correction = (0.0, None) if momentum is None else (momentum.decay, momentum.correction)

    def step(state, _):
        f, f_at, d = state
        kept = decay * d if correction is None else decay * d - correction * (k @ d)
        d = kept + (f - targets).ravel()
        f = f - step_size * (k @ d).reshape(f.shape)
        f_at = None if q is None else f_at - step_size * (q @ d).reshape(f_at.shape)
        return (f, f_at, d), (f, f_at)

    start = outputs, None if q is None else test_outputs
    _, rest = jax.lax.scan(step, (*start, jnp.zeros_like(outputs.ravel())), length=num_steps)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, rest)


@partial(jax.jit, static_argnames=("num_steps", "objective"))
@full_precision
def _recursion(
    approximation,
    lin,
    targets,
    step_size,
    num_steps,
    damping,
    at,
    objective,
    batches=None,
    momentum=None,
):
    """Outputs at ``lin`` and ``at``, distances, all (num_steps + 1, ...), and the final displacement."""

    def step(state, batch):
        f, f_at, moved, direction = state
        how, here, wanted = _seen(approximation, replace(lin, outputs=f), targets, batch)
        direction = next_direction(
            how,
            here,
            objective.residual(here.outputs, wanted),
            damping,
            direction,
            momentum,
        )
        f = f - step_size * lin.jvp(direction)
        f_at = None if at is None else f_at - step_size * at.jvp(direction)
        moved = jax.tree.map(lambda m, g: m - step_size * g, moved, direction)
        return (f, f_at, moved, None if momentum is None else direction), (f, f_at, norm(moved))

    nowhere = jax.tree.map(jnp.zeros_like, lin.vjp(jnp.zeros_like(lin.outputs)))
    start = lin.outputs, None if at is None else at.outputs
    state = (*start, nowhere, None if momentum is None else nowhere)
    (_, _, moved, _), rest = jax.lax.scan(step, state, batches, length=num_steps)
    first = (*start, jnp.zeros((), lin.outputs.dtype))
    return *jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest), moved
