"""Any ``apply(params, x)``: groups of parameters in place of layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_NAME, problem, relative_error

import ngd_theory as ngd
from ngd_theory.errors import InputError

CASE = BY_NAME["L3 C3 gelu bias"]
BY_GROUPS = ("identity", "exact", "block-diagonal", "block-tridiagonal", "entry-wise")


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.fixture(scope="module")
def both():
    """A perceptron linearised by its layers and as a function, at the training and the test inputs."""
    p = problem(CASE)
    pairs = [
        (mine, ngd.networks.linearize_function(p.network.apply, p.params, x))
        for mine, x in ((p.lin, p.x), (p.at, p.x_test))
    ]
    return p, *pairs


def test_the_default_groups_are_the_layers(both):
    _, (lin, general), _ = both
    assert general.grouping.names == ("0", "1", "2")
    np.testing.assert_allclose(general.outputs, lin.outputs, rtol=1e-12)
    kernels = [ngd.kernels.layerwise_ntk(each) for each in (general, lin)]
    assert relative_error(*kernels) < 1e-12


@pytest.mark.parametrize("damping", [0.0, 1e-3])
@pytest.mark.parametrize("name", BY_GROUPS)
def test_natural_gradients_and_maps_equal_those_of_the_layers(both, name, damping):
    p, (lin, general), (at, general_at) = both
    approximation = ngd.fisher.by_name(name)
    found, wanted = (approximation.natural_gradient(x, p.residual, damping) for x in (general, lin))
    assert jax.tree.structure(found) == jax.tree.structure(p.params)
    assert relative_error(flat(found), flat(wanted)) < 1e-9
    found = approximation.function_space_map(general, damping, general_at)
    assert relative_error(found, approximation.function_space_map(lin, damping, at)) < 1e-9


def test_conjugate_gradients_serve_functions_too(both):
    p, (lin, general), _ = both
    found = ngd.fisher.Exact(solver="cg").natural_gradient(general, p.residual, 1e-2)
    wanted = ngd.fisher.Exact().natural_gradient(lin, p.residual, 1e-2)
    assert relative_error(flat(found), flat(wanted)) < 1e-7


def test_products_are_with_the_jacobian_of_autodiff(both):
    p, (_, general), _ = both
    rng = np.random.default_rng(0)
    tangent = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape)), p.params)
    _, wanted = jax.jvp(lambda w: p.network.apply(w, p.x), (p.params,), (tangent,))
    assert relative_error(general.jvp(tangent), wanted) < 1e-12
    _, pull = jax.vjp(lambda w: p.network.apply(w, p.x), p.params)
    assert relative_error(flat(general.vjp(p.residual)), flat(pull(p.residual)[0])) < 1e-12


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_predictions_take_a_function(both, loss):
    p, (lin, general), _ = both
    exact, targets = ngd.fisher.Exact(ngd.fisher.TrueFisher(loss)), jax.nn.softmax(p.targets)
    found, wanted = (
        ngd.dynamics.predict(exact, x, targets, 0.5, 3, 1e-3, loss=loss).losses
        for x in (general, lin)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("name", ["kfac", "kfac-tridiagonal", "unit-wise"])
def test_what_needs_layers_says_so(both, name):
    p, (_, general), _ = both
    approximation = ngd.fisher.by_name(name)
    with pytest.raises(InputError, match=r"inputs and units of affine layers"):
        approximation.natural_gradient(general, p.residual, 1e-3)
    with pytest.raises(InputError, match=r"inputs and units of affine layers"):
        approximation.function_space_map(general, 1e-3)
    with pytest.raises(InputError, match=r"inputs and units of affine layers"):
        approximation.layer_maps(general, 1e-3)


def deep(params, x):
    """Twelve maps in a dict, whose keys JAX sorts as text."""
    h = x
    for index in range(12):
        h = jnp.tanh(
            h @ params["model"][f"layer_{index}"]["w"] + params["model"][f"layer_{index}"]["b"]
        )
    return h


@pytest.fixture(scope="module")
def dictionary():
    keys = jax.random.split(jax.random.key(0), 12)
    layers = {
        f"layer_{i}": {"w": jax.random.normal(k, (3, 3)), "b": jnp.zeros(3)}
        for i, k in enumerate(keys)
    }
    return {"model": layers}, jax.random.normal(jax.random.key(1), (4, 3))


def test_groups_are_in_the_order_of_their_numbers(dictionary):
    lin = ngd.networks.linearize_function(deep, *dictionary)
    assert lin.grouping.names == tuple(f"model/layer_{i}" for i in range(12))
    assert lin.layers[10].layout.num_units == 12


def test_groups_can_be_chosen(dictionary):
    params, x = dictionary
    first = [f"model/layer_{i}" for i in (10, 11)]
    rest = [f"model/layer_{i}" for i in range(10)]
    lin = ngd.networks.linearize_function(deep, params, x, groups=(*first, *rest))
    assert lin.grouping.names[:2] == tuple(first)
    whole = ngd.networks.linearize_function(deep, params, x, groups=("model",))
    v = jnp.ones_like(lin.outputs)
    one_block = ngd.fisher.BlockDiagonal().natural_gradient(whole, v, 1e-2)
    exact = ngd.fisher.Exact().natural_gradient(lin, v, 1e-2)
    assert relative_error(flat(one_block), flat(exact)) < 1e-10
    # The control: blocks of the layers are another matrix.
    blocks = ngd.fisher.BlockDiagonal().natural_gradient(lin, v, 1e-2)
    assert relative_error(flat(blocks), flat(exact)) > 1e-2


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (("model/layer_1",), "'model/layer_0/b' is in no group"),
        (("model", "model/layer_1"), "'model/layer_1/b' is in more than one group"),
        (("model", "other"), "group 'other' has no parameter"),
    ],
)
def test_groups_that_are_no_partition_say_why(dictionary, groups, message):
    with pytest.raises(InputError, match=message):
        ngd.networks.linearize_function(deep, *dictionary, groups=groups)


def test_jit_with_static_groups(dictionary):
    linearize = jax.jit(ngd.networks.linearize_function, static_argnums=(0, 3))
    lin = linearize(deep, *dictionary, None)
    plain = ngd.networks.linearize_function(deep, *dictionary)
    assert relative_error(ngd.kernels.ntk(lin), ngd.kernels.ntk(plain)) < 1e-12


def test_wrong_functions_and_parameters_say_what_is_wanted(dictionary):
    params, x = dictionary
    with pytest.raises(InputError, match=r"gives \(4,\); it must give one array \(N, C\), N = 4"):
        ngd.networks.linearize_function(lambda p, x: deep(p, x)[:, 0], params, x)
    with pytest.raises(InputError, match=r"'step' is of type int"):
        ngd.networks.linearize_function(deep, {**params, "step": jnp.zeros((), int)}, x)
    # A whole equinox module: its activation is a leaf too.
    with pytest.raises(InputError, match="'activation' is of type function, not floating: split"):
        ngd.networks.linearize_function(deep, {**params, "activation": deep}, x)
    with pytest.raises(InputError, match="gives numbers of type int"):
        ngd.networks.linearize_function(lambda p, x: jnp.ones((4, 1), int), params, x)
    with pytest.raises(InputError, match="groups is 'model'; it must be a sequence"):
        ngd.networks.linearize_function(deep, params, x, groups="model")
    with pytest.raises(InputError, match="no array"):
        ngd.networks.linearize_function(lambda p, x: x, {}, x)
    lin = ngd.networks.linearize_function(deep, params, x)
    with pytest.raises(InputError, match="a tree like the parameters"):
        lin.jvp({"w": jnp.ones(3)})


def test_samples_that_see_each_other_are_refused(dictionary):
    params, x = dictionary

    def normalised(params, x):
        h = deep(params, x)
        return h - h.mean(0)

    def standardised(params, x):
        # Of one sample 0/0: a comparison with NaN must not pass.
        h = deep(params, x)
        return (h - h.mean(0)) / h.std(0)

    for apply in (normalised, standardised):
        with pytest.raises(InputError, match="samples must not see each other"):
            ngd.networks.linearize_function(apply, params, x)


def test_numbers_that_are_not_finite_or_too_short_are_refused(dictionary):
    params, x = dictionary
    cases = (
        (params, x.at[1, 0].set(jnp.nan), r"x has a NaN or infinity at index \(1, 0\)"),
        (jax.tree.map(lambda w: w * jnp.inf, params), x, r"params\['model'\].* has a NaN or inf"),
        (params, x.astype(int), "x is an array of int64"),
        (params, [[1.0]], "x is a list; it must be a floating array"),
    )
    for p, inputs, message in cases:
        with pytest.raises(InputError, match=message):
            ngd.networks.linearize_function(deep, p, inputs)
    for dtype in (jnp.bfloat16, jnp.float16):
        short = jax.tree.map(lambda w, dtype=dtype: w.astype(dtype), (params, x))
        with pytest.raises(InputError, match=f"of type {jnp.dtype(dtype).name}, which no solve"):
            ngd.networks.linearize_function(deep, *short)
    with pytest.raises(InputError, match=r"apply\(params, x\) has a NaN or infinity at index"):
        ngd.networks.linearize_function(lambda p, x: jnp.exp(1e6 + deep(p, x)), params, x)


def test_gradients_have_the_types_of_their_parameters(dictionary):
    params, x = dictionary
    mixed = {**params, "scale": jnp.ones((), "float32")}
    lin = ngd.networks.linearize_function(
        lambda p, x: p["scale"] * deep(p, x), mixed, x, ("model", "scale")
    )
    gradient = ngd.fisher.Exact().natural_gradient(lin, jnp.ones_like(lin.outputs), 1e-2)
    found, wanted = (jax.tree.map(lambda a: a.dtype, tree) for tree in (gradient, mixed))
    assert found == wanted


def test_stax_is_a_function_too():
    """A list of tuples, with empty ones for the activations."""
    params = [(jnp.ones((3, 4)), jnp.zeros(4)), (), (jnp.ones((4, 2)), jnp.zeros(2))]

    def apply(params, x):
        (w1, b1), _, (w2, b2) = params
        return jnp.tanh(x @ w1 + b1) @ w2 + b2

    lin = ngd.networks.linearize_function(apply, params, jnp.eye(3))
    assert lin.grouping.names == ("0", "2")
    gradient = ngd.fisher.Exact().natural_gradient(lin, jnp.ones((3, 2)), 0.1)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
