"""K-FAC where numbers are not finite, zero or alone; its options; the quadratic model by itself."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import relative_error
from kfac_steps import (
    OPTIONS,
    SHALLOW,
    STRUCTURES,
    batch,
    finite,
    flatten,
    gradient,
    initial_params,
    least,
    make,
    objective,
    program,
    same,
    trajectory,
)

from ngd_theory import losses, networks, optim
from ngd_theory.errors import InputError
from ngd_theory.optim.quadratic_model import QuadraticModel, dot, minimise, step_at

# --- What is not finite, zero or alone --------------------------------------------------------------


def spoil(what, value, x, y, grads):
    if what == "inputs":
        return x.at[3, 2].set(value), y, grads
    if what == "a later row":  # which neither the statistics nor the curvature see
        return x.at[-1, 0].set(value), y, gradient("mse")(initial_params(), x.at[-1].set(value), y)
    if what == "a row without a gradient":
        return x.at[-1, 0].set(value), y, grads
    if what == "targets":
        return x, y.at[-1, 0].set(value), grads
    return x, y, jax.tree.map(lambda g: g.at[(0,) * g.ndim].set(value), grads)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("number", [1, 2, 5, 7, 10])
def test_a_batch_that_is_not_finite_leaves_no_trace(structure, number):
    step = trajectory("mse", structure)[number - 1]
    update = program("mse", structure).update
    for what in ("inputs", "a later row", "a row without a gradient", "targets", "gradient"):
        for value in (np.nan, np.inf):
            x, y, grads = spoil(what, value, step.x, step.y, step.grads)
            updates, skipped = update(grads, step.before, step.params, x, y)
            assert not np.any(flatten(updates))
            assert int(skipped.skipped) == int(step.before.skipped) + 1
            assert not same(skipped.key, step.before.key)
            fields = {n: getattr(step.before, n) for n in ("count", "skipped", "key")}
            assert same(skipped._replace(**fields), step.before)
    # What follows is as if it had not been.
    found = update(step.grads, skipped, step.params, step.x, step.y)
    expected = update(
        step.grads, step.before._replace(key=skipped.key), step.params, step.x, step.y
    )
    assert same(found[0], expected[0])
    fields = {n: getattr(expected[1], n) for n in ("count", "skipped")}
    assert same(found[1]._replace(**fields), expected[1])
    assert int(found[1].count) == number + 1 and int(found[1].skipped) == 1


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("what", ["zero inputs", "dead units", "nothing at all"])
def test_layers_without_signal_take_finite_steps(what, structure):
    params = initial_params()
    x, y = batch("mse", 0)
    if what != "dead units":
        x, params = 0 * x, tuple({**p, "bias": 0 * p["bias"]} for p in params)
    if what == "dead units":  # saturated to the last bit: their sensitivities are zero
        params = ({**params[0], "bias": params[0]["bias"] + 1e3}, *params[1:])
    if what == "nothing at all":
        y, params = 0 * y, jax.tree.map(jnp.zeros_like, params)
    start, state = params, program("mse", structure).init(params)
    for _ in range(8):
        grads = gradient("mse")(params, x, y)
        updates, state = program("mse", structure).update(grads, state, params, x, y)
        params = optax.apply_updates(params, updates)
    assert finite(params) and finite(state._replace(reduction_ratio=0.0))
    assert int(state.skipped) == 0
    before, after = (objective(p, x, y, "mse") for p in (start, params))
    if what == "nothing at all":
        assert after == before == 0 and float(state.damping) == OPTIONS["damping"]
    else:
        assert after < before


@cache
def single_row():
    """A program for parameters in float32, which here takes batches of one row in float64."""
    p = make(SHALLOW, "sigmoid-cross-entropy", structure="block-tridiagonal", **OPTIONS)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), initial_params(p.loss))
    x, y = (rows[:1] for rows in batch(p.loss, 0))
    states, start = [p.init(params)], objective(params, x, y, p.loss)
    for _ in range(8):
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        grads = jax.tree.map(lambda g: g.astype(jnp.float32), gradient(p.loss)(wide, x, y))
        updates, state = p.update(grads, states[-1], params, x, y)
        params = optax.apply_updates(params, updates)
        states.append(state)
    return p, start, objective(params, x, y, p.loss), states, updates


def test_a_batch_of_one_row_takes_finite_steps():
    _, before, after, states, updates = single_row()
    assert after < before
    assert finite((states[-1], updates)) and int(states[-1].skipped) == 0


def test_parameters_in_float32_stay_so_whatever_the_data_are():
    p, _, _, (first, *_, last), updates = single_row()
    dtypes = [[leaf.dtype for leaf in jax.tree.leaves(state)] for state in (first, last)]
    assert dtypes[0] == dtypes[1] and np.float64 not in dtypes[0]
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(updates))
    assert len(p.traces) == 1


# --- Options ----------------------------------------------------------------------------------------

SMALL = networks.mlp(3, [], 2, bias_std=0.5)


@cache
def small():
    """Parameters, batch and gradient."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(10, 3))), jnp.asarray(rng.normal(size=(10, 2)))
    params = SMALL.init(jax.random.key(0))
    grads = jax.grad(lambda p: losses.MSE.value(SMALL.apply(p, x), y))(params)
    return params, x, y, grads


