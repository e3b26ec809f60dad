"""The kind of Fisher (true, sampled or empirical), given by a root of the output-space Fisher.

Every kind is ``F = (1/N) sum_n J_n^T Lambda_n J_n`` with ``Lambda_n = R_n R_n^T``; a kind gives R as an
(N, C, K) array, or None where ``Lambda = I`` (the true Fisher under MSE).
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ngd_theory import losses
from ngd_theory.arguments import check_finite, checked_fields
from ngd_theory.errors import InputError
from ngd_theory.precision import full_precision
from ngd_theory.pytrees import pytree


@pytree()
@checked_fields
@dataclass(frozen=True)
class TrueFisher:
    """Exact expectation over the model's own predictive distribution: the GGN of the loss."""

    made_by: ClassVar[str] = "ngd.fisher.TrueFisher()"
    loss: str | losses.Loss = "mse"

    def __post_init__(self):
        losses.by_name(self.loss)

    def root(self, outputs: Float[Array, "N C"]) -> Array | None:
        """(N, C, C) root, or None for MSE."""
        return losses.by_name(self.loss).fisher_root(outputs)


@pytree("key")
@checked_fields
@dataclass(frozen=True)
class SampledFisher:
    """Monte Carlo over targets drawn from the predictive distribution: unbiased for the true Fisher.

    The random numbers depend on the key only: under MSE the scores are the same at any outputs, and under cross-entropy
    the same random numbers choose the classes. So two calls that differ in parameters, damping or width do not differ
    in their draws, and the function-space map stays one map while `ngd_theory.dynamics` trains or predicts, as the
    theory assumes. To draw anew at every step, as an optimiser does, give each step its own key:
    ``SampledFisher(jax.random.fold_in(key, step))`` does not recompile.

    Attributes
    ----------
    key : jax.random key
    loss : str
    num_samples : int
        K, the draws per data point; the variance falls as 1/K.
    """

    made_by: ClassVar[str] = "ngd.fisher.SampledFisher(jax.random.key(0))"
    key: Array
    loss: str | losses.Loss = "mse"
    num_samples: int = 1

    def __post_init__(self):
        losses.by_name(self.loss)
        if self.num_samples < 1:
            raise InputError(f"num_samples is {self.num_samples}; it must be at least 1")

    def root(self, outputs: Float[Array, "N C"]) -> Float[Array, "N C K"]:
        """(N, C, K): the scores of the K draws, over sqrt(K)."""
        score = losses.by_name(self.loss).sample_score
        keys = jax.random.split(self.key, self.num_samples)
        scores = jax.vmap(score, in_axes=(0, None), out_axes=-1)(keys, outputs)
        return scores / self.num_samples**0.5


@pytree("targets")
@checked_fields
@dataclass(frozen=True)
class EmpiricalFisher:
    """Second moment of the loss gradients at the given targets. It is often called the Fisher, but it is not.

    Attributes
    ----------
    targets : (N, C) array
        Targets of the loss. Invalid ones, NaN and infinities are refused if they can be read.
    loss : str
    """

    made_by: ClassVar[str] = "ngd.fisher.EmpiricalFisher(targets)"
    targets: Array
    loss: str | losses.Loss = "mse"

    def __post_init__(self):
        losses.by_name(self.loss).check(self.targets, self.targets)
        check_finite("targets", self.targets)

    def root(self, outputs: Float[Array, "N C"]) -> Float[Array, "N C 1"]:
        """(N, C, 1): the residuals."""
        if jnp.shape(self.targets) != outputs.shape:
            raise InputError(
                f"EmpiricalFisher has targets of shape {jnp.shape(self.targets)} for outputs of "
                f"shape {outputs.shape}"
            )
        return losses.by_name(self.loss).residual(outputs, self.targets)[:, :, None]

    def take(self, samples: Int[Array, " B"]) -> "EmpiricalFisher":
        """The empirical Fisher of some of the samples, given their indices."""
        return replace(self, targets=self.targets[samples])


Kind = TrueFisher | SampledFisher | EmpiricalFisher


@full_precision
def curvature_sensitivities(
    sensitivities: Float[Array, "N C T M"], root: Float[Array, "N C K"] | None
) -> Float[Array, "N K T M"]:
    """``R^T delta``: the rows whose outer products make the Fisher of this kind."""
    return sensitivities if root is None else jnp.einsum("nck,nctm->nktm", root, sensitivities)
