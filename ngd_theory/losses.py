"""Training losses: value, residual and Fisher root, one object per loss (docs/theory.md section 2).

Every loss is an average over the N samples. ``residual`` is N times the gradient of the loss with
respect to the outputs, so the parameter gradient is ``J^T residual / N``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ngd_theory.arguments import is_known, is_real
from ngd_theory.errors import InputError, choose, shown

#: How far the sum of a row may be from 1: probabilities may come from float32 or from a table.
_SUM_TOLERANCE = 1e-4


def _real(targets: np.ndarray) -> np.ndarray:
    return np.full(len(targets), True)


def _distributions(targets: np.ndarray) -> np.ndarray:
    total = np.sum(targets, axis=-1, dtype=np.float64)
    floating = jnp.issubdtype(targets.dtype, jnp.floating)
    rounding = 4 * float(jnp.finfo(targets.dtype).eps) if floating else 0.0
    return np.all(targets >= 0, axis=-1) & (np.abs(total - 1) <= max(_SUM_TOLERANCE, rounding))


def _fractions(targets: np.ndarray) -> np.ndarray:
    return np.all((targets >= 0) & (targets <= 1), axis=-1)


@dataclass(frozen=True)
class Domain:
    """Which targets a loss allows.

    Attributes
    ----------
    words : str
        What each row must be, and how to get such rows.
    holds : ``(targets (N, C) of the host) -> (N,)``
        Which rows are in it.
    """

    words: str
    holds: Callable[[np.ndarray], np.ndarray]


REAL = Domain("real numbers", _real)
DISTRIBUTIONS = Domain(
    'a distribution over the classes, numbers from 0 on that add up to 1: data.load(..., targets="one-hot"), or '
    "jax.nn.one_hot of the labels",
    _distributions,
)
FRACTIONS = Domain("numbers from 0 to 1", _fractions)


def _check_targets(domain: Domain, outputs, targets) -> None:
    """Check shapes, and the values of targets that can be read.

    Inside jit, vmap or grad only their shape is checked. Rows with a NaN or infinity are not checked here; callers do
    that.

    Raises
    ------
    InputError
        If targets are not real numbers, have another shape than the outputs, or have rows outside ``domain``.
    """
    for name, value in (("targets", targets), ("outputs", outputs)):
        if not is_real(value):
            raise InputError(
                f"{name} are {shown(value)}; they must be an array (N, C) of real numbers"
            )
    if outputs.ndim != 2 or targets.shape != outputs.shape:
        raise InputError(
            f"targets have shape {targets.shape}; the outputs have {outputs.shape}: both must be (N, C)"
        )
    if domain is REAL or not is_known(targets) or not getattr(targets, "is_fully_addressable", 1):
        return
    rows = np.asarray(targets)
    wrong = ~domain.holds(rows) & np.isfinite(rows).all(axis=-1)
    if wrong.any():
        n = int(np.argmax(wrong))
        raise InputError(
            f"row {n} of the targets is {np.array2string(rows[n], precision=3, threshold=6)}; it must be {domain.words}"
        )


def _on(domain: Domain):
    """Decorator of functions of outputs and targets: check both first."""

    def decorate(function):
        @wraps(function)
        def wrapped(outputs, targets):
            _check_targets(domain, outputs, targets)
            return function(outputs, targets)

        return wrapped

    return decorate


def _outputs(outputs: Float[Array, "N C"]) -> Float[Array, "N C"]:
    return outputs


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
    domain : Domain
        The allowed targets. The losses of this package refuse others in ``value`` and ``residual`` if they can be
        read. `ngd_theory.dynamics` and `ngd_theory.optim` refuse them for any loss.
    """

    made_by: ClassVar[str] = 'ngd.losses.by_name("mse")'
    name: str
    value: Callable
    residual: Callable
    fisher_factor: Callable
    sample_score: Callable
    unit_fisher: bool = False
    mean: Callable = _outputs
    domain: Domain = REAL

    def check(self, outputs, targets) -> None:
        """Raise `InputError` if targets have another shape than the outputs, or are known to be outside `domain`."""
        _check_targets(self.domain, outputs, targets)

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


@_on(REAL)
def _mse_value(outputs: Float[Array, "N C"], targets: Float[Array, "N C"]) -> Float[Array, ""]:
    return 0.5 * jnp.sum((outputs - targets) ** 2) / outputs.shape[0]


@_on(REAL)
def _mse_residual(outputs: Float[Array, "N C"], targets: Float[Array, "N C"]):
    return outputs - targets


def _mse_factor(outputs: Float[Array, "N C"], tangent: Float[Array, "N C"]):
    return tangent


def _mse_score(key, outputs: Float[Array, "N C"]) -> Float[Array, "N C"]:
    return jax.random.normal(key, outputs.shape, outputs.dtype)


@_on(DISTRIBUTIONS)
def _cross_entropy_value(
    outputs: Float[Array, "N C"], targets: Float[Array, "N C"]
) -> Float[Array, ""]:
    shifted, others = _apart(outputs)
    return -jnp.sum(targets * (shifted - jnp.log1p(others))) / outputs.shape[0]


@_on(DISTRIBUTIONS)
def _cross_entropy_residual(outputs: Float[Array, "N C"], targets: Float[Array, "N C"]):
    return _minus(outputs, targets)


