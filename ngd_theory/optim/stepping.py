"""What a training run needs from an optimiser: where to start, a compiled step, and where to measure."""

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ngd_theory.losses import Loss
from ngd_theory.networks import Network
from ngd_theory.optim.algorithm import KFACState

#: ``(params, state, rows) -> (params, state, loss of the batch before the step)``.
Advance = Callable[[Any, Any, Any], tuple[Any, Any, Any]]


class Stepper(abc.ABC):
    """An optimiser that makes whole steps."""

    @abc.abstractmethod
    def begin(self, params, x, y) -> tuple[Any, Any]:
        """A copy of ``params`` that steps may overwrite, and the state."""

    @abc.abstractmethod
    def compile(self, params, state, x, y, size: int) -> Advance:
        """A compiled step on the rows ``rows (size,)`` of x and y. It may overwrite params and state."""

    def measured_at(self, params, state) -> Any:
        """The parameters at which errors are recorded."""
        return params

    def dampings(self, state) -> tuple[float, float]:
        """The dampings lambda and gamma; NaN if there are none."""
        return float("nan"), float("nan")


class OptaxStepper(Stepper):
    """An optax transformation that is given ``x=``, ``y=`` and the gradient of the batch loss.

    Parameters
    ----------
    network : Network
    loss : Loss
    optimizer : optax.GradientTransformationExtraArgs
    """

    def __init__(
        self, network: Network, loss: Loss, optimizer: optax.GradientTransformationExtraArgs
    ):
        self._network, self._loss, self._optimizer = network, loss, optimizer

    def begin(self, params, x, y):
        """Copies, because steps overwrite their arguments."""
        return jax.tree.map(jnp.copy, (params, self._optimizer.init(params)))

    def compile(self, params, state, x, y, size):
        """Compile ahead of time."""
        rows = jnp.zeros(size, jnp.int32)
        step = jax.jit(self._step, donate_argnums=(0, 1)).lower(params, state, x, y, rows).compile()
        return lambda params, state, rows: step(params, state, x, y, rows)

    def _step(self, params, state, x, y, rows):
        batch, targets = x[rows], y[rows]
        value, gradient = jax.value_and_grad(
            lambda p: self._loss.value(self._network.apply(p, batch), targets)
        )(params)
        updates, state = self._optimizer.update(gradient, state, params, x=batch, y=targets)
        return optax.apply_updates(params, updates), state, value

    def measured_at(self, params, state):
        """The averaged iterate if the state keeps one, else ``params``."""
        found = [part.average for part in _parts(state, "average") if part.average != ()]
        return found[0] if found else params

    def dampings(self, state):
        """Those of K-FAC; NaN for other optimisers."""
        found = [part for part in _parts(state, "damping") if isinstance(part, KFACState)]
        if not found:
            return super().dampings(state)
        return float(found[0].damping), float(found[0].factor_damping)


def _parts(state, name: str) -> list[Any]:
    """The parts of a nested optax state that have the attribute ``name``."""

    def named(part):
        return hasattr(part, name)

    return [part for part in jax.tree.leaves(state, is_leaf=named) if named(part)]
