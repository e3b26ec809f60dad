"""Closed-form Gaussian moments of an activation and of its derivative.

For ``(u, u') ~ N(0, [[k, c], [c, k']])`` an infinitely wide layer needs two numbers per pair of samples,

    second(k, c, k') = E[phi(u) phi(u')],      derivative(k, c, k') = E[phi'(u) phi'(u')].

They are NNGP and derivative kernels before the scale ``sigma_w^2`` (docs/theory.md section 5).

Both have derivative rules of their own, since the formulas cannot be differentiated where a correlation is 1 or -1
or a variance is 0. The rules rest on Price's theorem: the derivative of a moment by c is the moment of the derivatives.
"""

import abc
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Size(NamedTuple):
    """Variance and standard deviation of a Gaussian variable, for every sample.

    Attributes
    ----------
    variance, deviation : (N,)
        Both are kept: the variance is smooth where it is 0, and the deviation may be in range if its square is not.
    """

    variance: Array
    deviation: Array


class Pair(NamedTuple):
    """Covariance and correlation of two Gaussian variables, for every pair of samples.

    Attributes
    ----------
    covariance, correlation : (N, M)
        The covariance is smooth where a variance is 0. The correlation is in range even if a product of variances is
        not; it is 0 where a variance is 0, and may exceed 1 by rounding.
    """

    covariance: Array
    correlation: Array


class Moments(abc.ABC):
    """The two moments of one activation; static and hashable."""

    @abc.abstractmethod
    def pair(
        self, a: Size, pair: Pair, b: Size
    ) -> tuple[Float[Array, "N M"], Float[Array, "N M"] | None, Float[Array, "N M"]]:
        """``second`` and ``derivative`` for every pair of samples.

        Parameters
        ----------
        a : Size of (N,)
            Of the rows' pre-activations.
        pair : Pair of (N, M)
        b : Size of (M,)
            Of the columns'.

        Returns
        -------
        (N, M), (N, M) or None, (N, M)
            ``second``; ``second / sqrt(E[phi(u)^2] E[phi(u')^2])`` if that is known without dividing; ``derivative``.
        """

    @abc.abstractmethod
    def own(self, a: Size) -> tuple[Size, Float[Array, " N"]]:
        """Every sample with itself: the size of ``phi(u)``, and ``E[phi'(u)^2]``."""


def outer(rows: Float[Array, " N"], columns: Float[Array, " M"]) -> Float[Array, "N M"]:
    """The product of every row with every column: exactly symmetric for equal ones."""
    return rows[:, None] * columns[None, :]


def both(a: Size, b: Size) -> Array:
    """Where both samples of a pair have variance."""
    return (a.deviation > 0)[:, None] & (b.deviation > 0)[None, :]


def clipped(rho):
    """Clip a correlation to [-1, 1].

    A value within rounding of 1 or -1 is set to it. There the derivative kernels of activations with a kink go as
    ``sqrt(1 - rho)``, so one unit in the last place of rho would show as 1e-8.
    """
    return jnp.where(jnp.abs(rho) >= 1 - 8 * jnp.finfo(rho.dtype).eps, jnp.sign(rho), rho)


