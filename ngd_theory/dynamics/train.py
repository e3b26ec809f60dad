"""Training of the real network by natural gradient descent, re-linearised at every step."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from ngd_theory import losses
from ngd_theory.arguments import check_finite, checked, require_known
from ngd_theory.dynamics.batches import check_batches
from ngd_theory.dynamics.checks import check_schedule, check_targets
from ngd_theory.dynamics.lazy import check_laziness, rescaled
from ngd_theory.dynamics.momentum import Momentum, as_momentum, next_direction
from ngd_theory.dynamics.trajectory import Trajectory
from ngd_theory.errors import SingularKernelError
from ngd_theory.fisher import Approximation
from ngd_theory.fisher.damping import Damping, as_damping
from ngd_theory.networks import Network, linearize
from ngd_theory.networks.sharding import on_host
from ngd_theory.numerics import norm
from ngd_theory.theory import check_conditions

#: A loss this many times the initial one is a divergence.
DIVERGENCE_FACTOR = 1e8


@checked
def train(
    network: Network,
    params,
    x: Shaped[Array, "N *S"],
    y: Float[Array, "N C"],
    approximation: Approximation,
    step_size: float | Array,
    num_steps: int,
    damping: float | Array | Damping,
    x_test: Shaped[Array, "M *S"] | None = None,
    loss: str | losses.Loss = "mse",
    on_step: Callable[[int, float], None] | None = None,
    laziness: float = 1.0,
    *,
    batches: Int[Array, "T B"] | None = None,
    momentum: float | Array | Momentum = 0.0,
) -> Trajectory:
    """Train ``network`` by ``theta <- theta - eta (G + rho I)^-1 grad``, on the full batch unless batches are given.

    Parameters
    ----------
    network : Network
    params : like ``network.init(key)``
        Left as they are.
    x : (N, *input_shape)
    y : (N, C)
        Targets: real numbers; for cross-entropy one distribution per row.
    approximation : Approximation
        G, rebuilt at every step.
    step_size : float
        eta.
    num_steps : int
    damping : float
        rho.
    x_test : (N', *input_shape), optional
        Outputs are recorded here too. Rows of ``x`` among them are no error, but they do not test what was learnt
        (`ngd_theory.data.load` refuses more than one in a hundred).
    loss : {"mse", "cross-entropy", "sigmoid-cross-entropy"} or Loss
    on_step : callable, optional
        Called with the step and its training loss, for progress.
    laziness : float
        epsilon, above 0 and at most 1: train the rescaled network ``f_0 + (f(theta_0 + epsilon (phi - theta_0)) -
        f_0)/epsilon`` from ``phi = theta_0`` (docs/theory.md, section 8). 1 is the network as it is; as epsilon -> 0
        the rescaled network becomes the linearised one, whose training `predict` predicts.
    batches : (num_steps, B) whole numbers, optional
        Samples (indices) for the gradient and G of each step (`draw_batches`). Outputs and losses are of all samples.
    momentum : float or Momentum
        Heavy ball, or `spring`. A step then follows ``d`` of `Momentum`.

    Returns
    -------
    Trajectory
        With ``params`` and ``parameter_distances``. A loss that is not finite, or above
        `DIVERGENCE_FACTOR` times the first, stops training: ``diverged`` is True and the entries so far are kept.
        Outputs, losses and distances are those of the rescaled network; ``params`` are the plain network's,
        ``theta_0 + epsilon (phi - theta_0)``.

    Raises
    ------
    InputError
        For wrong shapes, a NaN or infinity in the data or the parameters, targets that are invalid for the loss, a bad
        step size, damping, laziness, momentum, batches or number of steps, and more steps than memory has room for.
        Also inside jit, vmap or grad, where no number can be read.
    SingularKernelError
        If the natural gradient is not finite but the outputs are: a solve broke down.

    Examples
    --------
    >>> import jax, ngd_theory as ngd
    >>> net = ngd.networks.mlp(8, [64, 64], 1, "tanh")
    >>> params = net.init(jax.random.key(0))
    >>> x = jax.random.normal(jax.random.key(1), (4, 8))
    >>> y, exact = jax.numpy.ones((4, 1)), ngd.fisher.by_name("exact")
    >>> trained = ngd.dynamics.train(net, params, x, y, exact, 0.5, 2, damping=1e-6, laziness=1e-3)
    >>> [round(float(loss / trained.losses[0]), 2) for loss in trained.losses]
    [1.0, 0.25, 0.06]
    """
    objective = losses.by_name(loss)
    check_laziness(laziness)
    require_known("train", params, x, y, x_test, damping, step_size, batches, momentum)
    network.check(params, x)
    check_finite("x", x)
    check_finite("params", params)
    recorded = [jax.eval_shape(network.apply, params, x)]
    if x_test is not None:
        network.check(params, x_test)
        check_finite("x_test", x_test)
        x_test = jnp.asarray(x_test)
        recorded.append(jax.eval_shape(network.apply, params, x_test))
    check_schedule(step_size, num_steps, *recorded)
    y = check_targets(objective, y, recorded[0])
    batches = check_batches(batches, len(x), num_steps)
    kept = as_momentum(momentum, recorded[0].dtype)
    rho = as_damping(damping, recorded[0].dtype)
    x, y, start = jnp.asarray(x), jnp.asarray(y), jax.tree.map(jnp.asarray, params)
    eta = jnp.asarray(step_size, jnp.result_type(*jax.tree.leaves(params)))
    epsilon = jnp.asarray(laziness, recorded[0].dtype)
    # At epsilon = 1 they are not used.
    first, first_test = jnp.zeros(recorded[0].shape, recorded[0].dtype), None
    if laziness != 1:
        first = _apply(network, start, x)
        first_test = None if x_test is None else _apply(network, start, x_test)
    # A copy, because steps overwrite their parameters.
    params = jax.tree.map(jnp.copy, start)
    # A number on the host, not on a device: another placement would compile another program.
    limits = jnp.finfo(eta.dtype)
    ceiling = np.asarray(limits.max, eta.dtype)
    points: list[_Point] = []

    def take(step, params, direction):
        batch = None if batches is None else batches[step]
        how = approximation, eta, rho, ceiling, first, epsilon, batch, kept, direction
        return _step(network, objective, params, x, y, *how)

    def stops(step: int) -> bool:
        """Read the results of a step; True if the loss is out of bounds."""
        points[step] = point = points[step].read()
        if on_step is not None:
            on_step(step, point.loss)
        if not (np.isfinite(point.loss) and point.loss <= ceiling):
            return True
        if not point.finite:
            # The parameters of that step are overwritten: repeat the steps from the start.
            then, along = jax.tree.map(jnp.copy, start), nowhere()
            for index in range(step):
                then, along = take(index, then, along)[:2]
            batch = jnp.arange(len(x)) if batches is None else batches[step]
            lin = linearize(network, then, x[batch])
            lin = replace(lin, outputs=rescaled(lin.outputs, first[batch], epsilon))
            residual = objective.residual(lin.outputs, y[batch])
            raise _explain(approximation.of_samples(batch), network, lin, residual, rho, step)
        return False

    def nowhere():
        return None if kept is None else jax.tree.map(jnp.zeros_like, start)

    direction = nowhere()
    for step in range(num_steps + 1):
        distance = _distance(params, start, epsilon)
        test = None if x_test is None else _outputs(network, params, x_test, first_test, epsilon)
        if step < num_steps:
            params, direction, f, value, finite = take(step, params, direction)
        else:
            f, finite = _outputs(network, params, x, first, epsilon), True
            value = loss_value(objective, f, y)
        if step == 0:
            allowed = DIVERGENCE_FACTOR * np.maximum(float(value), float(limits.tiny))
            ceiling = np.asarray(min(allowed, float(limits.max)), eta.dtype)
        points.append(_Point(f, test, value, distance, finite))
        # The host reads one step behind, so that the device already has the next step.
        if step > 0 and (diverged := stops(step - 1)):
            points.pop()
            break
    else:
        diverged = stops(num_steps)
    return Trajectory(
        jnp.asarray(np.stack([p.outputs for p in points])),
        None if x_test is None else jnp.asarray(np.stack([p.tests for p in points])),
        jnp.asarray([p.loss for p in points]),
        jnp.asarray([p.distance for p in points]),
        params,
        diverged=diverged,
    )


class _Point(NamedTuple):
    """One entry of the trajectory, on the device or the host."""

    outputs: Any
    tests: Any
    loss: Any
    distance: Any
    finite: Any

    def read(self) -> "_Point":
        """The same point on the host; waits for its step."""
        tests = None if self.tests is None else on_host(self.tests)
        numbers = float(self.loss), float(self.distance), bool(self.finite)
        return _Point(on_host(self.outputs), tests, *numbers)


@partial(jax.jit, static_argnames=("network", "objective"), donate_argnames=("params", "direction"))
def _step(
    network,
    objective,
    params,
    x,
    y,
    approximation,
    step_size,
    damping,
    ceiling,
    first,
    laziness,
    batch=None,
    momentum=None,
    direction=None,
):
    """New parameters and direction, in the memory of the old; the old parameters if the loss is above ``ceiling``."""
    seen = (x, y, first) if batch is None else (x[batch], y[batch], first[batch])
    lin = linearize(network, params, seen[0])
    # The rescaled network has the Jacobian of the plain one; only its outputs differ.
    lin = replace(lin, outputs=rescaled(lin.outputs, seen[2], laziness))
    outputs = lin.outputs
    if batch is not None:
        outputs = rescaled(network.apply(params, x), first, laziness)
        approximation = approximation.of_samples(batch)
    residual = objective.residual(lin.outputs, seen[1])
    gradient = next_direction(approximation, lin, residual, damping, direction, momentum)
    value = objective.value(outputs, y)
    # A failed factorisation makes every entry of its unit or layer NaN. So one row shows it, without
    # another pass over memory.
    first_rows = [g.reshape(-1, g.shape[-1])[0] for g in jax.tree.leaves(gradient)]
    finite = jnp.isfinite(sum(jnp.sum(row) for row in first_rows))
    # Not `finite`, which needs all layers: each would wait for the last, with all gradients in memory at once.
    sound = value <= ceiling

    def moved(p, g):
        return jnp.where(sound, p - laziness * step_size * g, p).astype(p.dtype)

    new = jax.tree.map(moved, params, gradient)
    return new, None if momentum is None else gradient, outputs, value, finite


_apply = jax.jit(lambda network, params, x: network.apply(params, x), static_argnums=0)


@partial(jax.jit, static_argnums=0)
def loss_value(objective, outputs, targets):
    """``objective.value`` as one compiled program."""
    return objective.value(outputs, targets)


def _outputs(network, params, x, first, laziness):
    outputs = _apply(network, params, x)
    return outputs if first is None else _rescaled(outputs, first, laziness)


_rescaled = jax.jit(rescaled)


@jax.jit
def _distance(params, start, laziness):
    return norm(jax.tree.map(jnp.subtract, params, start)) / laziness


def _explain(approximation, network, lin, residual, damping, step) -> SingularKernelError:
    reasons = approximation.breakdown(lin, residual, damping)
    if reasons is None:
        here = jax.tree.map(on_host, lin)
        broken = [c for c in check_conditions(approximation, network, here, damping) if not c.holds]
        reasons = "; ".join(c.why for c in broken) or "no condition of the theory is violated"
        reasons += ". Raise the damping, use float64, or damping 0 (pseudo-inverse)"
    return SingularKernelError(
        f"{approximation.name}: the natural gradient is not finite at step {step} with damping "
        f"{float(damping.value):g} in {lin.outputs.dtype}: {reasons}"
    )
