"""What a GPU would run, compiled on a machine without one: nothing is missing there, nothing waits for the host.

`jax.export` refuses a primitive that has no rule for CUDA, and callbacks to Python. Numbers are for `make test-gpu`.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import jax.scipy
import pytest
from cases import APPROXIMATIONS
from jax import export

import ngd_theory as ngd
from ngd_theory.dynamics.train import _step
from ngd_theory.fisher import coupled_solvers

DENSE = ngd.networks.mlp(6, [5], 2, "tanh", bias_std=0.3)
IMAGES = ngd.networks.cnn((4, 4, 1), [3], 2)
#: How a device's own libraries are called; older JAX leaves Cholesky to XLA.
LIBRARIES = ("cusolver_", "cublas_", "cu_", "cudnn_", "stablehlo.cholesky")


def program(function, *args):
    """The CUDA program of a function of float32 arrays."""
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, "float32"), args)
    return export.export(jax.jit(function), platforms=("cuda",))(*shapes).mlir_module()


def calls(function, *args):
    """Names of the external functions that the CUDA program calls."""
    found = program(function, *args)
    return set(re.findall(r"(?<=stablehlo.custom_call @)\w+|stablehlo.cholesky", found))


def short_products(function, *args):
    """Shapes of the results of the matrix products that may lose digits (TF32)."""
    lines = program(function, *args).splitlines()
    products = [x for x in lines if "stablehlo.dot_general" in x and "HIGHEST" not in x]
    results = [re.search(r"-> tensor<([\dx]+)xf32>", x) for x in products]
    return {tuple(map(int, found[1].split("x"))) for found in results if found}


def example(net):
    """Parameters, inputs and targets, as shapes."""
    params = jax.eval_shape(net.init, jax.random.key(0))
    return params, jnp.empty((4, *net.input_shape)), jnp.empty((4, net.output_dim))


def natural(approximation, net, damping, params, x, y):
    """Gradient and map."""
    lin = ngd.networks.linearize(net, params, x)
    gradient = approximation.natural_gradient(lin, lin.outputs - y, damping)
    return gradient, approximation.function_space_map(lin, damping)


@pytest.mark.parametrize("damping", [1e-3, 0.0])
@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_every_approximation_is_a_program_of_the_device(name, damping):
    step = partial(natural, ngd.fisher.by_name(name), DENSE, damping)
    found = calls(step, *example(DENSE))
    assert all(call.startswith(LIBRARIES) for call in found), found
    if name not in {"identity", "entry-wise", "quasi-diagonal"}:
        assert found  # it factorises


def test_pivots_of_coupled_layers_are_a_program_of_the_device(monkeypatch):
    monkeypatch.setattr(coupled_solvers, "PIVOTED", 1)
    net = ngd.networks.mlp(6, [7, 5], 2)
    step = partial(natural, ngd.fisher.BlockTridiagonal(), net, 1e-3)
    assert "stablehlo.case" in program(step, *example(net))
    found = calls(step, *example(net))
    assert found and all(call.startswith(LIBRARIES) for call in found), found


@pytest.mark.parametrize(
    "approximation",
    [ngd.fisher.Exact(solver="cg"), ngd.fisher.by_name("unit-wise"), ngd.fisher.by_name("kfac")],
    ids=["exact, cg", "unit-wise", "kfac"],
)
def test_convolutions_and_conjugate_gradients_too(approximation):
    found = calls(partial(natural, approximation, IMAGES, 1e-3), *example(IMAGES))
    assert all(call.startswith(LIBRARIES) for call in found), found


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_what_is_inverted_keeps_all_digits(name, loss):
    """Only products with the shapes of activations and weights take the device's short ones."""
    # Fewer samples than inputs; for unit-wise, which then goes by rows, more.
    n, approximation = 11 if name == "unit-wise" else 4, ngd.fisher.by_name(name)
    if "kind" in ngd.fisher.APPROXIMATIONS[name].__dataclass_fields__:
        approximation = ngd.fisher.by_name(name, kind=ngd.fisher.TrueFisher(loss))

    def gradient(params, x, y):
        lin = ngd.networks.linearize(DENSE, params, x)
        return approximation.natural_gradient(lin, lin.outputs - y, 1e-3)

    params, x, y = example(DENSE)
    x, y = (jnp.empty((n, *a.shape[1:])) for a in (x, y))
    short = short_products(gradient, params, x, y)
    assert short
    for shape in short:
        assert sum(size % n == 0 for size in shape) <= 1, (name, shape)
    samples = short_products(lambda a: a @ a.T, x)
    assert samples == {(n, n)}  # the test can see them

    def maps(lin):
        return approximation.function_space_map(lin, 1e-3)

    lin = jax.eval_shape(lambda p, x: ngd.networks.linearize(DENSE, p, x), params, x)
    assert not short_products(maps, lin)


def test_a_training_step():
    def step(params, x, y):
        how = jnp.float32(0.5), ngd.fisher.as_damping(1e-3), jnp.float32(1e9)
        approximation = ngd.fisher.by_name("block-tridiagonal")
        lazy = jnp.zeros_like(y), jnp.float32(0.1)
        return _step(DENSE, ngd.losses.MSE, params, x, y, approximation, *how, *lazy)

    assert "cusolver_getrf_ffi" in calls(step, *example(DENSE))


@pytest.mark.parametrize("structure", ["block-diagonal", "block-tridiagonal"])
def test_a_step_of_the_optimiser(structure):
    optimizer = ngd.optim.kfac(DENSE, "mse", damping=1.0, structure=structure, averaging=0.9)

    def step(params, x, y):
        gradient = jax.grad(lambda p: ngd.losses.MSE.value(DENSE.apply(p, x), y))(params)
        return optimizer.update(gradient, optimizer.init(params), params, x=x, y=y)[0]

    found = calls(step, *example(DENSE))
    assert all(call.startswith(LIBRARIES) for call in found), found


def test_what_a_gpu_cannot_run_is_refused():
    matrix = jnp.empty((3, 3))
    with pytest.raises(NotImplementedError, match="schur"):
        calls(lambda a: jax.scipy.linalg.schur(a)[0], matrix)
    with pytest.raises(ValueError, match=r"lowering platform cuda|custom calls"):
        calls(lambda a: jax.pure_callback(lambda v: v, a, a), matrix)
