"""The steps of K-FAC (Martens & Grosse 2015, algorithm 2): traced functions of a state, see `ngd_theory.optim.kfac`."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ngd_theory import losses
from ngd_theory.arguments import check_finite, check_range, is_real
from ngd_theory.errors import InputError, require_type, shown
from ngd_theory.networks import EmbeddingLayout, Network
from ngd_theory.networks.linearization import backpropagate_unchecked
from ngd_theory.optim.options import OF_THE_STEPS, Options, value_at, varies
from ngd_theory.optim.preconditioners import PRECONDITIONERS, Preconditioner
from ngd_theory.optim.quadratic_model import (
    Minimum,
    dot,
    minimise,
    quadratic_model,
    step_at,
)

#: Fields of the state that a step measures.
_MEASURED = (
    *("damping", "factor_damping", "step_size", "momentum", "model_change", "reduction_ratio"),
    *("reach", "size", "applied"),
)
#: This many first steps all refresh the inverses, because the statistics are averages of few batches then.
YOUNG = 3
#: A scale closer to 1 than `LEAST_SEEN` counts as 1. One above `MOST_APPLIED` is not a scaling of the update.
LEAST_SEEN, MOST_APPLIED = 0.01, 10
#: Lower bound of gamma: from 0 no factor could raise it again.
SMALLEST_FACTOR_DAMPING = 1e-8


class KFACState(NamedTuple):
    """Everything that K-FAC keeps between steps: a pytree of arrays.

    Attributes
    ----------
    count, skipped : int32
        Steps taken, and how many of them changed nothing because a number was not finite.
    stale : int32
        Refreshes that kept the last inverse because the factors could not be factorised.
    key : (2,) uint32
        Random bits for the sampled targets.
    factors : pytree
        Running averages of the preconditioner's statistics.
    inverse : pytree
        Inverse of the factors at the last refresh.
    previous : like the parameters
        The last update.
    reach, size : scalar arrays
        Inner products of the parameters with the last update, and with themselves, when the update was made.
    applied : scalar array
        Factor with which the last update was applied: 1, or the scale of a later transformation.
    average : like the parameters, or ()
        Running average of the iterates.
    damping, factor_damping : scalar arrays
        lambda and gamma.
    step_size, momentum, model_change : scalar arrays
        alpha, mu and ``M(d) - M(0)`` of the last step.
    reduction_ratio : scalar array
        Ratio of the objective's change to the model's, when last measured; infinite before that.
    """

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride]  (as in optax's states)
    skipped: Array
    stale: Array
    key: Array
    factors: Any
    inverse: Any
    previous: Any
    reach: Array
    size: Array
    applied: Array
    average: Any
    damping: Array
    factor_damping: Array
    step_size: Array
    momentum: Array
    model_change: Array
    reduction_ratio: Array
    # No annotation: it is no field.
    made_by = "optimizer.init(params), of ngd.optim.kfac"


@dataclass(frozen=True)
class Algorithm:
    """The algorithm. Its methods are traced, and it has no state."""

    network: Network
    loss: losses.Loss
    options: Options

    @property
    def preconditioner(self) -> Preconditioner:
        """The preconditioner that the option ``structure`` names."""
        return PRECONDITIONERS[self.options.structure]

    def __post_init__(self):
        options = self.options
        if any(isinstance(layout, EmbeddingLayout) for layout in self.network.layouts):
            raise InputError(
                "the optimiser has no factors for embeddings: train them by another one, or by the natural "
                "gradients of ngd.fisher.KFAC(), which has them"
            )
        if self.preconditioner.dense_only and any(count > 1 for count in self.network.positions):
            raise InputError(
                f'structure="{options.structure}" is defined for dense layers; with convolutions use "block-diagonal"'
            )

    def init(self, params, *, seed: int) -> KFACState:
        """State before the first step."""
        o = self.options
        one = np.zeros((1, *self.network.input_shape), np.float32)
        self.network.check(params, one)
        check_finite("params", params)
        params = _single(params)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        row = jax.ShapeDtypeStruct((1, *self.network.input_shape), dtype)
        key = jax.random.key_data(jax.random.key(seed))
        layers = jax.eval_shape(self._layers, params, row, key)
        factors = _zeros(jax.eval_shape(self.preconditioner.statistics, layers))
        for name in OF_THE_STEPS:
            value = getattr(o, name)
            if value is not None and not varies(value):
                check_range(name, value, dtype, positive=True)
        zero, count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        damping = jnp.asarray(value_at(o.damping, count), dtype)
        gamma = jnp.asarray(self._tied_or_given(damping, count), dtype)
        inverse = _zeros(
            jax.eval_shape(lambda f, g: self.preconditioner.inverses(f)(g), factors, gamma)
        )
        return KFACState(
            count=count,
            skipped=count,
            stale=count,
            key=key,
            factors=factors,
            inverse=inverse,
            previous=jax.tree.map(jnp.zeros_like, params),
            reach=zero,
            size=zero,
            applied=jnp.ones((), dtype),
            average=params if o.averaging else (),
            damping=damping,
            factor_damping=gamma,
            step_size=zero,
            momentum=zero,
            model_change=zero,
            reduction_ratio=jnp.full((), jnp.inf, dtype),
        )

    def update(self, grads, state: KFACState, params, x, y):
        """One step; if a number of the batch is not finite, the update is zero and statistics and dampings stay."""
        o, before = self.options, state
        # Rounding of the parameters as they are stored.
        eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(params))
        params, grads = _single(params), _single(grads)
        # The number of this step without skipped ones, which must not change the later steps.
        k = state.count - state.skipped + 1
        x, y = (jnp.asarray(rows, state.damping.dtype) for rows in (x, y))
        next_key, draw = jax.random.split(jax.random.wrap_key_data(state.key))
        factors, correct, usable = self._observe(
            state.factors, params, _first(x, o.statistics_fraction), jax.random.key_data(draw), k
        )
        grads = jax.tree.map(lambda g, p: g + o.l2 * p, grads, params)
        # The batch is checked entry by entry, because a sum of large numbers can be infinite.
        usable &= _finite(grads) & jnp.isfinite(x).all() & jnp.isfinite(y).all()
        if varies(o.damping):
            given = jnp.asarray(value_at(o.damping, state.count), state.damping.dtype)
            state = state._replace(damping=jnp.maximum(given, o.min_damping))
        applied = _applied(state, params, eps)
        previous = state.previous
        if o.momentum is None:
            previous = jax.tree.map(lambda leaf: applied * leaf, previous)
        count = state.count
        state = state._replace(
            count=count + 1, key=jax.random.key_data(next_key), factors=factors, applied=applied
        )
        curved = _first(x, o.curvature_fraction)
        shift = state.damping + o.l2
        model = quadratic_model(self.network, self.loss, params, curved, grads, shift)
        pushed_previous = model.push(previous)

        def propose(inverse):
            proposal = self._precondition(inverse, grads)
            return proposal, self._choose(model, proposal, previous, pushed_previous, count)

        gamma, inverse, failed = self._refresh(
            state, jnp.where(usable, k, 0), count, correct, propose
        )
        proposal, best = propose(inverse)
        update = jax.tree.map(
            lambda d, p: best.step_size * d + best.momentum * p, proposal, previous
        )
        # Not one conditional around everything: its branches would not share the forward pass with the gradient.
        usable &= _finite(update)
        update = _where(usable, update, jax.tree.map(jnp.zeros_like, update))
        # A later transformation is assumed to scale this step like the last one.
        slope = dot(grads, update)
        state = state._replace(
            skipped=state.skipped + (~usable).astype(jnp.int32),
            stale=state.stale + (usable & failed).astype(jnp.int32),
            factors=_where(usable, state.factors, before.factors),
            inverse=_where(usable, inverse, before.inverse),
            factor_damping=gamma,
            step_size=best.step_size,
            momentum=best.momentum,
            model_change=applied * (slope + applied * (best.value - slope)),
        )
        state, update = self._judge(state, k, params, update, x, y)
        state = state._replace(reach=dot(params, update), size=dot(params, params))
        kept = {n: jnp.where(usable, getattr(state, n), getattr(before, n)) for n in _MEASURED}
        state = state._replace(previous=_where(usable, update, state.previous), **kept)
        if o.averaging:
            new = jax.tree.map(lambda p, d: p + applied * d, params, update)
            average = _blend(state.average, new, o.averaging, k, usable)
            state = state._replace(average=average)
        return update, state

    def check(self, grads, state, params, x, y) -> None:
        """Check shapes and types, and the values of targets that can be read."""
        require_type("state", state, KFACState, KFACState.made_by)
        for name, value in (("x", x), ("y", y)):
            if not is_real(value):
                raise InputError(f"{name} is {shown(value)}; it must be an array of real numbers")
            check_range(name, value, state.damping.dtype)
        self.network.check(params, jax.ShapeDtypeStruct(x.shape, state.damping.dtype))
        outputs = jax.ShapeDtypeStruct((x.shape[0], self.network.output_dim), state.damping.dtype)
        self.loss.check(outputs, y)
        self.network.check_tree("grads", grads)
        self.network.check_tree("moments in state.previous", state.previous)

    def _observe(self, factors, params, x, key, k):
        """Statistics, updated by the rows x if due at step k; a function that corrects an inverse; if all is finite."""
        o, preconditioner = self.options, self.preconditioner
        due = (k <= YOUNG) | (k % o.statistics_period == 0)

        def blended():
            layers = self._layers(params, x, key)
            fresh = preconditioner.statistics(layers)
            usable = _finite(fresh)
            # The number of this update of the statistics.
            young = jnp.minimum(k, YOUNG)
            number = young + k // o.statistics_period - young // o.statistics_period
            seen = layers if preconditioner.corrects else ()
            return _blend(factors, fresh, o.decay, number, usable), seen, usable

        def kept():
            return factors, _zeros(jax.eval_shape(blended)[1]), jnp.array(True)

        # Outside a conditional it shares the forward pass with the rest of the step.
        found = blended() if o.statistics_period == 1 else jax.lax.cond(due, blended, kept)

        def correct(inverse):
            if not preconditioner.corrects:
                return inverse
            return jax.lax.cond(
                due, lambda: preconditioner.correct(inverse, found[1], o.decay), lambda: inverse
            )

        return found[0], correct, found[2]

    def _layers(self, params, x, key):
        """Inputs and sensitivities of the rows x with targets drawn from the model's own predictive distribution."""
        keys = jax.random.split(jax.random.wrap_key_data(key), self.options.num_draws)

        def scores(outputs):
            drawn = jax.vmap(self.loss.sample_score, in_axes=(0, None), out_axes=1)(keys, outputs)
            return drawn / self.options.num_draws**0.5

        # Values are not checked here: a batch that is not finite is skipped, inside jit and outside.
        return backpropagate_unchecked(self.network, params, x, scores)[1]

    def _tied_or_given(self, damping, count):
        """Gamma if it is not searched for."""
        o = self.options
        if o.factor_damping is None:
            return _bounded(jnp.sqrt(damping + o.l2))
        return value_at(o.factor_damping, count)

    def _precondition(self, inverse, grads):
        layouts, parts = self.network.layouts, self.network.parts
        grads = grads if parts is None else parts.split(grads)
        matrices = [y.to_matrix(g) for y, g in zip(layouts, grads, strict=True)]
        solved = inverse.apply(matrices)
        steps = tuple(y.from_matrix(-v) for y, v in zip(layouts, solved, strict=True))
        return steps if parts is None else parts.join(steps)

    def _choose(self, model, proposal, previous, pushed_previous, count) -> Minimum:
        o = self.options
        if o.momentum is None:
            return minimise(model, proposal, previous, pushed_previous)
        alpha, mu, largest = (
            value_at(v, count) for v in (o.step_size, o.momentum, o.largest_change)
        )
        if alpha is not None and largest is not None:
            length = jnp.abs(dot(model.gradient, proposal))
            alpha = jnp.minimum(alpha, jnp.sqrt(largest / length))
        return step_at(model, proposal, previous, pushed_previous, alpha, mu)

    def _refresh(self, state: KFACState, k, count, correct, propose):
        """Gamma and the inverse that step k uses, and whether a refresh was due but failed.

        They are the last ones (always for k = 0), fresh ones, or the best of three. If a factorisation breaks down, the
        last inverse is kept.
        """
        o = self.options

        def keep():
            return state.factor_damping, correct(state.inverse), jnp.array(False)

        def refresh():
            gamma = state.factor_damping
            if not o.adapt_factor_damping:
                gamma = jnp.asarray(self._tied_or_given(state.damping, count), gamma.dtype)
            inverse = correct(self.preconditioner.inverses(state.factors)(gamma))
            made = _finite(inverse)
            return gamma, _where(made, inverse, state.inverse), ~made

        def search():
            inverses = self.preconditioner.inverses(state.factors)

            def better(best, gamma):
                inverse = correct(inverses(gamma))
                value = propose(inverse)[1].value
                found = value, gamma, inverse
                return _where(value < best[0], found, best), None

            factor = o.factor_damping_factor
            candidates = _bounded(state.factor_damping * jnp.asarray([1.0, factor, 1 / factor]))
            start = jnp.full_like(state.damping, jnp.inf), state.factor_damping, state.inverse
            (value, gamma, inverse), _ = jax.lax.scan(
                better, start, candidates.astype(state.damping.dtype)
            )
            return gamma, inverse, jnp.isinf(value)

        due = (k > 0) & ((k <= YOUNG) | (k % o.inverse_period == 0))
        # Branches that no option asks for are not compiled.
        if not o.adapt_factor_damping:
            return jax.lax.cond(due, refresh, keep)
        searching = (k > 0) & (k % o.factor_damping_period == 0)
        return jax.lax.switch(jnp.where(searching, 2, due.astype(int)), [keep, refresh, search])

    def _judge(self, state: KFACState, k, params, update, x, y):
        """Compare the objective before and after; adapt lambda, and with ``reject_worse`` undo a worse step."""
        o = self.options
        if not (o.adapt_damping or o.reject_worse):
            return state, update
        due = (k % o.damping_period == 0) & o.adapt_damping

        def compare():
            moved = jax.tree.map(lambda p, d: p + state.applied * d, params, update)
            value = self._objective(params, x, y)
            return self._objective(moved, x, y) - value, jnp.finfo(value.dtype).eps * jnp.abs(value)

        nothing = jnp.zeros_like(state.damping)
        change, rounding = jax.lax.cond(due | o.reject_worse, compare, lambda: (nothing, nothing))
        # The ratio means nothing if the model's change is within rounding, or positive (a fixed step).
        due &= ~(state.model_change >= -rounding)
        ratio = change / jnp.where(due, state.model_change, 1)
        grown = state.damping / o.damping_factor
        lowered = jnp.maximum(state.damping * o.damping_factor, o.min_damping)
        adapted = jnp.where(ratio > 0.75, lowered, state.damping)
        # A NaN counts as no reduction.
        adapted = jnp.where(ratio >= 0.25, adapted, grown)
        state = state._replace(
            damping=jnp.where(due, adapted, state.damping),
            reduction_ratio=jnp.where(due, ratio, state.reduction_ratio),
        )
        if not o.reject_worse:
            return state, update
        worse = ~(change <= rounding)
        state = state._replace(damping=jnp.where(worse, grown, state.damping))
        return state, _where(worse, jax.tree.map(jnp.zeros_like, update), update)

    def _objective(self, params, x, y):
        value = self.loss.value(self.network.apply(params, x), y)
        return value + self.options.l2 / 2 * dot(params, params) if self.options.l2 else value


