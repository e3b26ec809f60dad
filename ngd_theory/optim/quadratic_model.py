"""The local quadratic model of the objective with the exact Fisher (Martens & Grosse 2015 sections 6.4 and 7).

``M(d) = (1/2) d^T (F + lambda + l2) d + d^T grad``, where F is the Fisher of a mini-batch. Products with F use the
outputs: ``u^T F v = (1/N) (R^T J u) . (R^T J v)`` takes two Jacobian-vector products and no transpose.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ngd_theory.losses import Loss
from ngd_theory.networks import Network


class QuadraticModel(NamedTuple):
    """M along chosen directions.

    Attributes
    ----------
    push : ``tangent -> (N, C)``
        ``R^T J tangent / sqrt(N)``: its inner products are those of F.
    gradient : like the parameters
        Gradient of the objective, including the l2 term.
    shift : scalar array
        lambda + l2.
    """

    push: Callable
    gradient: tuple
    shift: Float[Array, ""]


class Minimum(NamedTuple):
    """Where M is least over a plane: ``d = step_size * proposal + momentum * previous``."""

    step_size: Float[Array, ""]
    momentum: Float[Array, ""]
    value: Float[Array, ""]


def quadratic_model(network: Network, loss: Loss, params, x, gradient, shift) -> QuadraticModel:
    """The model at ``params`` with the Fisher of the inputs ``x`` (N, *input_shape)."""
    outputs, jvp = jax.linearize(lambda p: network.apply(p, x), params)
    scale = len(x) ** -0.5
    return QuadraticModel(lambda t: scale * loss.fisher_factor(outputs, jvp(t)), gradient, shift)


def minimise(model: QuadraticModel, proposal, previous, pushed_previous) -> Minimum:
    """Solve the 2 x 2 system for the step along ``proposal`` and along ``previous``.

    Parameters
    ----------
    model : QuadraticModel
    proposal, previous : like the parameters
    pushed_previous : (N, C)
        ``model.push(previous)``.
    """
    first, second, right = _system(model, proposal, previous, pushed_previous)
    # Directions are scaled to length 1, because products of their squared lengths can be out of range.
    lengths = [jnp.sqrt(jnp.where(square > 0, square, 1)) for square in (first[0], second[1])]
    cosine = first[1] / lengths[0] / lengths[1]
    slopes = [slope / length for slope, length in zip(right, lengths, strict=True)]
    determinant = (1 - cosine) * (1 + cosine)
    # If the directions are parallel up to rounding, or there is no previous step, use the proposal alone.
    alone = (second[1] <= 0) | (determinant <= 10 * jnp.finfo(determinant.dtype).eps)
    safe = jnp.where(alone, 1, determinant)
    alpha = jnp.where(alone, -slopes[0], (cosine * slopes[1] - slopes[0]) / safe) / lengths[0]
    mu = jnp.where(alone, 0, (cosine * slopes[0] - slopes[1]) / safe) / lengths[1]
    return Minimum(alpha, mu, (alpha * right[0] + mu * right[1]) / 2)


def step_at(model: QuadraticModel, proposal, previous, pushed_previous, alpha, mu) -> Minimum:
    """The model at a given step, as a `Minimum`; ``alpha = None`` is the alpha that minimises it at mu = 0."""
    first, second, right = _system(model, proposal, previous, pushed_previous)
    if alpha is None:
        alpha = -right[0] / jnp.where(first[0] > 0, first[0], 1)
    alpha, mu = jnp.asarray(alpha, right[0].dtype), jnp.asarray(mu, right[0].dtype)
    # Steps are multiplied in one by one, because their squares can be out of range.
    along, along_previous = (alpha * s + mu * t for s, t in zip(first, second, strict=True))
    curved = alpha * along + mu * along_previous
    return Minimum(alpha, mu, curved / 2 + alpha * right[0] + mu * right[1])


def _system(model, proposal, previous, pushed_previous):
    pushed = model.push(proposal)
    cross = jnp.vdot(pushed, pushed_previous) + model.shift * dot(proposal, previous)
    first = jnp.vdot(pushed, pushed) + model.shift * dot(proposal, proposal), cross
    second = (
        cross,
        jnp.vdot(pushed_previous, pushed_previous) + model.shift * dot(previous, previous),
    )
    return first, second, (dot(model.gradient, proposal), dot(model.gradient, previous))


def dot(left, right) -> Float[Array, ""]:
    """Inner product of two trees."""
    return jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, left, right))
