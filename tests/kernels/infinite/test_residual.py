"""Residual networks at infinite width: our recursion, neural-tangents, finite networks and central differences agree.

The gate of the finite networks is that of test_finite_width.py: Student's t of the mean over seeds, Bonferroni over
layers and cases.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ngd_theory import dynamics, fisher, kernels
from ngd_theory.errors import NotPredictedError
from ngd_theory.kernels import infinite
from ngd_theory.kernels.infinite import bridge
from ngd_theory.networks import linearize, recurrent, resnet, transformer

FALSE_ALARM, SEEDS = 1e-4, 20
#: Activation, sigma_b, norm, residual scale.
CASES = [
    ("relu", 0.0, "layer", None),
    ("erf", 0.3, "rms", 0.8),
    ("relu", 0.3, "none", None),
]
BOUND = stats.t.isf(FALSE_ALARM / (5 * len(CASES)) / 2, SEEDS - 1)


def network(activation, bias_std, norm, scale, width=6, shape=5, outputs=2):
    return resnet(
        shape, width, 3, outputs, activation, 1.3, bias_std, norm=norm, residual_scale=scale
    )


@pytest.mark.parametrize("case", [*CASES, ("gelu", 0.2, "layer", None)], ids=str)
def test_every_layer_agrees_with_neural_tangents(case, x, other, installed):
    net = network(*case)
    ours = infinite.layerwise_ntk(net, x[:3], other, source="closed-form")
    np.testing.assert_allclose(bridge.layerwise_ntk(net, x[:3], other), ours, rtol=1e-11)
    for function in (infinite.ntk, infinite.nngp):
        theirs = function(net, x[:3], other, source="neural-tangents")
        np.testing.assert_allclose(theirs, function(net, x[:3], other), rtol=1e-11)
    np.testing.assert_allclose(ours.sum(0), infinite.ntk(net, x[:3], other), rtol=1e-12)
    # Equal, opposite and parallel samples, each with itself and with others.
    np.testing.assert_allclose(
        infinite.ntk(net, x), infinite.ntk(net, x, source="neural-tangents"), rtol=1e-6
    )


@pytest.mark.parametrize("shape", [5, (4, 5, 2)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_parameters_give_the_same_outputs_both_ways(case, shape, installed):
    net = network(*case, shape=shape)
    x = jax.random.normal(jax.random.key(0), (3, *net.input_shape))
    stax = infinite.to_stax(net)
    params = net.init(jax.random.key(3))
    there = infinite.params_to_stax(net, params)
    np.testing.assert_allclose(stax.apply_fn(there, x), net.apply(params, x), atol=1e-12)
    back = infinite.params_from_stax(net, there)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), back, params))


@pytest.mark.parametrize(
    ("case", "shape", "width"),
    [*((case, 5, 512) for case in CASES), (CASES[0], (4, 5, 2), 128)],
    ids=str,
)
def test_every_layer_is_the_mean_over_wide_networks(case, shape, width, request):
    if shape != 5:
        request.getfixturevalue("installed")
    net = network(*case, width, shape, outputs=1)
    x = jax.random.normal(jax.random.key(0), (3, *net.input_shape), "float32")
    limit = np.asarray(infinite.layerwise_ntk(net, x), float)
    generator = np.random.default_rng(7)

    @jax.jit
    def one(params):
        return kernels.layerwise_ntk(linearize(net, params, x))

    def draw():
        return tuple(
            {k: generator.standard_normal(v, "float32") for k, v in layer.shapes.items()}
            for layer in net.affine
        )

    sampled = jnp.stack([one(draw()) for _ in range(SEEDS)])
    values = np.asarray(jnp.mean(sampled * jnp.sign(limit), axis=(2, 3)), float)
    exact = np.mean(np.abs(limit), axis=(1, 2))
    spread = values.std(axis=0, ddof=1) / SEEDS**0.5
    deviation = np.abs(values.mean(axis=0) - exact) / np.hypot(spread, 1e-5 * exact)
    assert deviation.max() < BOUND, deviation
    # Negative control: without the square of the residual scale the blocks' shares would be outside the gate.
    wrong = exact[1:-1] / net.function.scale**2
    assert (np.abs(values.mean(axis=0)[1:-1] - wrong) > BOUND * spread[1:-1]).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_derivatives_are_those_of_central_differences(case, other):
    net = network(*case)

    def of_first(row):
        return infinite.ntk(net, other.at[0].set(row)[:1], other[1:]).sum()

    steps = 1e-5 * jnp.eye(5)
    differences = [(of_first(other[0] + h) - of_first(other[0] - h)) / 2e-5 for h in steps]
    for derivative in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(
            derivative(of_first)(other[0]), differences, rtol=1e-6, atol=1e-8
        )


def test_natural_gradients_are_isotropic_there_too(other):
    # The input kernels have rank 5 at 4 samples: K-FAC's constant is N (L - 1) + 1.
    net = network("relu", 0.0, "layer", None)
    for name, constant in (
        ("exact", 1),
        ("block-diagonal", 5),
        ("block-tridiagonal", 2),
        ("kfac", 17),
    ):
        maps = dynamics.predictor(fisher.by_name(name), net, other, 2 * other)
        np.testing.assert_allclose(maps.train_map, constant * np.eye(4), atol=1e-7 * constant)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (transformer(3, 5, 4, 1, 1), "softmax of random scores"),
        (recurrent(3, 5, 4, 1), "tied over steps"),
    ],
    ids=["transformer", "recurrent"],
)
def test_what_has_no_limit_says_why(net, words, installed):
    x = jnp.ones((2, *net.input_shape))
    for function in (infinite.ntk, infinite.nngp, infinite.layerwise_ntk):
        with pytest.raises(NotPredictedError, match=words):
            function(net, x)
    with pytest.raises(NotPredictedError, match="closed-form recursion"):
        infinite.layer_kernels(net, x)


def test_the_limit_of_unit_wise_is_for_perceptrons(other):
    with pytest.raises(NotPredictedError, match="perceptrons only"):
        dynamics.predictor(
            fisher.by_name("unit-wise"), network(*CASES[0]), other, other, key=jax.random.key(0)
        )
