"""Networks of any shape: their factors are autodiff's Jacobian, every approximation is the dense one."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dense import pseudo_inverse
from forward_functions import BUILDERS, W, any_problem, dense, pool_tokens, residual

import ngd_theory as ngd
from ngd_theory.errors import InputError, NotPredictedError
from ngd_theory.networks import Convolution, Dense, Embedding, ScaleShift, network

NAMES = tuple(BUILDERS)


def as_rows(part):
    """Dicts of (NC, ...) arrays as one (NC, p) matrix, the bias last."""
    return np.concatenate([np.reshape(v, (len(v), -1)) for v in in_order(part)], axis=1)


def in_order(part):
    return [part[key] for key in sorted(part, key=lambda key: (key == "bias", key))]


@pytest.mark.parametrize("name", NAMES)
def test_factors_are_the_jacobian_of_automatic_differentiation(name):
    p = any_problem(name)
    n, c = p.lin.outputs.shape
    assert len(p.lin.layers) == len(p.jacobians)
    for layer, expected in zip(p.lin.layers, p.jacobians, strict=True):
        basis = jnp.eye(n * c).reshape(n * c, n, c)
        rows = jax.jit(jax.vmap(layer.vjp))(basis)
        wanted = as_rows(expected)
        found = as_rows({key: rows[key] for key in expected})
        np.testing.assert_allclose(found, wanted, atol=1e-12 * np.abs(wanted).max())
        kernel = ngd.kernels.layer_kernel(layer)
        np.testing.assert_allclose(kernel, wanted @ wanted.T, rtol=1e-10, atol=1e-12)
    rng = np.random.default_rng(0)
    tangent = jax.tree.map(lambda v: jnp.asarray(rng.normal(size=v.shape)), p.params)
    _, pushed = jax.jvp(lambda q: p.network.apply(q, p.x), (p.params,), (tangent,))
    np.testing.assert_allclose(p.lin.jvp(tangent), pushed, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_between_two_sets_of_samples(name):
    p = any_problem(name)
    expected = sum(
        as_rows(a) @ as_rows(b).T for a, b in zip(p.jacobians_at, p.jacobians, strict=True)
    )
    np.testing.assert_allclose(ngd.kernels.ntk(p.at, p.lin), expected, rtol=1e-10, atol=1e-11)


def blocks(name, p):
    """G, dense, in the order of the parts' rows; written with autodiff's Jacobians and, for K-FAC, a and delta."""
    n = p.lin.num_samples
    rows = [as_rows(j) for j in p.jacobians]
    whole = np.concatenate(rows, axis=1)
    fisher = whole.T @ whole / n
    ends = np.cumsum([0, *(r.shape[1] for r in rows)])
    masks = {
        "exact": lambda i, j: True,
        "block-diagonal": lambda i, j: i == j,
        "block-tridiagonal": lambda i, j: abs(i - j) <= 1,
    }
    if name in masks:
        mask = np.zeros_like(fisher)
        for i in range(len(rows)):
            for j in range(len(rows)):
                if masks[name](i, j):
                    mask[ends[i] : ends[i + 1], ends[j] : ends[j + 1]] = 1
        return fisher * mask
    if name == "entry-wise":
        return np.diag(np.diag(fisher))
    if name == "unit-wise":
        units = np.concatenate([unit_numbers(j, k) for k, j in enumerate(p.jacobians)])
        return fisher * (units[:, None] == units[None, :])
    raise AssertionError(name)


def unit_numbers(part, number):
    """Which unit each parameter belongs to; the parameters of a group are units of their own."""
    if "weight" not in part:
        size = sum(np.prod(v.shape[1:], dtype=int) for v in in_order(part))
        return 1e6 * number + np.arange(size)
    return np.concatenate(
        [
            np.broadcast_to(np.arange(v.shape[-1]), v.shape[1:]).ravel() + 1e6 * number
            for v in in_order(part)
        ]
    )


def check_map(approximation, p, gram, damping, tolerance=1e-8):
    n = p.lin.num_samples
    rows = np.concatenate([as_rows(j) for j in p.jacobians], axis=1)
    there = np.concatenate([as_rows(j) for j in p.jacobians_at], axis=1)
    if damping:
        solution = np.linalg.solve(gram + damping * np.eye(len(gram)), rows.T)
    else:
        solution = pseudo_inverse(gram) @ rows.T
    for at, expected in ((None, rows @ solution / n), (p.at, there @ solution / n)):
        found = approximation.function_space_map(p.lin, damping, at)
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < tolerance, error
    residual = np.random.default_rng(3).normal(size=p.lin.outputs.shape)
    gradient = approximation.natural_gradient(p.lin, jnp.asarray(residual), damping)
    assert jax.tree.structure(gradient) == jax.tree.structure(p.params)
    pushed = np.asarray(p.lin.jvp(gradient)).ravel()
    expected = rows @ solution @ residual.ravel() / n
    assert np.linalg.norm(pushed - expected) < tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "method", ["exact", "block-diagonal", "block-tridiagonal", "unit-wise", "entry-wise"]
)
def test_every_approximation_equals_the_dense_one(name, method):
    p = any_problem(name)
    check_map(ngd.fisher.by_name(method), p, blocks(method, p), 1e-2)


def kfac_blocks(p, damping):
    """``(B + rho_B) (x) (A + rho_A)`` of every part, in the order of the weight and the bias."""
    found = []
    for layer, part in zip(p.lin.layers, p.jacobians, strict=True):
        a, delta = np.asarray(layer.inputs), np.asarray(layer.sensitivities)
        n, _, t, m = delta.shape
        if isinstance(layer.layout, ngd.networks.EmbeddingLayout):
            whole = np.zeros((n, t, layer.layout.vocabulary))
            for place, token in enumerate(np.asarray(layer.layout.tokens)):
                if token < layer.layout.vocabulary:
                    whole[:, :, token] = a[:, :, place]
            a = whole
        a, delta = a.reshape(n * t, -1), delta.reshape(-1, m)
        moment_a, moment_b = a.T @ a / n, delta.T @ delta / (n * t)
        root = np.eye(len(moment_a)), np.eye(m)
        gram = np.kron(moment_a + damping * root[0], moment_b + damping * root[1])
        order = len(moment_a) * m
        assert order == as_rows(part).shape[1]
        found.append(gram)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_kfac_equals_the_dense_one(name):
    p, rho = any_problem(name), 1e-2
    n = p.lin.num_samples
    method = ngd.fisher.KFAC(damping_split="equal")
    expected, there = 0.0, 0.0
    pairs = zip(p.jacobians, p.jacobians_at, kfac_blocks(p, rho**0.5), strict=True)
    for part, part_at, gram in pairs:
        solved = np.linalg.solve(gram, as_rows(part).T) / n
        expected, there = expected + as_rows(part) @ solved, there + as_rows(part_at) @ solved
    for at, wanted in ((None, expected), (p.at, there)):
        found = method.function_space_map(p.lin, rho, at)
        assert np.linalg.norm(found - wanted) < 1e-8 * np.linalg.norm(wanted)


def test_one_training_step_is_the_predicted_one():
    p = any_problem("causal")
    targets = jnp.ones_like(p.lin.outputs)
    method, epsilon = ngd.fisher.by_name("exact"), 1e-5
    found = ngd.dynamics.train(
        p.network, p.params, p.x, targets, method, 0.5, 2, 1e-8, p.x_test, laziness=epsilon
    )
    predicted = ngd.dynamics.predict(method, p.lin, targets, 0.5, 2, 1e-8, at=p.at)
    np.testing.assert_allclose(found.outputs, predicted.outputs, atol=1e-4)
    np.testing.assert_allclose(found.test_outputs, predicted.test_outputs, atol=1e-3)


def test_a_large_vocabulary_is_never_formed():
    net = network(
        lambda layers, x: layers["out"](layers["embed"](x).mean(1)),
        {"embed": Embedding(3_000_000, 2), "out": Dense(2, 1)},
        (4,),
        vocabulary=3_000_000,
    )
    params = jax.eval_shape(net.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((5, 4), jnp.int32)
    lin = jax.eval_shape(lambda p, x: ngd.networks.linearize.__wrapped__(net, p, x), params, x)
    assert lin.layers[0].inputs.shape == (5, 4, 20)


def test_sizes_of_a_forward_function_are_not_predicted():
    p = any_problem("residual")
    assert not p.network.is_chain
    with pytest.raises(NotPredictedError, match="measured_constant"):
        ngd.theory.isotropy_constant(ngd.fisher.by_name("kfac"), p.network, 4)
    with pytest.raises(NotPredictedError):
        _ = p.network.blocks


def test_a_network_can_be_copied():
    net = ngd.networks.transformer(3, 4, 6, 1, 2)
    copy = pickle.loads(pickle.dumps(net))
    assert copy == net and hash(copy) == hash(net)


def _batch_norm(layers, x):
    h = layers["in"](x)
    return layers["out"](h - h.mean(0))


def _in_a_vmap(layers, x):
    return layers["out"](jax.vmap(layers["in"])(x))


def _in_a_jit(layers, x):
    return layers["out"](jax.jit(lambda h: layers["in"](h))(x))


def _out_of_order(layers, x):
    first = layers["out"](jnp.pad(x, ((0, 0), (0, W - 5))))
    return layers["in"](jnp.tile(first, 5))


def tokens_beyond_the_embedding():
    layers = {"embed": Embedding(7, 4), "a": Dense(4, 4), "out": Dense(4, 1)}
    return network(pool_tokens, layers, (3,), vocabulary=9)


def _wrong_axis(layers, x):
    return layers["out"](layers["in"](x[None])[0])


@pytest.mark.parametrize(
    ("forward", "match"),
    [
        (lambda layers, x: layers["there"](x), "asks for layer 'there'"),
        (lambda layers, x: layers["in"](x), "never calls layer 'out'"),
        (lambda layers, x: layers["out"](layers["in"](x))[:, 0], r"one array \(N, C\)"),
        (_batch_norm, "change with the other samples"),
        (_in_a_vmap, "jax.vmap"),
        (_in_a_jit, "layers.scan"),
        (_wrong_axis, "first axis"),
        (_out_of_order, "must be the last"),
        (lambda layers, x: jnp.log(-jnp.abs(layers["out"](layers["in"](x)))), "NaN or infinity"),
    ],
)
def test_forward_functions_that_cannot_be_linearised_are_refused(forward, match):
    layers = {"in": Dense(5, W, *(1.0, 0.1)), "out": Dense(W, 1)}
    with pytest.raises(InputError, match=match):
        network(forward, layers, (5,))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: network(residual, {}, (5,)), "empty"),
        (lambda: network(residual, {"in": 3}, (5,)), r"layers\['in'\] is 3"),
        (lambda: Dense(0, 3), "fan_in is 0"),
        (lambda: Dense(3, 3, weight_std=-1.0), "weight_std"),
        (lambda: Embedding(0, 3), "vocabulary"),
        (
            lambda: Dense(3, 2)(Dense(3, 2).init(jax.random.key(0), float), jnp.ones((2, 4))),
            "last axis",
        ),
        (lambda: Embedding(3, 2)({"weight": jnp.ones((3, 2))}, jnp.ones((2, 4))), "vocabulary="),
        (lambda: tokens_beyond_the_embedding(), "has 7 tokens and is given token 8"),
        (lambda: ScaleShift(0), "units"),
        (lambda: ScaleShift(4)(ScaleShift(4).init(None, float), jnp.ones((2, 4, 1))), "last axis"),
        (lambda: Convolution((4, 4, 3), 2, 7, padding="valid"), "does not fit"),
        (lambda: Convolution((4, 4, 3), 2, padding=((-1, -1), (-1, -1)), kernel_size=3), "fit"),
        (lambda: Convolution((4, 4, 3), 4, groups=2), "3 channels are no multiple"),
        (lambda: Convolution((4, 4, 4), 3, groups=2), "3 units are no multiple"),
        (lambda: Convolution((4, 4, 4), 3, stride=(1, 1, 1)), "2 dimensions"),
        (lambda: Convolution((4, 4, 4), 3, padding=((0, 0),)), "padding"),
        (lambda: ngd.networks.transformer(3, 4, 6, 1, 1, heads=4), "multiple of the 4 heads"),
        (lambda: ngd.networks.transformer(3, None, 6, 1, 1), "vocabulary"),
        (lambda: ngd.networks.resnet(3, 4, 0, 1), "blocks"),
        (lambda: ngd.networks.resnet(3, 4, 1, 1, residual_scale=-1.0), "residual_scale"),
    ],
)
def test_wrong_layers_are_answered_in_words(make, match):
    with pytest.raises(InputError, match=match):
        make()


@pytest.mark.parametrize(
    ("x", "match"),
    [(np.ones((2, 3)), "whole numbers"), (np.full((2, 3), 9), "from 0 to 8")],
)
def test_tokens_are_checked(x, match):
    p = any_problem("embedding")
    with pytest.raises(InputError, match=match):
        p.network.apply(p.params, jnp.asarray(x))


def test_a_function_of_positive_inputs_is_no_fault():
    layers = {"in": Dense(5, W), "out": Dense(W, 1)}
    net = network(lambda layers, x: layers["out"](layers["in"](jnp.log(x))), layers, (5,))
    assert net.output_dim == 1


def test_gradients_of_another_layer_are_noticed():
    """The control of the first test: a layer's factors with a shift at the wrong call are not its Jacobian."""
    p = any_problem("tied")
    layer = p.lin.layers[1]
    swapped = ngd.networks.LayerLinearization(
        layer.inputs[:, ::-1], layer.sensitivities, layer.layout
    )
    found = ngd.kernels.layer_kernel(swapped)
    wanted = as_rows(p.jacobians[1])
    assert np.linalg.norm(found - wanted @ wanted.T) > 0.05 * np.linalg.norm(wanted @ wanted.T)


def test_a_description_names_every_layer():
    text = any_problem("gamma and beta").lin.describe()
    assert "norm_a (ScaleShift)" in text and "a group" in text
    assert "in (Dense)" in text and "factored, 1 position" in text
    assert len(text.splitlines()) == 1 + len(any_problem("gamma and beta").lin.layers)


def test_dense_networks_of_both_kinds_are_one():
    """`mlp` is the chain of the same layers; a forward function that does the same gives the same numbers."""
    chain = ngd.networks.mlp(5, [W], 2, "tanh", 1.2, 0.3)
    own = network(lambda layers, x: layers["2"](jnp.tanh(layers["1"](x))), dict(chain.layers), (5,))
    params = chain.init(jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)))
    one, other = (ngd.networks.linearize(net, params, x) for net in (chain, own))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)
    assert dense(residual, "a", "b").depth == 4