def small_value(params):
    _, x, y, _ = small()
    return float(losses.MSE.value(SMALL.apply(params, x), y))


def test_a_step_that_makes_it_worse_is_taken_back():
    params, x, y, grads = small()
    p = make(SMALL, "mse", damping=1e-3, reject_worse=True, damping_period=4)
    state = p.init(params)
    uphill = jax.tree.map(jnp.negative, grads)
    updates, worse = p.update(uphill, state, params, x, y)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((updates, worse.previous)))
    assert float(worse.damping) == pytest.approx(1e-3 / 0.95**4, rel=1e-12)
    assert int(worse.skipped) == 0
    # A good one is not, and leaves lambda alone before its period.
    updates, better = p.update(grads, worse, params, x, y)
    moved = optax.apply_updates(params, updates)
    assert small_value(moved) < small_value(params)
    assert float(better.damping) == float(worse.damping)

    def slope(params):
        return jax.grad(lambda p: losses.MSE.value(SMALL.apply(p, x), y))(params)

    # Nor does lambda grow twice where both rules ask for it.
    updates, third = p.update(slope(moved), better, moved, x, y)
    moved = optax.apply_updates(moved, updates)
    uphill = jax.tree.map(jnp.negative, slope(moved))
    _, fourth = p.update(uphill, third, moved, x, y)
    assert float(fourth.damping) == pytest.approx(float(third.damping) / 0.95**4, rel=1e-12)


def test_fixed_step_size_and_momentum():
    params, x, y, grads = small()
    p = make(
        SMALL,
        "mse",
        damping=1.0,
        damping_period=1,
        step_size=0.1,
        momentum=0.5,
        l2=0.1,
        adapt_factor_damping=False,
    )
    slope = jax.tree.map(lambda g, w: g + 0.1 * w, grads, params)
    updates, state = p.update(grads, p.init(params), params, x, y)
    layouts = [block.affine.layout for block in SMALL.blocks]

    def proposal(state):
        solved = state.inverse.apply([y.to_matrix(g) for y, g in zip(layouts, slope, strict=True)])
        return tuple(y.from_matrix(-v) for y, v in zip(layouts, solved, strict=True))

    again, last = p.update(grads, state, params, x, y)
    first, second = proposal(state), proposal(last)
    expected = jax.tree.map(lambda d: 0.1 * d, first)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), updates, expected)
    expected = jax.tree.map(lambda d, u: 0.1 * d + 0.5 * u, second, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), again, expected)
    assert float(last.step_size) == 0.1 and float(last.momentum) == 0.5
    # Without a search gamma follows lambda.
    assert float(state.damping) != 1.0
    assert float(last.factor_damping) == pytest.approx((float(state.damping) + 0.1) ** 0.5)


