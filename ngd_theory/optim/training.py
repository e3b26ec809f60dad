"""Train a network on mini-batches and record how the error falls, over steps and over seconds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from ngd_theory.errors import InputError
from ngd_theory.losses import Loss
from ngd_theory.networks import Network
from ngd_theory.optim.stepping import OptaxStepper, Stepper


@dataclass(frozen=True)
class Record:
    """One point of a training curve.

    Attributes
    ----------
    step : int
    seconds : float
        Time in steps only, without compilation and evaluations.
    error : float
        Error on the whole training set.
    objective : float
        Loss of the last batch, before its step and without the l2 term; NaN at step 0.
    damping, factor_damping : float
        lambda and gamma of K-FAC, NaN for others.
    """

    step: int
    seconds: float
    error: float
    objective: float
    damping: float = float("nan")
    factor_damping: float = float("nan")


def train(
    network: Network,
    params,
    x: Float[Array, "N *S"],
    y: Float[Array, "N C"],
    optimizer: optax.GradientTransformationExtraArgs | Stepper,
    loss: Loss,
    *,
    batch_sizes: Sequence[int],
    error: Callable,
    seed: int = 0,
    record_every: int = 20,
    on_record: Callable[[Record], None] | None = None,
) -> tuple[Any, Any, list[Record]]:
    """Train on mini-batches drawn without replacement from shuffled passes over the data.

    Parameters
    ----------
    network : Network
    params : like the network's parameters
        Left as they are.
    x, y : (N, *input_shape), (N, C)
    optimizer : optax transformation or Stepper
        An optax transformation is given ``x=``, ``y=`` and the gradient of the batch loss. It adds l2 terms itself.
    loss : Loss
    batch_sizes : sequence of int
        One per step; each distinct size is compiled once, before the clock starts.
    error : ``(outputs (N, C), targets (N, C)) -> ()``
        Recorded at step 0, every ``record_every`` steps and the last step; at the averaged iterate if there is one.
    seed : int
        Seed of the order of the rows.
    record_every : int
    on_record : callable, optional

    Returns
    -------
    params, optimizer state, list of Record
        Training stops early when the error is not finite.

    Raises
    ------
    InputError
        If a batch size is not from 1 to N, or there is none.
    """
    if not batch_sizes or not all(1 <= size <= len(x) for size in batch_sizes):
        raise InputError(
            f"batch sizes must be from 1 to the {len(x)} rows of the data; they are {sorted(set(batch_sizes))}"
        )
    x, y = jnp.asarray(x), jnp.asarray(y)
    stepper = (
        optimizer if isinstance(optimizer, Stepper) else OptaxStepper(network, loss, optimizer)
    )
    params, state = stepper.begin(params, x, y)
    advance = {
        size: stepper.compile(params, state, x, y, size) for size in dict.fromkeys(batch_sizes)
    }
    evaluate = jax.jit(lambda params, x, y: error(network.apply(params, x), y))
    rows = _Rows(len(x), seed)
    records: list[Record] = []

    def record(step: int, seconds: float, value: float) -> None:
        at = float(evaluate(stepper.measured_at(params, state), x, y))
        found = Record(step, seconds, at, value, *stepper.dampings(state))
        records.append(found)
        if on_record is not None:
            on_record(found)

    record(0, 0.0, float("nan"))
    seconds, value = 0.0, jnp.nan
    start = time.perf_counter()
    for number, size in enumerate(batch_sizes, start=1):
        params, state, value = advance[size](params, state, rows.take(size))
        if number % record_every and number < len(batch_sizes):
            continue
        jax.block_until_ready((params, state))
        seconds += time.perf_counter() - start
        record(number, seconds, float(value))
        if not np.isfinite(records[-1].error):
            break
        start = time.perf_counter()
    return params, state, records


class _Rows:
    """Row numbers in shuffled passes; each row occurs once per pass."""

    def __init__(self, count: int, seed: int):
        self._random, self._count = np.random.default_rng(seed), count
        self._left = np.empty(0, np.int32)

    def take(self, size: int) -> Array:
        if len(self._left) < size:
            fresh = self._random.permutation(self._count).astype(np.int32)
            self._left = np.concatenate([self._left, fresh])
        taken, self._left = self._left[:size], self._left[size:]
        return jnp.asarray(taken)