def root(x):
    """``sqrt(x)``, with derivative 0 at 0 instead of infinity."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


@dataclass(frozen=True)
class ReluMoments(Moments):
    """Arc-cosine kernels of degree 1 and 0 (Cho & Saul 2009, eq. 3 and 6, halved).

    With ``cos(theta) = rho``: ``sqrt(k k') (sin(theta) + (pi - theta) cos(theta)) / (2 pi)`` and
    ``(pi - theta) / (2 pi)``. Since ``phi'(0) = 0``, the derivative kernel of a sample without variance is 0.

    The first is differentiable twice in two vectors with that angle, unless one is 0. The second has a kink where they
    are parallel or antiparallel: there its derivative is the mean of both sides, 0, and its second derivative is NaN.
    """

    def pair(self, a, pair, b):
        """Both kernels from the correlation."""
        c, rho = pair
        there, one = both(a, b), _degree_one(rho)
        # Where a variance is 0, c is 0 too. For its derivative see `ngd_theory.kernels.infinite.corner`.
        second = jnp.where(there, outer(a.deviation, b.deviation) * one / 2, c)
        return second, jnp.where(there, one, 0), jnp.where(there, _degree_zero(rho) / 2, c)

    def own(self, a):
        """``k / 2``, and 1/2 where there is variance."""
        half = jnp.where(a.deviation > 0, jnp.full_like(a.deviation, 0.5), 0)
        return Size(a.variance / 2, a.deviation / 2**0.5), half


@jax.custom_jvp
def _degree_one(rho):
    """``(sin(theta) + (pi - theta) cos(theta)) / pi``."""
    rho = clipped(rho)
    sine = jnp.sqrt((1 - rho) * (1 + rho))
    return (sine + jnp.arctan2(sine, -rho) * rho) / jnp.pi


@jax.custom_jvp
def _degree_zero(rho):
    """``(pi - theta) / pi``."""
    rho = clipped(rho)
    return jnp.arctan2(jnp.sqrt((1 - rho) * (1 + rho)), -rho) / jnp.pi


@jax.custom_jvp
def _slope_of_angle(rho):
    """``1 / (pi sin(theta))``; 0 at the kinks, where ``rho`` has an extremum and the two sides cancel."""
    rho = clipped(rho)
    inside = jnp.abs(rho) < 1
    return jnp.where(
        inside, 1 / (jnp.pi * jnp.sqrt(jnp.where(inside, (1 - rho) * (1 + rho), 1))), 0
    )


def _bend_of_angle(rho):
    """Derivative of `_slope_of_angle`, NaN at the kinks."""
    rho = clipped(rho)
    inside = jnp.abs(rho) < 1
    square = jnp.where(inside, (1 - rho) * (1 + rho), jnp.nan)
    return rho / square / (jnp.pi * jnp.sqrt(square))


_degree_one.defjvps(lambda t, _, rho: t * _degree_zero(rho))
_degree_zero.defjvps(lambda t, _, rho: t * _slope_of_angle(rho))
_slope_of_angle.defjvps(lambda t, _, rho: t * _bend_of_angle(rho))


@dataclass(frozen=True)
class ErfMoments(Moments):
    """Arc-sine kernel of ``erf`` (Williams 1997, eq. 11) and its derivative by c.

    ``(2/pi) arcsin(2c / sqrt((1+2k)(1+2k')))`` and ``(4/pi) / sqrt((1+2k)(1+2k') - 4c^2)``.
    """

    def pair(self, a, pair, b):
        """Both kernels from the sine and cosine of one angle, as products of variances may be out of range."""
        widths = outer(1 / _width(a), 1 / _width(b))
        derivative = (4 / jnp.pi) * widths / jnp.sqrt(_cosine_squared(a, pair, b))
        return (2 / jnp.pi) * _arcsine(a, pair, b), None, derivative

    def own(self, a):
        """``(2/pi) arcsin(2k / (1 + 2k))`` and ``(4/pi) / sqrt(1 + 4k)``."""
        width = _width(Size(2 * a.variance, 2**0.5 * a.deviation))
        tangent = jnp.where(_large(a), a.deviation, 2 * jnp.where(_large(a), 0, a.variance) / width)
        second = (2 / jnp.pi) * jnp.arctan(tangent)
        return Size(second, root(second)), (4 / jnp.pi) / width


def _large(a: Size):
    """Where ``1 + k`` rounds to k, and k may be out of range."""
    return a.deviation > 1 / jnp.finfo(a.deviation.dtype).eps


def _width(a: Size):
    """``sqrt(1 + 2k)``."""
    large = _large(a)
    return jnp.where(large, 2**0.5 * a.deviation, jnp.sqrt(1 + 2 * jnp.where(large, 0, a.variance)))


def _sine(a: Size, pair: Pair, b: Size):
    """``2c / sqrt((1+2k)(1+2k'))``, from the correlation where c may be out of range."""
    large = (_large(a)[:, None] | _large(b)[None, :]) & both(a, b)
    by_covariance = 2 * jnp.where(large, 0, pair.covariance) * outer(1 / _width(a), 1 / _width(b))
    shares = outer(*[2**0.5 * s.deviation / _width(s) for s in (a, b)])
    return jnp.where(large, pair.correlation * shares, by_covariance)


@jax.custom_jvp
def _cosine_squared(a: Size, pair: Pair, b: Size):
    """``1 - sine^2`` without the cancellation of two large terms."""
    rho = clipped(pair.correlation)
    p, q = (1 / (1 + 2 * a.variance))[:, None], (1 / (1 + 2 * b.variance))[None, :]
    return p + q - p * q + (1 - p) * (1 - q) * (1 - rho) * (1 + rho)


@_cosine_squared.defjvp
def _cosine_squared_jvp(primals, tangents):
    sine, change = jax.jvp(_sine, primals, tangents)
    return _cosine_squared(*primals), -2 * sine * change


@jax.custom_jvp
def _arcsine(a: Size, pair: Pair, b: Size):
    return jnp.arctan2(_sine(a, pair, b), jnp.sqrt(_cosine_squared(a, pair, b)))


@_arcsine.defjvp
def _arcsine_jvp(primals, tangents):
    _, change = jax.jvp(_sine, primals, tangents)
    return _arcsine(*primals), change / jnp.sqrt(_cosine_squared(*primals))


@dataclass(frozen=True)
class IdentityMoments(Moments):
    """Of a linear layer: c and 1, exactly."""

    def pair(self, a, pair, b):
        """The pair as it is, and ones."""
        return pair.covariance, pair.correlation, jnp.ones_like(pair.covariance)

    def own(self, a):
        """The size as it is, and ones."""
        return a, jnp.ones_like(a.deviation)
