"""Training losses: value, residual and Fisher root, one object a loss (docs/theory.md section 2).

Every loss is an average over the N samples. ``residual`` is N times the gradient of the loss with
respect to the outputs, so the parameter gradient is ``J^T residual / N``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.errors import choose


@dataclass(frozen=True)
class Loss:
    """A training loss and the output-space geometry of its Fisher information.

    Attributes
    ----------
    name : str
    value : ``(outputs (N, C), targets (N, C)) -> ()``
    residual : ``(outputs (N, C), targets (N, C)) -> (N, C)``
        N times the derivative of ``value`` by the outputs.
    fisher_root : ``outputs (N, C) -> (N, C, K)`` or None
        R with ``R R^T = Lambda``, the per-sample Fisher of the outputs; None means ``Lambda = I``.
    sample_score : ``(key, outputs (N, C)) -> (N, C)``
        The residual at targets drawn from the model's own predictive distribution.
    """

    name: str
    value: Callable
    residual: Callable
    fisher_root: Callable
    sample_score: Callable


def _mse_value(outputs: Float[Array, "N C"], targets: Float[Array, "N C"]) -> Float[Array, ""]:
    return 0.5 * jnp.sum((outputs - targets) ** 2) / outputs.shape[0]


def _mse_residual(outputs: Float[Array, "N C"], targets: Float[Array, "N C"]):
    return outputs - targets


def _mse_score(key, outputs: Float[Array, "N C"]) -> Float[Array, "N C"]:
    return jax.random.normal(key, outputs.shape, outputs.dtype)


def _cross_entropy_value(
    outputs: Float[Array, "N C"], targets: Float[Array, "N C"]
) -> Float[Array, ""]:
    return -jnp.sum(targets * jax.nn.log_softmax(outputs, axis=-1)) / outputs.shape[0]


def _cross_entropy_residual(outputs: Float[Array, "N C"], targets: Float[Array, "N C"]):
    return jax.nn.softmax(outputs, axis=-1) * targets.sum(-1, keepdims=True) - targets


def _cross_entropy_root(outputs: Float[Array, "N C"]) -> Float[Array, "N C C"]:
    # (diag(sqrt p) - p sqrt(p)^T)(...)^T = diag p - p p^T because sum p = 1.
    p = jax.nn.softmax(outputs, axis=-1)
    s = jnp.sqrt(p)
    return s[:, :, None] * jnp.eye(p.shape[-1], dtype=p.dtype) - p[:, :, None] * s[:, None, :]


def _cross_entropy_score(key, outputs: Float[Array, "N C"]) -> Float[Array, "N C"]:
    labels = jax.random.categorical(key, outputs, axis=-1)
    drawn = jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
    return jax.nn.softmax(outputs, axis=-1) - drawn


MSE = Loss("mse", _mse_value, _mse_residual, lambda outputs: None, _mse_score)
CROSS_ENTROPY = Loss(
    "cross-entropy",
    _cross_entropy_value,
    _cross_entropy_residual,
    _cross_entropy_root,
    _cross_entropy_score,
)
LOSSES = {loss.name: loss for loss in (MSE, CROSS_ENTROPY)}


def by_name(name: str | Loss) -> Loss:
    """Return the loss called ``name`` ("mse" or "cross-entropy"); a `Loss` passes through."""
    return name if isinstance(name, Loss) else choose(LOSSES, name, "loss")