def test_least_squares_in_one_step():
    # One output: whatever targets are drawn, the proposal is along Newton's, and alpha is exact.
    network = networks.mlp(4, [], 1, bias_std=1.0)
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(50, 4))), jnp.asarray(rng.normal(size=(50, 1)))
    params = network.init(jax.random.key(0))
    optimizer = optim.kfac(network, damping=1e-12)
    chain = optax.chain(optimizer, optax.scale(0.5))

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: losses.MSE.value(network.apply(p, x), y))(params)
        return chain.update(grads, state, params, x=x, y=y)

    updates, _ = step(params, chain.init(params))
    reached = network.apply(jax.tree.map(lambda p, u: p + 2 * u, params, updates), x)
    design = np.hstack([x, np.ones((50, 1))])
    best = design @ np.linalg.lstsq(design, y)[0]
    assert relative_error(reached, best) < 1e-5
    half = network.apply(optax.apply_updates(params, updates), x)
    np.testing.assert_allclose(half, (reached + network.apply(params, x)) / 2, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "diagonal"}, "unknown structure 'diagonal'; choose one of: block-diagonal"),
        ({"loss": "hinge"}, "unknown loss 'hinge'; choose one of: mse, cross-entropy"),
        ({"damping_rate": 1.0}, r"damping_rate is 1.0; it must be in \(0, 1\)"),
        ({"damping_period": 0}, "damping_period is 0; it must be a whole number of at least 1"),
        ({"factor_damping_period": 0}, "factor_damping_period is 0; it must be a whole"),
        ({"inverse_period": -3}, "inverse_period is -3; it must be a whole"),
        ({"statistics_period": 0}, "statistics_period is 0; it must be a whole"),
        ({"min_damping": 200.0}, r"min_damping is 200.0; it must be from 0 to damping, 150.0"),
        ({"largest_change": 1e-3}, "largest_change clips a fixed step"),
        ({"num_draws": 0}, "num_draws is 0; it must be a whole"),
        ({"statistics_fraction": 0.0}, r"statistics_fraction is 0.0; it must be in \(0, 1\]"),
        ({"curvature_fraction": 1.5}, r"curvature_fraction is 1.5; it must be in \(0, 1\]"),
        ({"curvature_fraction": np.nan}, r"curvature_fraction is nan; it must be in \(0, 1\]"),
        ({"decay": 1.0}, r"decay is 1.0; it must be in \[0, 1\)"),
        ({"averaging": -0.1}, r"averaging is -0.1; it must be in \[0, 1\)"),
        ({"l2": -1.0}, "l2 is -1.0; it must be zero or positive, and finite"),
        ({"l2": np.inf}, "l2 is inf; it must be zero or positive, and finite"),
        ({"damping": 0.0}, "damping is 0.0; it must be positive and finite"),
        ({"damping": np.nan}, "damping is nan; it must be positive and finite"),
        ({"factor_damping": -1.0}, "factor_damping is -1.0; it must be positive and finite"),
        ({"step_size": 0.0, "momentum": 0.0}, "step_size is 0.0; it must be positive, or None"),
        ({"step_size": 1.0, "momentum": 1.0}, r"momentum is 1.0; it must be in \[0, 1\), or None"),
        ({"step_size": 1.0}, "momentum=None takes it from the quadratic model"),
        ({"momentum": 0.9}, "with step_size=None momentum is None .* or 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        optim.kfac(SMALL, **options)


def test_an_update_needs_parameters_and_batch():
    params, x, y, grads = small()
    optimizer = optim.kfac(SMALL)
    state = optimizer.init(params)
    for given in ({"x": x}, {"y": y}, {}):
        with pytest.raises(InputError, match=r"K-FAC needs update\(grads, state, params, x=x, y="):
            optimizer.update(grads, state, params, **given)
    with pytest.raises(InputError, match="K-FAC needs"):
        optimizer.update(grads, state, x=x, y=y)


# --- The quadratic model alone ----------------------------------------------------------------------


def random_model(size=5):
    rng = np.random.default_rng(0)
    root, gradient = rng.normal(size=(size, size)), rng.normal(size=size)
    model = QuadraticModel(lambda t: jnp.asarray(root) @ t, jnp.asarray(gradient), jnp.asarray(0.3))
    curvature = root.T @ root + 0.3 * np.eye(size)
    return model, curvature, gradient, [jnp.asarray(rng.normal(size=size)) for _ in range(2)]


def test_minimum_over_a_plane_and_along_a_line():
    model, curvature, gradient, (first, second) = random_model()
    pushed = model.push(second)
    found = minimise(model, first, second, pushed)
    expected, value = least(curvature, gradient, np.stack([first, second]))
    np.testing.assert_allclose(found[:2], expected, rtol=1e-10)
    assert float(found.value) == pytest.approx(value, rel=1e-10)
    (along,), value = least(curvature, gradient, np.asarray(first)[None])
    for line in (
        step_at(model, first, second, pushed, None, 0.0),
        minimise(model, first, 0 * first, 0 * pushed),
        minimise(model, first, -2 * first, -2 * model.push(first)),
    ):
        np.testing.assert_allclose(line[:2], [along, 0], rtol=1e-10)
        assert float(line.value) == pytest.approx(value, rel=1e-10)
    somewhere = np.asarray(0.7 * first - 0.2 * second)
    value = somewhere @ curvature @ somewhere / 2 + somewhere @ gradient
    found = step_at(model, first, second, pushed, 0.7, -0.2)
    assert float(found.value) == pytest.approx(value, rel=1e-10)
    assert float(dot((first, second), (second, first))) == pytest.approx(2 * first @ second)


# --- Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: {"y": a["y"][:, 0]},
            r"targets have shape \(\d+,\); the outputs have \(\d+, 2\)",
        ),
        (lambda a: {"y": a["y"][:3]}, r"targets have shape \(3, 2\); the outputs have"),
        (lambda a: {"y": a["y"] - 5}, "row 0 of the targets is .*; it must be a distribution"),
        (lambda a: {"x": a["x"][:, :1]}, r"inputs have shape \(\d+, 1\); this network takes"),
        (lambda a: {"x": a["x"] + 1j}, "x is an array of complex128"),
        (lambda a: {"x": [[1.0]]}, "x is a list; it must be an array of real numbers"),
        (lambda a: {"x": None}, "K-FAC needs update"),
        (
            lambda a: {"grads": jax.tree.map(lambda g: g[:1], a["grads"])},
            "grads of layer 1 have sha",
        ),
        (lambda a: {"grads": a["grads"][:1]}, "grads of 1 layers for a network of 2"),
        (
            lambda a: {"grads": jax.tree.map(lambda g: g.astype(int), a["grads"])},
            "'weight' in the grads of layer 1 is an array of int64",
        ),
        (lambda a: {"params": a["params"][:1]}, "parameters of 1 layers for a network of 2"),
        (lambda a: {"state": None}, "state is None; it must be of type KFACState"),
        (lambda a: {"state": a["other"]}, "moments in state.previous of layer 1 have shapes"),
    ],
)
def test_an_update_that_does_not_fit_is_refused(change, message):
    net = networks.mlp(3, [4], 2, "tanh")
    params = net.init(jax.random.key(0))
    optimizer = optim.kfac(net, "cross-entropy")
    wide = networks.mlp(3, [5], 2, "tanh")
    given = {
        **{"grads": jax.tree.map(jnp.ones_like, params), "state": optimizer.init(params)},
        **{"params": params, "x": jnp.ones((6, 3)), "y": jnp.eye(2)[jnp.arange(6) % 2]},
    }
    other = optim.kfac(wide, "cross-entropy").init(wide.init(jax.random.key(0)))
    grads, state, params, x, y = {**given, **change({**given, "other": other})}.values()
    with pytest.raises(InputError, match=message):
        optimizer.update(grads, state, params, x=x, y=y)


