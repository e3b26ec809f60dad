"""Closed-form Gaussian moments of an activation and of its derivative.

For ``(u, u') ~ N(0, [[k, c], [c, k']])`` an infinitely wide layer needs two numbers per pair of samples,

    second(k, c, k') = E[phi(u) phi(u')],      derivative(k, c, k') = E[phi'(u) phi'(u')].

They are NNGP and derivative kernels before the scale ``sigma_w^2`` (docs/theory.md section 5).
"""

import abc
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float


class Moments(abc.ABC):
    """The two moments of one activation; static and hashable."""

    @abc.abstractmethod
    def pair(
        self, k: Float[Array, " N"], c: Float[Array, "N M"], k2: Float[Array, " M"]
    ) -> tuple[Float[Array, "N M"], Float[Array, "N M"]]:
        """``second`` and ``derivative`` for every pair of samples.

        Parameters
        ----------
        k : (N,)
            Variances of the rows' pre-activations.
        c : (N, M)
            Covariances; correlations beyond 1 by rounding are clipped.
        k2 : (M,)
            Variances of the columns'.
        """

    @abc.abstractmethod
    def variance(self, k: Float[Array, " N"]) -> Float[Array, " N"]:
        """``E[phi(u)^2]``: `pair` at correlation 1."""


def correlation(k, c, k2) -> tuple[Array, Array]:
    """``rho = c / sqrt(k k')`` in [-1, 1], and ``sqrt(k k')``; rho is 0 where a variance is.

    A correlation within rounding of 1 is set to 1: the derivative kernels of activations with a kink
    go as ``sqrt(1 - rho)`` there, so that one unit in the last place of rho would show as 1e-8.
    """
    scale = jnp.sqrt(k[:, None] * k2[None, :])
    rho = jnp.where(scale > 0, c / jnp.where(scale > 0, scale, 1), 0)
    rho = jnp.where(rho >= 1 - 8 * jnp.finfo(rho.dtype).eps, 1, rho)
    return jnp.maximum(rho, -1), scale


@dataclass(frozen=True)
class ReluMoments(Moments):
    """Arc-cosine kernels of degree 1 and 0 (Cho & Saul 2009, eq. 3 and 6, halved).

    With ``cos(theta) = rho``: ``sqrt(k k') (sin(theta) + (pi - theta) cos(theta)) / (2 pi)`` and
    ``(pi - theta) / (2 pi)``. ``phi'(0) = 0``, so that a sample without variance has no derivative.
    """

    def pair(self, k, c, k2):
        """Both kernels from one angle."""
        rho, scale = correlation(k, c, k2)
        inside = jnp.abs(rho) < 1
        # The square root is kept off zero, where its gradient is infinite.
        sine = jnp.where(inside, jnp.sqrt(jnp.where(inside, (1 - rho) * (1 + rho), 1)), 0)
        angle = jnp.arctan2(sine, rho)
        second = scale * (sine + (jnp.pi - angle) * rho) / (2 * jnp.pi)
        return second, jnp.where(scale > 0, (jnp.pi - angle) / (2 * jnp.pi), 0)

    def variance(self, k):
        """``k / 2``."""
        return k / 2


@dataclass(frozen=True)
class ErfMoments(Moments):
    """Arc-sine kernel of ``erf`` (Williams 1997, eq. 11) and its derivative by c.

    ``(2/pi) arcsin(2c / sqrt((1+2k)(1+2k')))`` and ``(4/pi) / sqrt((1+2k)(1+2k') - 4c^2)``.
    """

    def pair(self, k, c, k2):
        """Both kernels."""
        rho, scale = correlation(k, c, k2)
        product = (1 + 2 * k)[:, None] * (1 + 2 * k2)[None, :]
        second = (2 / jnp.pi) * jnp.arcsin(2 * rho * scale / jnp.sqrt(product))
        # (1+2k)(1+2k') - 4c^2 without the cancellation of the two large terms.
        rest = 1 + 2 * (k[:, None] + k2[None, :]) + 4 * scale**2 * (1 - rho) * (1 + rho)
        return second, (4 / jnp.pi) / jnp.sqrt(rest)

    def variance(self, k):
        """``(2/pi) arcsin(2k / (1 + 2k))``."""
        return (2 / jnp.pi) * jnp.arcsin(2 * k / (1 + 2 * k))


@dataclass(frozen=True)
class IdentityMoments(Moments):
    """Of a linear layer: c and 1, exactly."""

    def pair(self, k, c, k2):
        """The covariance and ones."""
        return c, jnp.ones_like(c)

    def variance(self, k):
        """``k``."""
        return k
