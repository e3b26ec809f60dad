"""The memory model against what XLA says of the compiled step."""

import jax
import jax.numpy as jnp
import pytest

import ngd_theory as ngd
from ngd_theory.theory import step_memory

MODELLED = (
    *("exact", "block-diagonal", "block-tridiagonal", "kfac", "entry-wise", "identity"),
    *("kfac-input", "kfac-output", "ekfac", "shampoo", "quasi-diagonal"),
)


def reported(approximation, net, num_samples):
    """Bytes of arguments, results and temporaries of a compiled float32 step."""

    def step(params, x):
        lin = ngd.networks.linearize(net, params, x)
        gradient = approximation.natural_gradient(lin, lin.outputs, 1e-2)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    params = jax.eval_shape(lambda: net.init(jax.random.key(0), "float32"))
    x = jax.ShapeDtypeStruct((num_samples, *net.input_shape), jnp.float32)
    found = jax.jit(step).lower(params, x).compile().memory_analysis()
    return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes


@pytest.mark.parametrize("name", MODELLED)
@pytest.mark.parametrize(
    ("width", "num_samples"), [(256, 32), (64, 600)], ids=["wide", "many samples"]
)
def test_the_model_is_within_a_factor_of_two_of_the_compilers_figure(name, width, num_samples):
    net = ngd.networks.mlp(100, [width, width], 1)
    approximation = ngd.fisher.by_name(name)
    memory = step_memory(approximation, net, num_samples)
    assert 0.5 < memory.total / reported(approximation, net, num_samples) < 2, memory
    assert memory.total == memory.parameters + memory.linearisation + memory.solve


@pytest.mark.parametrize("name", ["kfac", "kfac-output", "shampoo", "ekfac"])
def test_the_model_with_several_outputs(name):
    net = ngd.networks.mlp(100, [256, 256], 10)
    approximation = ngd.fisher.by_name(name)
    ratio = step_memory(approximation, net, 32).total / reported(approximation, net, 32)
    assert 0.5 < ratio < 2


def test_conjugate_gradients_hold_no_kernel():
    net = ngd.networks.mlp(100, [64, 64], 1)
    solves = [
        step_memory(ngd.fisher.Exact(solver=solver), net, 20_000).solve
        for solver in ("cholesky", "cg", "auto")
    ]
    assert solves[0] > 20_000**2 * 4 > 10 * solves[1] == 10 * solves[2]