@pytest.mark.parametrize(
    "name", ["damping", "l2", "factor_damping", "min_damping", "largest_change"]
)
@pytest.mark.parametrize("value", [1e300, 1e39, 1e-60])
def test_options_are_in_the_range_of_the_parameters(name, value):
    params = jax.tree.map(lambda p: p.astype(jnp.float32), small()[0])
    given = {name: value}
    if name == "min_damping":
        given["damping"] = value
    if name == "largest_change":
        given |= {"step_size": 0.1, "momentum": 0.0}
    with pytest.raises(InputError, match=r"is 1e.*, beyond float32, whose .* 1.2e-38 to 3.4e\+38"):
        optim.kfac(SMALL, **given).init(params)
    optim.kfac(SMALL, **given).init(small()[0])


def test_a_batch_is_in_the_range_of_the_parameters():
    params, x, y, _ = small()
    params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    optimizer = optim.kfac(SMALL)
    for given in ({"x": 1e39 * np.ones_like(x), "y": y}, {"x": x, "y": 1e39 * np.ones_like(y)}):
        with pytest.raises(InputError, match=r"^[xy] has the number 1e\+39, beyond float32"):
            optimizer.update(params, optimizer.init(params), params, **given)


def test_outside_jit_a_batch_is_skipped_too():
    params, x, y, grads = small()
    optimizer = optim.kfac(SMALL, damping=1.0)
    for given in ({"x": x * jnp.nan, "y": y}, {"x": x, "y": y * jnp.nan}):
        updates, state = optimizer.update(grads, optimizer.init(params), params, **given)
        assert int(state.skipped) == 1 and not np.any(flatten(updates))


