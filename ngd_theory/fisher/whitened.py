"""Approximations whose damped inverse keeps the factored form of the Jacobian."""

import abc

import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.fisher.base import Approximation
from ngd_theory.fisher.damping import Damping
from ngd_theory.fisher.solve import as_rows, precondition_rows
from ngd_theory.kernels import layer_kernel
from ngd_theory.networks import LayerLinearization, Linearization
from ngd_theory.precision import full_precision


@full_precision
def sums_over_outputs(
    sensitivities: Float[Array, "N C T M"], weights: Float[Array, "N C"] | None
) -> Float[Array, "N K T M"]:
    """``sum_c weights[n,c] delta[n,c]``, with K = 1; the sensitivities themselves if ``weights`` is None."""
    if weights is None:
        return sensitivities
    return jnp.einsum("nc,nctm->ntm", weights, sensitivities)[:, None]


def whiten(
    x: Float[Array, "N *_ p"],
    damping: Damping,
    scale: float,
    curvature_rows: Float[Array, "k p"] | None = None,
    weights: Float[Array, "N C"] | None = None,
) -> Float[Array, "N *_ p"]:
    """Rows times ``(scale Y^T Y + rho)^-1`` for Y = ``curvature_rows`` (the rows of x when None).

    With ``weights``, x are sensitivities, and the rows of their `sums_over_outputs` are whitened.
    """

    def combine(rows):
        delta = rows.reshape(*x.shape[:-1], rows.shape[-1])
        return as_rows(sums_over_outputs(delta, weights))

    summed = None if weights is None else combine
    shape = x.shape if weights is None else (len(x), 1, *x.shape[2:])
    return precondition_rows(as_rows(x), damping, scale, curvature_rows, summed).reshape(shape)


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


class SummedApproximation(WhitenedApproximation):
    """A whitened approximation whose step for one cotangent whitens sums over outputs: C times fewer rows."""

    @abc.abstractmethod
    def whitened(
        self, lin: Linearization, damping: Damping, weights: Float[Array, "N C"] | None
    ) -> tuple[LayerLinearization, ...]:
        """The layers with a' and delta' in place of a and delta.

        With ``weights``, delta' are whitened `sums_over_outputs`: one row instead of C for each sample and position.
        """

    def factor(self, lin, damping):
        """Every row whitened."""
        return self.whitened(lin, damping, None)

    def precondition_once(self, lin, cotangent, damping):
        """A vjp with the whitened sums, unless a subclass has its own `factor`, `factored` or `precondition`."""
        methods = ("factor", "factored", "precondition")
        if any(getattr(type(self), m) is not getattr(SummedApproximation, m) for m in methods):
            return super().precondition_once(lin, cotangent, damping)
        one = jnp.ones((lin.num_samples, 1), cotangent.dtype)
        layers = self.whitened(lin, damping, cotangent / lin.num_samples)
        return lin.like_params([layer.vjp(one) for layer in layers])