def _cross_entropy_factor(outputs: Float[Array, "N C"], tangent: Float[Array, "N C"]):
    # R = diag(sqrt p) - p sqrt(p)^T: R R^T = diag p - p p^T because sum p = 1.
    shifted, others = _apart(outputs)
    first = _first(outputs, tangent)
    mean = jnp.sum(jnp.exp(shifted) * (tangent - first), axis=-1, keepdims=True) / (1 + others)
    # The root of p is in range where p is not.
    return jnp.exp((shifted - jnp.log1p(others)) / 2) * (tangent - first - mean)


def _cross_entropy_score(key, outputs: Float[Array, "N C"]) -> Float[Array, "N C"]:
    labels = jax.random.categorical(key, outputs, axis=-1)
    drawn = jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
    return _minus(outputs, drawn)


def _first(outputs, values):
    """Entry of the most probable class, (N, 1)."""
    return jnp.sum(jnp.where(_largest(outputs), values, 0), axis=-1, keepdims=True)


def _largest(outputs):
    return jax.nn.one_hot(jnp.argmax(outputs, axis=-1), outputs.shape[-1], dtype=bool)


def _apart(outputs: Float[Array, "N C"]) -> tuple[Float[Array, "N C"], Float[Array, "N 1"]]:
    """Outputs minus that of the most probable class, and the odds against this class.

    Its probability is ``1 / (1 + odds)``. The odds keep the digits that ``1 - p`` loses if p is nearly 1.
    """
    # Zero instead of a difference: in reverse mode 1 - 1 would cost the other terms their digits.
    shifted = jnp.where(_largest(outputs), 0, outputs - _first(outputs, outputs))
    others = jnp.where(_largest(outputs), 0, jnp.exp(shifted))
    return shifted, jnp.sum(others, axis=-1, keepdims=True)


def _minus(outputs: Float[Array, "N C"], targets: Float[Array, "N C"]) -> Float[Array, "N C"]:
    """``softmax(outputs) sum(targets) - targets``."""
    shifted, others = _apart(outputs)
    largest = _largest(outputs)
    rest = jnp.sum(jnp.where(largest, 0, targets), axis=-1, keepdims=True)
    total = (rest + _first(outputs, targets)) / (1 + others)
    return jnp.where(largest, rest - total * others, total * jnp.exp(shifted) - targets)


@_on(FRACTIONS)
def _sigmoid_value(outputs: Float[Array, "N C"], targets: Float[Array, "N C"]) -> Float[Array, ""]:
    # softplus(u) - t u, whose terms cancel where t is 1 and u is large.
    value = targets * jax.nn.softplus(-outputs) + (1 - targets) * jax.nn.softplus(outputs)
    return jnp.sum(value) / outputs.shape[0]


@_on(FRACTIONS)
def _sigmoid_residual(outputs: Float[Array, "N C"], targets: Float[Array, "N C"]):
    return _sigmoid_minus(outputs, targets)


def _sigmoid_minus(outputs: Float[Array, "N C"], targets: Float[Array, "N C"]):
    """``sigmoid(outputs) - targets`` without cancelling."""
    return (1 - targets) * jax.nn.sigmoid(outputs) - targets * jax.nn.sigmoid(-outputs)


def _sigmoid_factor(outputs: Float[Array, "N C"], tangent: Float[Array, "N C"]):
    # sqrt(p (1 - p)), which is in range where p (1 - p) is not.
    return jnp.exp((jax.nn.log_sigmoid(outputs) + jax.nn.log_sigmoid(-outputs)) / 2) * tangent


def _sigmoid_score(key, outputs: Float[Array, "N C"]) -> Float[Array, "N C"]:
    drawn = jax.random.bernoulli(key, jax.nn.sigmoid(outputs)).astype(outputs.dtype)
    return _sigmoid_minus(outputs, drawn)


def _softmax(outputs: Float[Array, "N C"]) -> Float[Array, "N C"]:
    return jax.nn.softmax(outputs, axis=-1)


def _sigmoid(outputs: Float[Array, "N C"]) -> Float[Array, "N C"]:
    return jax.nn.sigmoid(outputs)


# All functions are at module level, so that a loss can be pickled and its copy is equal.
MSE = Loss("mse", _mse_value, _mse_residual, _mse_factor, _mse_score, unit_fisher=True)
CROSS_ENTROPY = Loss(
    "cross-entropy",
    _cross_entropy_value,
    _cross_entropy_residual,
    _cross_entropy_factor,
    _cross_entropy_score,
    mean=_softmax,
    domain=DISTRIBUTIONS,
)
#: Independent Bernoulli outputs, targets in [0, 1]: the loss of an autoencoder with logits as outputs.
SIGMOID_CROSS_ENTROPY = Loss(
    "sigmoid-cross-entropy",
    _sigmoid_value,
    _sigmoid_residual,
    _sigmoid_factor,
    _sigmoid_score,
    mean=_sigmoid,
    domain=FRACTIONS,
)
LOSSES = {loss.name: loss for loss in (MSE, CROSS_ENTROPY, SIGMOID_CROSS_ENTROPY)}


def by_name(name: str | Loss) -> Loss:
    """Return the loss called ``name`` ("mse", "cross-entropy" or "sigmoid-cross-entropy"); a `Loss` passes through.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from ngd_theory import losses
    >>> float(losses.by_name("mse").value(jnp.ones((2, 1)), jnp.zeros((2, 1))))
    0.5
    """
    return name if isinstance(name, Loss) else choose(LOSSES, name, "loss")
