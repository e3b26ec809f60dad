"""Which Fisher: true, sampled or empirical, as a root of the output-space Fisher.

Every kind is ``F = (1/N) sum_n J_n^T Lambda_n J_n`` with ``Lambda_n = R_n R_n^T``; a kind gives R as an
(N, C, K) array, or None where ``Lambda = I`` (the true Fisher under MSE).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory import losses
from ngd_theory.errors import InputError
from ngd_theory.precision import full_precision
from ngd_theory.pytrees import pytree


@pytree()
@dataclass(frozen=True)
class TrueFisher:
    """Expectation over the model's own predictive distribution, exact: the GGN of the loss."""

    loss: str = "mse"

    def root(self, outputs: Float[Array, "N C"]) -> Array | None:
        """(N, C, C) root, or None for MSE."""
        return losses.by_name(self.loss).fisher_root(outputs)


@pytree("key")
@dataclass(frozen=True)
class SampledFisher:
    """Monte Carlo over targets drawn from the predictive distribution: unbiased for the true Fisher.

    Attributes
    ----------
    key : jax.random key
    loss : str
    num_samples : int
        K draws a data point; the variance falls as 1/K.
    """

    key: Array
    loss: str = "mse"
    num_samples: int = 1

    def root(self, outputs: Float[Array, "N C"]) -> Float[Array, "N C K"]:
        """(N, C, K): the scores of the K draws, over sqrt(K)."""
        if self.num_samples < 1:
            raise InputError(f"num_samples is {self.num_samples}; it must be at least 1")
        score = losses.by_name(self.loss).sample_score
        keys = jax.random.split(self.key, self.num_samples)
        scores = jax.vmap(score, in_axes=(0, None), out_axes=-1)(keys, outputs)
        return scores / self.num_samples**0.5


@pytree("targets")
@dataclass(frozen=True)
class EmpiricalFisher:
    """Second moment of the loss gradients at the targets given: not the Fisher, though often so called.

    Attributes
    ----------
    targets : (N, C) array
    loss : str
    """

    targets: Array
    loss: str = "mse"

    def root(self, outputs: Float[Array, "N C"]) -> Float[Array, "N C 1"]:
        """(N, C, 1): the residuals."""
        if jnp.shape(self.targets) != outputs.shape:
            raise InputError(
                f"EmpiricalFisher has targets of shape {jnp.shape(self.targets)} for outputs of "
                f"shape {outputs.shape}"
            )
        return losses.by_name(self.loss).residual(outputs, self.targets)[:, :, None]


Kind = TrueFisher | SampledFisher | EmpiricalFisher


@full_precision
def curvature_sensitivities(
    sensitivities: Float[Array, "N C T M"], root: Float[Array, "N C K"] | None
) -> Float[Array, "N K T M"]:
    """``R^T delta``: the rows whose outer products make the Fisher of this kind."""
    return sensitivities if root is None else jnp.einsum("nck,nctm->nktm", root, sensitivities)
