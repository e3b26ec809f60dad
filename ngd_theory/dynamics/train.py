"""Training of the real network by natural gradient descent, re-linearised at every step."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory import losses
from ngd_theory.dynamics.checks import check_finite, check_schedule, check_targets
from ngd_theory.dynamics.trajectory import Trajectory
from ngd_theory.errors import SingularKernelError
from ngd_theory.fisher import Approximation
from ngd_theory.fisher.damping import as_damping
from ngd_theory.networks import Network, linearize
from ngd_theory.networks.sharding import on_host
from ngd_theory.theory import check_conditions

#: A loss this many times the initial one is a divergence.
DIVERGENCE_FACTOR = 1e8


def train(
    network: Network,
    params,
    x: Float[Array, "N *S"],
    y: Float[Array, "N C"],
    approximation: Approximation,
    step_size: float,
    num_steps: int,
    damping: float,
    x_test: Float[Array, "M *S"] | None = None,
    loss: str = "mse",
    on_step: Callable[[int, float], None] | None = None,
) -> Trajectory:
    """Train ``network`` by ``theta <- theta - eta (G + rho I)^-1 grad`` on the full batch.

    Parameters
    ----------
    network : Network
    params : like ``network.init(key)``
        Left as they are.
    x : (N, *input_shape)
    y : (N, C)
    approximation : Approximation
        G, rebuilt at every step.
    step_size : float
        eta.
    num_steps : int
    damping : float
        rho.
    x_test : (N', *input_shape), optional
    loss : {"mse", "cross-entropy"}
    on_step : callable, optional
        Called with the step and its training loss, for progress.

    Returns
    -------
    Trajectory
        With ``params`` and ``parameter_distances``. A loss that is not finite, or above
        `DIVERGENCE_FACTOR` times the first, stops training: ``diverged`` is True and what was seen is kept.

    Raises
    ------
    InputError
        For wrong shapes, NaN in the data, or a bad step size, damping or number of steps.
    SingularKernelError
        When the natural gradient is not finite though the outputs are: a solve broke down.
    """
    objective = losses.by_name(loss)
    check_schedule(step_size, num_steps)
    network.check(params, x)
    check_finite("x", x)
    y = check_targets(y, (x.shape[0], network.output_dim))
    if x_test is not None:
        network.check(params, x_test)
        check_finite("x_test", x_test)
        x_test = jnp.asarray(x_test)
    rho = as_damping(damping)
    x, y, start = jnp.asarray(x), jnp.asarray(y), params
    eta = jnp.asarray(step_size, jnp.result_type(*jax.tree.leaves(params)))
    # Steps overwrite their parameters.
    params = jax.tree.map(jnp.copy, params)
    ceiling = jnp.asarray(jnp.inf, eta.dtype)
    points: list[_Point] = []

    def stops(step: int) -> bool:
        """Read what a step gave: whether the loss is out of bounds."""
        point = points[step]
        value = float(point.loss)
        if on_step is not None:
            on_step(step, value)
        if not value <= float(ceiling):
            return True
        if not point.finite:
            lin = linearize(network, params, x)
            residual = objective.residual(lin.outputs, y)
            raise _explain(approximation, network, lin, residual, damping, step)
        return False

    for step in range(num_steps + 1):
        distance = _distance(params, start)
        test = None if x_test is None else _apply(network, params, x_test)
        if step < num_steps:
            params, f, value, finite = _step(
                network, objective, params, x, y, approximation, eta, rho, ceiling
            )
        else:
            f, finite = _apply(network, params, x), True
            value = objective.value(f, y)
        if step == 0:
            ceiling = DIVERGENCE_FACTOR * jnp.maximum(value, jnp.finfo(eta.dtype).tiny)
        points.append(_Point(f, test, value, distance, finite))
        # One step behind: the device has the next before the host asks for the last.
        if step > 0 and (diverged := stops(step - 1)):
            points.pop()
            break
    else:
        diverged = stops(num_steps)
    return Trajectory(
        jnp.asarray(np.stack([on_host(p.outputs) for p in points])),
        None if x_test is None else jnp.asarray(np.stack([on_host(p.tests) for p in points])),
        jnp.asarray([float(p.loss) for p in points]),
        jnp.asarray([float(p.distance) for p in points]),
        params,
        diverged=diverged,
    )


class _Point(NamedTuple):
    """One entry of the trajectory, on the device."""

    outputs: Array
    tests: Array | None
    loss: Array
    distance: Array
    finite: Array | bool


@partial(jax.jit, static_argnames=("network", "objective"), donate_argnames="params")
def _step(network, objective, params, x, y, approximation, step_size, damping, ceiling):
    """New parameters, in the memory of the old; the old ones where the loss is above ``ceiling`` or a solve failed."""
    lin = linearize(network, params, x)
    residual = objective.residual(lin.outputs, y)
    gradient = approximation.natural_gradient(lin, residual, damping)
    value = objective.value(lin.outputs, y)
    # A failed factorisation poisons every entry of its unit or layer: one row shows it, without another
    # pass over memory.
    first_rows = [g.reshape(-1, g.shape[-1])[0] for g in jax.tree.leaves(gradient)]
    finite = jnp.isfinite(sum(jnp.sum(row) for row in first_rows))
    keep = finite & (value <= ceiling)
    new = jax.tree.map(lambda p, g: jnp.where(keep, p - step_size * g, p), params, gradient)
    return new, lin.outputs, value, finite


_apply = jax.jit(lambda network, params, x: network.apply(params, x), static_argnums=0)


@jax.jit
def _distance(params, start):
    squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), params, start)
    return jnp.sqrt(sum(jax.tree.leaves(squares)))


def _explain(approximation, network, lin, residual, damping, step) -> SingularKernelError:
    reasons = approximation.breakdown(lin, residual, damping)
    if reasons is None:
        broken = [c for c in check_conditions(approximation, network, lin, damping) if not c.holds]
        reasons = "; ".join(c.why for c in broken) or "no condition of the theory is violated"
        reasons += ". Raise the damping, use float64, or damping 0 (pseudo-inverse)"
    return SingularKernelError(
        f"{approximation.name}: the natural gradient is not finite at step {step} with damping {damping} "
        f"in {lin.outputs.dtype}: {reasons}"
    )
