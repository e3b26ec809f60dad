"""Ranks and constants measured on a linearisation, against singular values and the trace of K at damping 0."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory.errors import InputError, NotPredictedError
from ngd_theory.networks import Convolution, Dense, MaxPool, layer_norm

linearize = jax.jit(ngd.networks.linearize, static_argnums=0)


def normed(layers, x):
    """Layer normalisation between the layers: the residual K-FAC's alpha is of ranks, not of sizes alone."""
    h = layers["in"](x)
    h = layers["a"](jnp.tanh(layer_norm(h)))
    return layers["out"](layer_norm(h))


def pooled(layers, x):
    h = jnp.tanh(MaxPool(2)(layers["conv"](x)))
    return layers["out"](h.reshape(len(h), -1))


NETWORKS = {
    "layer normalisation": ngd.networks.network(
        normed, {"in": Dense(6, 24), "a": Dense(24, 24), "out": Dense(24, 1)}, (6,)
    ),
    "residual": ngd.networks.resnet(6, 24, 2, 1, "tanh"),
    "max pooling": ngd.networks.network(
        pooled,
        {"conv": Convolution((4, 4, 3), 40, kernel_size=3), "out": Dense(160, 1)},
        (4, 4, 3),
    ),
    "attention": ngd.networks.transformer(3, 12, 24, 1, 1, "tanh"),
    "recurrence": ngd.networks.recurrent(3, 12, 24, 1),
}
#: tr K of K-FAC at N = 4, by hand: N a dense layer, N T^2 one of T positions, N T (T-1) for q, k and a state from 0.
BY_HAND = {
    "layer normalisation": 4 + 4 + 1,
    "residual": 3 * 4 + 1,
    "attention": 5 * 4 * 9 + 2 * 4 * 6 + 1,
    "recurrence": 4 * 9 + 4 * 3 * 2 + 1,
}
CONSTANTS = ("exact", "block-diagonal", "block-tridiagonal", "kfac", "unit-wise")


def linearization(name, n=4):
    net = NETWORKS[name]
    x = jax.random.normal(jax.random.key(1), (n, *net.input_shape))
    return net, linearize(net, net.init(jax.random.key(0)), x)


def trace(approximation, lin):
    k = np.asarray(approximation.function_space_map(lin, 0.0))
    return float(np.trace(k)) / len(k)


