"""K-FAC among optax's transformations: schedules, injected numbers, scaled updates, short floats."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from kfac_steps import SHALLOW, batch, flatten, gradient, initial_params, objective, same

from ngd_theory import losses, networks, optim
from ngd_theory.errors import InputError

FIXED = {"adapt_damping": False, "adapt_factor_damping": False, "l2": 0.01}
LOSS = "sigmoid-cross-entropy"


def steps(optimizer, count=8, params=None, number=None):
    """Parameters and states of a few steps, each on its own batch or all on one."""
    params = initial_params(LOSS) if params is None else params
    state = optimizer.init(params)
    update = jax.jit(lambda g, s, p, x, y: optimizer.update(g, s, p, x=x, y=y))
    found = []
    for k in range(count):
        x, y = batch(LOSS, k if number is None else number)
        updates, after = update(gradient(LOSS)(params, x, y), state, params, x, y)
        found.append((params, state, updates, after))
        params, state = optax.apply_updates(params, updates), after
    return found


SCHEDULES = {
    "damping": lambda count: 1.0 / (1 + count),
    "factor_damping": lambda count: 0.5 + 0.1 * count,
    "step_size": lambda count: 0.1 * 0.8**count,
    "momentum": lambda count: jnp.minimum(0.1 * count, 0.5),
    "largest_change": lambda count: 1e-3 * (1 + count),
}
#: With all periods 1, so that a step is made of its own numbers.
EVERY = {**FIXED, "inverse_period": 1, "damping": 0.5}


def options_of(name, value):
    rescaled = name in ("damping", "factor_damping")
    fixed = {} if rescaled else {"step_size": 0.1, "momentum": 0.3}
    return {**EVERY, **fixed, name: value}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_its_number_at_every_step(name):
    schedule = SCHEDULES[name]
    for k, (params, state, updates, after) in enumerate(
        steps(optim.kfac(SHALLOW, LOSS, **options_of(name, schedule)), count=4)
    ):
        alone = optim.kfac(SHALLOW, LOSS, **options_of(name, float(schedule(k))))
        if name == "damping":
            state = state._replace(damping=jnp.asarray(schedule(k)))
        x, y = batch(LOSS, k)
        expected, there = alone.update(gradient(LOSS)(params, x, y), state, params, x=x, y=y)
        np.testing.assert_allclose(flatten(updates), flatten(expected), rtol=1e-9, atol=1e-13)
        if name in ("damping", "factor_damping"):
            assert float(getattr(after, name)) == pytest.approx(float(schedule(k)), rel=1e-12)
        else:
            assert same(after.damping, there.damping)


@pytest.mark.parametrize("name", SCHEDULES)
def test_injected_numbers_take_effect_when_they_are_changed(name):
    first, second = (float(SCHEDULES[name](k)) for k in (1, 4))
    make = optax.inject_hyperparams(optim.kfac, static_args=optim.STATIC_ARGS)
    left_out = {} if name == "damping" else {"damping": lambda count: 0.5}
    injected = make(SHALLOW, LOSS, **{**options_of(name, first), **left_out})
    params = initial_params(LOSS)
    x, y = batch(LOSS, 0)
    grads = gradient(LOSS)(params, x, y)
    update = jax.jit(lambda g, s, p: injected.update(g, s, p, x=x, y=y))
    state = injected.init(params)
    for value in (first, second):
        hyperparams = {**state.hyperparams, name: jnp.asarray(value)}
        updates, _ = update(grads, state._replace(hyperparams=hyperparams), params)
        alone = optim.kfac(SHALLOW, LOSS, **options_of(name, value))
        expected, _ = alone.update(grads, alone.init(params), params, x=x, y=y)
        np.testing.assert_allclose(flatten(updates), flatten(expected), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", ["damping", "factor_damping"])
@pytest.mark.parametrize("value", [lambda count: 1.0, jnp.asarray(1.0)], ids=["schedule", "array"])
def test_what_varies_is_not_adapted_too(name, value):
    with pytest.raises(InputError, match=f"adapt_{name}=False"):
        optim.kfac(SHALLOW, LOSS, **{name: value})
    with pytest.raises(InputError, match="reject_worse"):
        optim.kfac(SHALLOW, LOSS, **{**FIXED, "damping": lambda k: 1.0, "reject_worse": True})


def test_without_its_static_args_an_injected_damping_is_refused():
    make = optax.inject_hyperparams(optim.kfac, static_args=optim.STATIC_ARGS)
    with pytest.raises(InputError, match="static_args"):
        make(SHALLOW, LOSS, damping=1.0).init(initial_params(LOSS))


ADAPTED = {
    **{"damping": 0.5, "l2": 0.01, "damping_period": 1, "damping_rate": 0.9},
    **{"adapt_factor_damping": False, "averaging": 0.5},
}


@pytest.mark.parametrize("decay", [0.0, 1e-2])
@pytest.mark.parametrize("scale", [0.5, 0.1, 1.5])
def test_a_scaled_update_is_what_momentum_and_damping_see(scale, decay):
    plain = optim.kfac(SHALLOW, LOSS, **ADAPTED)
    chain = optax.chain(plain, optax.add_decayed_weights(-decay), optax.scale(scale))
    found = steps(chain, 4, number=0)
    (params, _, updates, after), before = found[-1], found[-2]
    x, y = batch(LOSS, 0)
    state, after = found[-1][1][0], after[0]
    assert float(after.applied) == pytest.approx(scale, rel=1e-6)

    def ours(updates, params):
        return jax.tree.map(lambda d, p: d + scale * decay * p, updates, params)

    def inner(left, right):
        return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, left, right)))

    # The direction is that of a state whose last update is the one that was made.
    moved = jax.tree.map(lambda p, d: p - d, params, ours(before[2], before[0]))
    previous = ours(before[2], before[0])
    sizes = {"reach": inner(moved, previous), "size": inner(moved, moved)}
    made = state._replace(previous=previous, **sizes)
    expected, there = plain.update(gradient(LOSS)(params, x, y), made, params, x=x, y=y)
    expected = jax.tree.map(lambda d: scale * d, expected)
    update = ours(updates, params)
    np.testing.assert_allclose(flatten(update), flatten(expected), rtol=1e-6, atol=1e-12)
    assert float(there.applied) == pytest.approx(1)
    # lambda is judged by what the objective did.
    change = objective(optax.apply_updates(params, update), x, y, LOSS) - objective(
        params, x, y, LOSS
    )
    assert float(after.reduction_ratio * after.model_change) == pytest.approx(change, rel=1e-6)
    # Another scale is not taken for this one.
    assert abs(float(after.reduction_ratio - there.reduction_ratio)) > 1e-6
    average = jax.tree.map(lambda a, p, d: (a + p + d) / 2, state.average, params, update)
    np.testing.assert_allclose(flatten(after.average), flatten(average), rtol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 1e-3])
def test_a_fixed_momentum_is_of_the_updates(decay):
    fixed = {**FIXED, "damping": 0.5, "step_size": 0.1, "momentum": 0.8, "averaging": 0.5}
    chain = optax.chain(
        optim.kfac(SHALLOW, LOSS, **fixed), optax.add_decayed_weights(-decay), optax.scale(0.1)
    )
    for k, (at, (state, *_), _, (after, *_)) in enumerate(steps(chain, 4)[1:], start=1):
        proposal = jax.tree.map(
            lambda new, old: (new - 0.8 * old) / 0.1, after.previous, state.previous
        )
        # Along the preconditioned gradient alone.
        x, y = batch(LOSS, k)
        grads = jax.tree.map(lambda g, p: g + 0.01 * p, gradient(LOSS)(at, x, y), at)
        solved = after.inverse.apply(
            [jnp.concatenate([g["weight"], g["bias"][None]]) for g in grads]
        )
        expected = np.concatenate([np.ravel(-v) for v in solved])
        np.testing.assert_allclose(flatten(proposal), expected, rtol=1e-6, atol=1e-10)
        assert float(after.applied) == pytest.approx(0.1, rel=1e-6)


def test_a_schedule_that_begins_at_zero_is_seen_as_that():
    warm = optax.chain(
        optim.kfac(SHALLOW, LOSS, **ADAPTED), optax.scale_by_schedule(lambda count: 0.25 * count)
    )
    seen = [float(after[0].applied) for *_, after in steps(warm, 5)]
    # What was left of a step is seen by the next one.
    np.testing.assert_allclose(seen, [1, 0, 0.25, 0.5, 0.75], rtol=1e-6, atol=1e-9)


def test_where_rounding_hides_the_scale_the_last_one_stays():
    optimizer = optim.kfac(SHALLOW, LOSS, **ADAPTED)
    *_, (params, _, _, state) = steps(optimizer, 3)
    x, y = batch(LOSS, 0)
    tiny = jax.tree.map(lambda d: 1e-16 * d, state.previous)
    hidden = state._replace(previous=tiny, reach=1e-16 * state.reach, applied=jnp.asarray(0.3))
    _, found = optimizer.update(gradient(LOSS)(params, x, y), hidden, params, x=x, y=y)
    assert float(found.applied) == 0.3


def test_short_parameters_hide_it():
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), initial_params(LOSS))
    x, y = batch(LOSS, 0)
    optimizer = optim.kfac(SHALLOW, LOSS, **ADAPTED)
    state = optimizer.init(params)
    for _ in range(4):
        updates, state = optimizer.update(gradient(LOSS)(params, x, y), state, params, x=x, y=y)
        params = optax.apply_updates(params, updates)
        assert float(state.applied) == 1


def test_a_damping_that_varies_is_not_below_the_least():
    *_, (_, _, _, state) = steps(
        optim.kfac(SHALLOW, LOSS, **{**FIXED, "damping": lambda k: 0.5**k, "min_damping": 0.1}), 8
    )
    assert float(state.damping) == 0.1


def test_arrays_are_held_to_the_same_ranges():
    with pytest.raises(InputError, match="positive"):
        optim.kfac(SHALLOW, LOSS, **{**FIXED, "damping": jnp.asarray(-1.0)})


def test_several_steps_of_gradients_make_one_of_ours():
    every = optax.MultiSteps(optim.kfac(SHALLOW, LOSS, **ADAPTED), 2)
    found = steps(every, 8, number=0)
    alone = steps(optim.kfac(SHALLOW, LOSS, **ADAPTED), 4, number=0)
    for here, there in zip(found[1::2], alone, strict=True):
        np.testing.assert_allclose(flatten(here[2]), flatten(there[2]), rtol=1e-3, atol=1e-7)
        assert float(here[3].inner_opt_state.applied) == 1


def test_decoupled_weight_decay_is_no_scale():
    decay = optax.chain(optim.kfac(SHALLOW, LOSS, **ADAPTED), optax.add_decayed_weights(-1e-2))
    for *_, after in steps(decay, number=0):
        assert float(after[0].applied) == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_parameters_have_single_factors(dtype):
    network = networks.mlp(4, [6], 2, "tanh", bias_std=1.0)
    x = jax.random.normal(jax.random.key(1), (16, 4), jnp.float32)
    y = jnp.sin(2 * x[:, :2])
    short = jax.tree.map(lambda p: p.astype(dtype), network.init(jax.random.key(0), jnp.float32))
    single = jax.tree.map(lambda p: p.astype(jnp.float32), short)
    optimizer = optim.kfac(network, damping=0.1)

    def value(params):
        return losses.MSE.value(network.apply(params, x.astype(params[0]["weight"].dtype)), y)

    found = {}
    for name, params in {"short": short, "single": single}.items():
        state, first = optimizer.init(params), float(value(params))
        for _ in range(15):
            grads = jax.grad(value)(params)
            updates, state = optimizer.update(grads, state, params, x=x, y=y)
            params = optax.apply_updates(params, updates)
        assert {leaf.dtype for leaf in jax.tree.leaves(state.factors)} == {jnp.dtype(jnp.float32)}
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
            jnp.dtype(dtype if name == "short" else jnp.float32)
        }
        found[name] = float(value(params)) / first
    assert found["single"] < 0.1 and found["short"] < 0.2


def test_training_loops_of_other_code_find_what_they_need():
    sizes = optim.batch_sizes(8, 16, 6)
    network = networks.standard_parameterization(networks.mlp(4, [6], 2, "tanh", bias_std=1.0))
    x = jax.random.normal(jax.random.key(1), (16, 4))
    y = jnp.sin(2 * x[:, :2])
    params = network.init(jax.random.key(0))
    averaged = optim.kfac(network, damping=0.1, averaging=0.5)
    optimizer = optax.chain(averaged, optax.scale(0.9))
    _, (state, _), records = optim.train(
        network, params, x, y, optimizer, losses.MSE, batch_sizes=sizes, error=losses.MSE.value
    )
    assert isinstance(records[0], optim.Record) and records[-1].error < records[0].error
    # Of the averaged iterate, inside the chain too.
    at = losses.MSE.value(network.apply(state.average, x), y)
    assert records[-1].error == pytest.approx(float(at), rel=1e-6)
    assert records[-1].damping == float(state.damping)
    assert float(optim.nesterov_momentum(0, 0.99)) == 0.5
