"""What is called from Python compiles whole functions, not dozens of programs of one operation."""

import jax
import jax.numpy as jnp
import pytest

import ngd_theory as ngd

#: Sizes that no other test has, whose programs would be there already.
SAMPLES, INPUTS, WIDTH, OUTPUTS = 11, 6, 13, 2
NETWORK = ngd.networks.mlp(INPUTS, [WIDTH, WIDTH], OUTPUTS)
RHO = 1e-3


@pytest.fixture
def programs(caplog):
    """How many programs a call compiles."""

    def count(call):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            jax.block_until_ready(call())
        return sum("Finished XLA compilation" in message for message in caplog.messages)

    return count


@pytest.fixture(scope="module")
def given():
    keys = jax.random.split(jax.random.key(0), 3)
    params = NETWORK.init(keys[0])
    x = jax.random.normal(keys[1], (SAMPLES, INPUTS))
    cotangent = jax.random.normal(keys[2], (SAMPLES, OUTPUTS))
    return params, x, cotangent


def test_linearize_compiles_once(given, programs):
    params, x, _ = given
    assert programs(lambda: ngd.networks.linearize(NETWORK, params, x)) <= 2
    # Neither other numbers nor an equal network make another.
    again = ngd.networks.mlp(INPUTS, [WIDTH, WIDTH], OUTPUTS)
    other = jax.tree.map(jnp.negative, params)
    assert programs(lambda: ngd.networks.linearize(again, other, x)) == 0


def test_kernels_compile_once(given, programs):
    params, x, _ = given
    lin, at = (ngd.networks.linearize(NETWORK, params, points) for points in (x, x[:7]))
    assert programs(lambda: ngd.kernels.ntk(lin)) <= 2
    assert programs(lambda: ngd.kernels.ntk(at, lin)) <= 2
    assert programs(lambda: ngd.kernels.layerwise_ntk(lin)) <= 2
    assert programs(lambda: ngd.kernels.layer_kernel(lin.layers[0])) <= 2
    # The same layer given twice is the case of one.
    assert programs(lambda: ngd.kernels.ntk(lin, lin)) == 0


def test_isotropy_and_step_size_compile_once(programs):
    map = jnp.eye(SAMPLES * OUTPUTS) + 0.1
    assert programs(lambda: ngd.theory.isotropy(map)) <= 2
    assert programs(lambda: ngd.theory.largest_monotone_step_size(map)) <= 1


@pytest.mark.parametrize("name", ["exact", "kfac", "block-tridiagonal"])
def test_gradients_maps_and_predictions_compile_once(given, programs, name):
    params, x, cotangent = given
    lin = ngd.networks.linearize(NETWORK, params, x)
    approximation = ngd.fisher.by_name(name)
    assert programs(lambda: approximation.natural_gradient(lin, cotangent, RHO)) <= 2
    assert programs(lambda: approximation.function_space_map(lin, RHO)) <= 2
    targets = lin.outputs - cotangent
    predict = ngd.dynamics.predict
    assert programs(lambda: predict(approximation, lin, targets, 0.1, 3, RHO).outputs) <= 3


def test_jitted_functions_take_tracers(given):
    """Inside jit, vmap and grad they give what they give outside."""
    params, x, _ = given

    def size(params, x):
        lin = ngd.networks.linearize(NETWORK, params, x)
        return ngd.theory.isotropy(ngd.kernels.ntk(lin)).constant

    value = size(params, x)
    assert jax.jit(size)(params, x) == pytest.approx(float(value), rel=1e-12)
    assert jax.vmap(size, (None, 0))(params, x[None])[0] == pytest.approx(float(value), rel=1e-12)
    slope = jax.grad(size)(params, x)
    change = jax.tree.map(lambda p: 1e-6 * p, params)
    moved = jax.tree.map(jnp.add, params, change)
    expected = sum(
        jnp.vdot(g, c) for g, c in zip(jax.tree.leaves(slope), jax.tree.leaves(change), strict=True)
    )
    assert float(size(moved, x) - value) == pytest.approx(float(expected), rel=1e-4)
