"""Training losses: value, residual and Fisher root, one object a loss (docs/theory.md section 2).

Every loss is an average over the N samples. ``residual`` is N times the gradient of the loss with
respect to the outputs, so the parameter gradient is ``J^T residual / N``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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
    fisher_factor : ``(outputs (N, C), tangent (N, C)) -> (N, C)``
        ``R^T tangent`` with ``R R^T = Lambda``, the per-sample Fisher of the outputs; never a (C, C) matrix.
    sample_score : ``(key, outputs (N, C)) -> (N, C)``
        The residual at targets drawn from the model's own predictive distribution.
    unit_fisher : bool
        Whether ``Lambda = I``.
    mean : ``outputs (N, C) -> (N, C)``
        Expected target under the predictive distribution.
    """

    name: str
    value: Callable
    residual: Callable
    fisher_factor: Callable
    sample_score: Callable
    unit_fisher: bool = False
    mean: Callable = lambda outputs: outputs

    def squared_error(self, outputs: Float[Array, "N C"], targets: Float[Array, "N C"]):
        """``(1/N) sum |mean(outputs) - targets|^2``, no 1/2: the reconstruction error of an autoencoder."""
        return jnp.sum((self.mean(outputs) - targets) ** 2) / outputs.shape[0]

    def fisher_root(self, outputs: Float[Array, "N C"]) -> Float[Array, "N C C"] | None:
        """R with ``R R^T = Lambda``, as (N, C, C); None where ``Lambda = I``."""
        if self.unit_fisher:
            return None
        basis = jnp.eye(outputs.shape[1], dtype=outputs.dtype)
        rows = jax.vmap(lambda e: self.fisher_factor(outputs, jnp.broadcast_to(e, outputs.shape)))
        return jnp.moveaxis(rows(basis), 0, 1)


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


def _cross_entropy_factor(outputs: Float[Array, "N C"], tangent: Float[Array, "N C"]):
    # R = diag(sqrt p) - p sqrt(p)^T: R R^T = diag p - p p^T because sum p = 1.
    p = jax.nn.softmax(outputs, axis=-1)
    return jnp.sqrt(p) * (tangent - jnp.sum(p * tangent, axis=-1, keepdims=True))


def _cross_entropy_score(key, outputs: Float[Array, "N C"]) -> Float[Array, "N C"]:
    labels = jax.random.categorical(key, outputs, axis=-1)
    drawn = jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
    return jax.nn.softmax(outputs, axis=-1) - drawn


def _sigmoid_value(outputs: Float[Array, "N C"], targets: Float[Array, "N C"]) -> Float[Array, ""]:
    return jnp.sum(jax.nn.softplus(outputs) - targets * outputs) / outputs.shape[0]


def _sigmoid_residual(outputs: Float[Array, "N C"], targets: Float[Array, "N C"]):
    return jax.nn.sigmoid(outputs) - targets


def _sigmoid_factor(outputs: Float[Array, "N C"], tangent: Float[Array, "N C"]):
    # p (1 - p) as a product that does not cancel for a saturated output.
    return jnp.sqrt(jax.nn.sigmoid(outputs) * jax.nn.sigmoid(-outputs)) * tangent


def _sigmoid_score(key, outputs: Float[Array, "N C"]) -> Float[Array, "N C"]:
    p = jax.nn.sigmoid(outputs)
    return p - jax.random.bernoulli(key, p).astype(p.dtype)


MSE = Loss(
    "mse", _mse_value, _mse_residual, lambda outputs, tangent: tangent, _mse_score, unit_fisher=True
)
CROSS_ENTROPY = Loss(
    "cross-entropy",
    _cross_entropy_value,
    _cross_entropy_residual,
    _cross_entropy_factor,
    _cross_entropy_score,
    mean=partial(jax.nn.softmax, axis=-1),
)
#: Independent Bernoulli outputs, targets in [0, 1]: the loss of an autoencoder with logits as outputs.
SIGMOID_CROSS_ENTROPY = Loss(
    "sigmoid-cross-entropy",
    _sigmoid_value,
    _sigmoid_residual,
    _sigmoid_factor,
    _sigmoid_score,
    mean=jax.nn.sigmoid,
)
LOSSES = {loss.name: loss for loss in (MSE, CROSS_ENTROPY, SIGMOID_CROSS_ENTROPY)}


def by_name(name: str | Loss) -> Loss:
    """Return the loss called ``name`` ("mse", "cross-entropy" or "sigmoid-cross-entropy"); a `Loss` passes through."""
    return name if isinstance(name, Loss) else choose(LOSSES, name, "loss")
