"""No preconditioner: plain gradient descent, for comparison."""

from dataclasses import dataclass

from ngd_theory.fisher.base import Look, approximation
from ngd_theory.fisher.whitened import WhitenedApproximation


@approximation
@dataclass(frozen=True)
class Identity(WhitenedApproximation):
    """``G + rho I`` replaced by I: the gradient ``J^T v / N``, K = Theta. The damping has no effect."""

    name = "identity"
    look = Look("#7f7f7f", "x", "gradient descent")
    predicted_losses = ("mse", "cross-entropy")
    requirements = ("isotropic-at-some-width",)

    def factor(self, lin, damping):
        """The layers as they are: a natural gradient is one vjp, K is ``J(at) J^T / N``."""
        return lin.layers
