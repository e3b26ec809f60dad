"""No preconditioner: plain gradient descent, for comparison."""

from dataclasses import dataclass

from ngd_theory.fisher.base import Approximation, Look, approximation
from ngd_theory.kernels import ntk


@approximation
@dataclass(frozen=True)
class Identity(Approximation):
    """``G + rho I`` replaced by I: the gradient ``J^T v / N``, K = Theta. The damping has no effect."""

    name = "identity"
    look = Look("#7f7f7f", "x", "gradient descent")
    predicted_losses = ("mse", "cross-entropy")
    by_layers = True
    requirements = ("isotropic-at-some-width",)

    def precondition(self, lin, cotangent, damping):
        """One vjp."""
        return lin.vjp(cotangent / lin.num_samples)

    def preconditioned_map(self, lin, damping, at):
        """``J(at) J^T / N``."""
        return ntk(at, lin) / lin.num_samples