@pytest.mark.parametrize(
    "name", ["damping_period", "factor_damping_period", "inverse_period", "statistics_period"]
)
def test_a_period_may_be_longer_than_any_run(name):
    params, x, y, grads = small()
    optimizer = optim.kfac(SMALL, damping=1.0, **{name: 10**9})
    _, state = optimizer.update(grads, optimizer.init(params), params, x=x, y=y)
    assert int(state.skipped) == 0
    with pytest.raises(InputError, match=f"{name} is 2147483648; it must be below 2\\^31"):
        optim.kfac(SMALL, **{name: 2**31})


def test_an_average_is_of_the_states_own_parameters():
    params = small()[0]
    state = optim.kfac(SMALL).init(params)
    assert optim.averaged_params(state, params) is params
    for other in ((*params, *params), None, "params"):
        with pytest.raises(InputError, match=r"params have the shapes .*; the state is of"):
            optim.averaged_params(state, other)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_debugging_of_nan_finds_none(structure):
    net = networks.mlp(3, [4], 2, "relu", bias_std=0.1)
    params = net.init(jax.random.key(0))
    # Dead units: no signal, no gradient.
    params = ({**params[0], "bias": params[0]["bias"].at[:2].set(-1e3)}, params[1])
    x, y = jnp.eye(3), jnp.eye(2)[jnp.arange(3) % 2]
    with jax.debug_nans(True):
        optimizer = optim.kfac(net, "cross-entropy", structure=structure, damping_period=2)
        state, update = optimizer.init(params), jax.jit(optimizer.update)
        for _ in range(4):
            grads = jax.grad(lambda p: losses.CROSS_ENTROPY.value(net.apply(p, x), y))(params)
            updates, state = update(grads, state, params, x=x, y=y)
            params = optax.apply_updates(params, updates)
    assert int(state.skipped) == 0 and np.isfinite(state.reduction_ratio)