@pytest.mark.parametrize("name", NETWORKS)
def test_ranks_are_those_of_singular_values(name):
    _, lin = linearization(name)
    for layer, size in zip(lin.layers, ngd.theory.measured_sizes(lin), strict=True):
        a, delta = np.asarray(layer.inputs), np.asarray(layer.sensitivities)
        n, c, t, m = delta.shape
        jacobian = np.einsum("ntp,nctm->ncpm", a, delta).reshape(n * c, -1)
        rank = np.linalg.matrix_rank
        assert size.rank_of_inputs == rank(a.reshape(n * t, -1), rtol=1e-7)
        assert size.rank_of_sensitivities == rank(delta.reshape(-1, m), rtol=1e-7)
        assert size.rank_of_jacobian == rank(jacobian, rtol=1e-7)
        ranks = [[rank(delta[i, :, :, j]) for j in range(m)] for i in range(n)]
        live = (delta != 0).any((0, 1, 2)).sum()
        assert size.mean_unit_rank == pytest.approx(np.sum(ranks) / (n * live))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_constant_is_the_trace_of_the_undamped_map(name):
    _, lin = linearization(name)
    for approximation in map(ngd.fisher.by_name, CONSTANTS):
        measured = ngd.theory.measured_constant(approximation, lin)
        assert measured is not None
        np.testing.assert_allclose(
            trace(approximation, lin),
            measured,
            rtol=1e-6,
            err_msg=approximation.name,
        )
    if name in BY_HAND:
        kfac = ngd.theory.measured_constant(ngd.fisher.KFAC(), lin)
        assert kfac == pytest.approx(BY_HAND[name], rel=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_alone_predict_nothing_here(name):
    net, _ = linearization(name)
    if name != "residual":
        with pytest.raises(NotPredictedError, match="measured_constant"):
            ngd.theory.isotropy_constant(ngd.fisher.KFAC(), net, 4)


def zero_headed():
    """Only the head moves the outputs: its own kernel is there, and no other layer's."""
    net = NETWORKS["layer normalisation"]
    params = net.init(jax.random.key(0))
    params = (*params[:-1], {"weight": jnp.zeros_like(params[-1]["weight"])})
    x = jax.random.normal(jax.random.key(1), (4, *net.input_shape))
    return net, linearize(net, params, x)


@pytest.mark.parametrize("name", [*CONSTANTS, "kfac-tridiagonal"])
def test_a_zero_initialised_head_leaves_its_own_share_and_no_condition_of_the_rest_holds(name):
    net, lin = zero_headed()
    approximation = ngd.fisher.by_name(name)
    measured = ngd.theory.measured_constant(approximation, lin)
    # With so few live layers the theory states none of kfac-tridiagonal.
    assert measured == (None if name == "kfac-tridiagonal" else pytest.approx(1, rel=1e-12))
    np.testing.assert_allclose(trace(approximation, lin), 1, rtol=1e-6)
    for given in (net, None):
        conditions = ngd.theory.check_conditions(approximation, given, lin)
        broken = [c for c in conditions if not c.holds]
        assert all(c.why for c in conditions)
        if name == "exact":
            assert not broken
            continue
        layered = [c for c in broken if c.blocking and c.layer in (1, 2)]
        # unit-wise judges its units together too.
        assert {c.layer for c in layered} == {1, 2}, conditions
        # None holds because 0 of 0 is there.
        for c in conditions:
            assert not (c.holds and c.layer in (1, 2) and c.measured == c.required == 0), c


def test_a_function_has_conditions_without_a_network():
    net, lin = linearization("layer normalisation")
    params = net.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (4, *net.input_shape))
    flat = ngd.networks.linearize_function(net.apply, params, x)
    for name in ("exact", "block-diagonal", "block-tridiagonal"):
        approximation = ngd.fisher.by_name(name)
        conditions = ngd.theory.check_conditions(approximation, None, flat)
        assert conditions and all(c.holds for c in conditions if c.blocking), conditions
        assert ngd.theory.measured_constant(approximation, flat) == pytest.approx(
            ngd.theory.measured_constant(approximation, lin), rel=1e-12
        )
    copies = ngd.networks.linearize_function(net.apply, params, x[jnp.array([0, 1, 2, 0])])
    (broken,) = [
        c
        for c in ngd.theory.check_conditions(ngd.fisher.Exact(), None, copies)
        if c.name == "positive-definite-ntk"
    ]
    assert not broken.holds and "duplicated inputs" in broken.why


def test_a_model_has_conditions_without_a_network():
    eqx = pytest.importorskip("equinox")
    x = jax.random.normal(jax.random.key(1), (4, 6))
    lin = ngd.networks.linearize_model(eqx.nn.MLP(6, 1, 24, 2, jnp.tanh, key=jax.random.key(0)), x)
    kfac = ngd.fisher.KFAC()
    conditions = ngd.theory.check_conditions(kfac, None, lin)
    assert conditions and all(isinstance(c.why, str) for c in conditions)
    measured = ngd.theory.measured_constant(kfac, lin)
    assert measured is not None
    np.testing.assert_allclose(trace(kfac, lin), measured, rtol=1e-6)
    assert ngd.theory.check_conditions(ngd.fisher.Exact(), None, lin)


def test_what_is_not_finite_has_no_ranks():
    _, lin = linearization("residual")
    spoilt = replace(lin, outputs=lin.outputs.at[0, 0].set(jnp.nan))
    with pytest.raises(NotPredictedError, match="NaN or infinity"):
        ngd.theory.measured_sizes(spoilt)
    with pytest.raises(InputError):
        jax.jit(lambda y: ngd.theory.measured_constant(ngd.fisher.KFAC(), y))(lin)