def _single(tree):
    """Convert numbers of 2 bytes to float32: no solver takes shorter ones."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if jnp.finfo(leaf.dtype).bits < 32 else leaf, tree
    )


def _applied(state: KFACState, params, eps: float):
    """Factor a with which the last update d was applied to the parameters p: ``p' = u p + a d``.

    u is 1, or the factor of weight decay. From ``p'.d`` and ``|p'|^2``,

        u^2 = (|p'|^2 - (p'.d)^2/|d|^2) / (|p|^2 - (p.d)^2/|d|^2),    a = (p'.d - u p.d)/|d|^2.

    The result is the last a if rounding (``eps``) hides the new one, and 1 if something else moved the parameters.
    """
    square, reached, size = (
        dot(state.previous, state.previous),
        dot(params, state.previous),
        dot(params, params),
    )
    length = jnp.where(square > 0, square, 1)
    across, before = size - reached**2 / length, state.size - state.reach**2 / length
    left = jnp.sqrt(jnp.maximum(across, 0) / jnp.where(before > 0, before, 1))
    left = jnp.where(before > 10 * eps * state.size, left, 1)
    found = (reached - left * state.reach) / length
    rounding = 10 * eps * jnp.sqrt(size) / jnp.sqrt(length)
    found = jnp.where(jnp.abs(found - 1) <= jnp.maximum(LEAST_SEEN, rounding), 1, found)
    found = jnp.where(jnp.abs(found) <= rounding, jnp.maximum(found, 0), found)
    ours = (found >= 0) & (found < MOST_APPLIED) & (jnp.abs(left - 1) < 0.5)
    resolved = (square > 0) & (rounding < 0.05)
    return jnp.where(resolved, jnp.where(ours, found, 1), state.applied)


def _first(x, fraction: float):
    """The first rows of a batch, at least one."""
    return x[: max(1, round(fraction * len(x)))]


def _blend(old, new, keep: float, count, usable):
    """``eps old + (1 - eps) new`` with ``eps = min(1 - 1/k, keep)``; ``old`` if ``new`` is not usable."""

    def blend(a, b):
        eps = jnp.minimum(1 - 1 / count.astype(a.dtype), keep)
        return jnp.where(usable, eps * a + (1 - eps) * b, a)

    return jax.tree.map(blend, old, new)


def _bounded(gamma):
    return jnp.maximum(gamma, SMALLEST_FACTOR_DAMPING)


def _finite(tree):
    """Whether every sum over a leaf is finite: one pass, no copy."""
    return jnp.isfinite(sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree)))


def _where(condition, tree, otherwise):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), tree, otherwise)


def _zeros(shapes):
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
