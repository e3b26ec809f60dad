"""The factored Jacobian: J_l[(n,c)] = delta_l[n,c] (x) a_l[n]."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_NAME, CASES, problem, relative_error
from dense import flatten, forward_backward, unflatten
from hypothesis import given, settings
from hypothesis import strategies as st

import ngd_theory as ngd
from ngd_theory import optim
from ngd_theory.errors import InputError

CASE = BY_NAME["L3 C3 gelu bias"]
linearize = jax.jit(ngd.networks.linearize, static_argnums=0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_factors_are_those_of_the_textbook_backward_pass(case):
    p = problem(case)
    _, inputs, sensitivities = forward_backward(
        case.activation, case.weight_std, case.bias_std, p.params, p.x
    )
    assert len(p.lin.layers) == case.depth
    for layer, a, delta in zip(p.lin.layers, inputs, sensitivities, strict=True):
        np.testing.assert_allclose(layer.inputs[:, 0], a, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(layer.sensitivities[:, :, 0], delta, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_product_of_the_factors_is_the_autodiff_jacobian(case):
    p = problem(case)
    blocks = [
        np.einsum("ncm,np->ncmp", layer.sensitivities[:, :, 0], layer.inputs[:, 0]).reshape(
            p.lin.outputs.size, -1
        )
        for layer in p.lin.layers
    ]
    assert relative_error(np.concatenate(blocks, axis=1), p.dense.jacobian) < 1e-12


def test_the_reference_jacobian_is_finite_differences():
    # Guards the reference itself, whose flattening everything else relies on.
    p = problem(CASE)
    direction = np.random.default_rng(0).normal(size=p.dense.jacobian.shape[1])
    step = 1e-5

    def at(size):
        moved = jax.tree.map(lambda w, d: w + size * d, p.params, unflatten(direction, p.params))
        return np.asarray(p.network.apply(moved, p.x)).ravel()

    difference = (at(step) - at(-step)) / (2 * step)
    assert relative_error(p.dense.jacobian @ direction, difference) < 1e-7


def test_jvp_and_vjp_are_products_with_the_dense_jacobian():
    p = problem(CASE)
    rng = np.random.default_rng(1)
    tangent = rng.normal(size=p.dense.jacobian.shape[1])
    cotangent = jnp.asarray(rng.normal(size=p.lin.outputs.shape))
    moved = p.lin.jvp(unflatten(tangent, p.params))
    assert moved.shape == p.lin.outputs.shape
    assert relative_error(moved.ravel(), p.dense.jacobian @ tangent) < 1e-13
    pulled = p.lin.vjp(cotangent)
    assert relative_error(flatten(pulled), cotangent.ravel() @ p.dense.jacobian) < 1e-13


def test_vjp_has_the_structure_and_shapes_of_the_parameters():
    p = problem(CASE)
    pulled = p.lin.vjp(p.residual)
    assert jax.tree.structure(pulled) == jax.tree.structure(p.params)
    assert jax.tree.map(jnp.shape, pulled) == jax.tree.map(jnp.shape, p.params)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_vjp_is_the_transpose_of_jvp(seed):
    p = problem(CASE)
    rng = np.random.default_rng(seed)
    tangent = rng.normal(size=p.dense.jacobian.shape[1])
    cotangent = rng.normal(size=p.lin.outputs.shape)
    left = np.vdot(p.lin.jvp(unflatten(tangent, p.params)), cotangent)
    right = np.vdot(tangent, flatten(p.lin.vjp(jnp.asarray(cotangent))))
    assert left == pytest.approx(right, rel=1e-10, abs=1e-10)


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(CASE.num_samples)))
def test_permuted_samples_give_permuted_factors(order):
    p = problem(CASE)
    order = np.asarray(order)
    permuted = linearize(p.network, p.params, p.x[order])
    for one, other in zip(p.lin.layers, permuted.layers, strict=True):
        np.testing.assert_allclose(other.inputs, one.inputs[order], atol=1e-14)
        np.testing.assert_allclose(other.sensitivities, one.sensitivities[order], atol=1e-13)


def test_relu_linearisation_scales_with_its_parameters():
    # Without biases relu is homogeneous: delta_1 is linear in the later weights, a_2 in the first.
    network = ngd.networks.mlp(3, [6], 2)
    params = network.init(jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    lin = ngd.networks.linearize(network, params, x)
    doubled = ngd.networks.linearize(network, ({"weight": 2 * params[0]["weight"]}, params[1]), x)
    np.testing.assert_allclose(doubled.layers[1].inputs, 2 * lin.layers[1].inputs)
    np.testing.assert_allclose(doubled.layers[0].sensitivities, lin.layers[0].sensitivities)


def test_linearize_can_be_jitted_and_vmapped_over_keys():
    p = problem(CASE)
    keys = jax.random.split(jax.random.key(7), 3)

    @jax.jit
    @jax.vmap
    def outputs_and_kernels(key):
        lin = ngd.networks.linearize(p.network, p.network.init(key), p.x)
        return lin.outputs, ngd.kernels.ntk(lin)

    outputs, kernels = outputs_and_kernels(keys)
    lin = linearize(p.network, p.network.init(keys[1]), p.x)
    np.testing.assert_allclose(outputs[1], lin.outputs, rtol=1e-12)
    np.testing.assert_allclose(kernels[1], ngd.kernels.ntk(lin), rtol=1e-12, atol=1e-13)


def test_linearisation_can_be_differentiated_by_the_parameters():
    p = problem(BY_NAME["L2 C3 tanh bias"])

    @jax.jit
    def trace(params):
        return jnp.trace(ngd.kernels.ntk(ngd.networks.linearize(p.network, params, p.x)))

    assert float(trace(p.params)) == pytest.approx(np.sum(p.dense.jacobian**2), rel=1e-12)
    gradient = flatten(jax.jit(jax.grad(trace))(p.params))
    direction = np.random.default_rng(2).normal(size=len(gradient))
    step, here = 1e-5, flatten(p.params)
    up, down = (
        float(trace(unflatten(here + sign * step * direction, p.params))) for sign in (1, -1)
    )
    assert gradient @ direction == pytest.approx((up - down) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_numbers_that_are_not_finite_are_named_outside_jit(bad):
    p = problem(BY_NAME["L2 C3 tanh bias"])
    x = p.x.at[2, 1].set(bad)
    params = (p.params[0], {**p.params[1], "bias": p.params[1]["bias"].at[1].set(bad)})
    with pytest.raises(InputError, match=r"x has a NaN or infinity at index \(2, 1\)"):
        ngd.networks.linearize(p.network, p.params, x)
    with pytest.raises(InputError, match=r"params\[1\]\['bias'\] has a NaN.* at index \(1,\)"):
        ngd.networks.linearize(p.network, params, p.x)
    # Inside they are not known; the tangent of infinity is 1.
    assert np.isfinite(linearize(p.network, p.params, x).outputs).all() == (not np.isnan(bad))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_for_forward_passes_and_is_refused_by_what_solves(dtype):
    p = problem(BY_NAME["L2 C3 tanh bias"])
    params, x = jax.tree.map(lambda w: w.astype(dtype), (p.params, p.x))
    assert p.network.apply(params, x).dtype == dtype
    for call in (ngd.networks.linearize, linearize):
        with pytest.raises(
            InputError, match=f"of type {jnp.dtype(dtype).name}, which no solve takes"
        ):
            call(p.network, params, x)
    # The optimiser computes in four bytes.
    state = optim.kfac(p.network).init(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.factors)} == {jnp.dtype(jnp.float32)}
    # Inputs of four bytes: all is computed in them, from the rounded parameters.
    lin = linearize(p.network, params, p.x.astype(jnp.float32))
    rounded = jax.tree.map(lambda w: w.astype(float), params)
    assert lin.outputs.dtype == jnp.float32
    expected = linearize(p.network, rounded, p.x)
    assert relative_error(lin.outputs, expected.outputs) < 1e-5
    found, wanted = (
        flatten(ngd.fisher.KFAC().natural_gradient(y, y.outputs, 0.1)) for y in (lin, expected)
    )
    assert relative_error(found, wanted) < 1e-4


def test_parameters_that_are_no_floating_arrays_are_named():
    p = problem(BY_NAME["L2 C3 tanh bias"])
    cases = (
        (lambda w: w.astype(int), "'bias' in the parameters of layer 1 is an array of int64"),
        (lambda w: w + 1j, "is an array of complex128 of shape .*; it must be a floating array"),
        (lambda w: w > 0, "is an array of bool"),
    )
    for change, message in cases:
        params = jax.tree.map(change, p.params)
        with pytest.raises(InputError, match=message):
            p.network.apply(params, p.x)
        with pytest.raises(InputError, match=message):
            ngd.networks.linearize(p.network, params, p.x)
    with pytest.raises(InputError, match="layer 1 are a tuple; they must be a dict"):
        p.network.apply(jax.tree.map(lambda w: w, tuple((w,) for w in p.params)), p.x)


class Layer(dict):
    """Another pytree than a dict."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (list, "parameters are a list; they must be a tuple, one dict a layer, as network.init"),
        (lambda p: tuple(map(Layer, p)), "of layer 1 are a Layer; they must be a dict"),
    ],
)
def test_parameters_are_a_tuple_of_dicts_everywhere(change, message):
    p = problem(BY_NAME["L2 C3 tanh bias"])
    params, optimizer = change(p.params), ngd.optim.kfac(p.network)
    state = optimizer.init(p.params)
    calls = (
        lambda: p.network.apply(params, p.x),
        lambda: ngd.networks.linearize(p.network, params, p.x),
        lambda: ngd.dynamics.train(
            p.network, params, p.x, p.targets, ngd.fisher.Exact(), 0.1, 1, 0.1
        ),
        lambda: optimizer.init(params),
        lambda: optimizer.update(p.params, state, params, x=p.x, y=p.targets),
    )
    for call in calls:
        with pytest.raises(InputError, match=message):
            call()
    with pytest.raises(InputError, match=message.replace("parameters", "grads")):
        optimizer.update(params, state, p.params, x=p.x, y=p.targets)
