"""Approximations whose damped inverse keeps the factored form of the Jacobian."""

import abc

from ngd_theory.fisher.base import Approximation
from ngd_theory.fisher.damping import Damping
from ngd_theory.kernels import layer_kernel
from ngd_theory.networks import LayerLinearization, Linearization


class WhitenedApproximation(Approximation):
    """``(G_l + rho)^-1 J_l^T`` has rows like those of J_l, with ``a'`` and ``delta'`` in place of a and delta.

    This holds for every damped Kronecker product ``(A + rho_A) (x) (B + rho_B)``, with ``a' = a (A + rho_A)^-1`` and
    ``delta' = delta (B + rho_B)^-1``. A natural gradient is a vjp with these whitened rows. A map is the kernel between
    the Jacobian's rows and the whitened rows.
    """

    by_layers = True

    @abc.abstractmethod
    def factor(self, lin: Linearization, damping: Damping) -> tuple[LayerLinearization, ...]:
        """The layers with a' and delta' in place of a and delta."""

    def precondition(self, lin, cotangent, factors):
        """A vjp with the whitened rows."""
        layers = self.factored(lin, factors)
        return lin.like_params([layer.vjp(cotangent / lin.num_samples) for layer in layers])

    def layer_terms(self, lin, factors, at):
        """``J_l(at) J'_l^T / N``: for dense layers ``(a(at) a'^T) o (delta(at) delta'^T) / N``."""
        layers = self.factored(lin, factors)
        return [
            layer_kernel(there, layer) / lin.num_samples
            for there, layer in zip(at.layers, layers, strict=True)
        ]
