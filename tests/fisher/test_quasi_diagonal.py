"""Ollivier's quasi-diagonal reduction: his formulas, what it does not see, and what it is without a bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_NAME, problem, relative_error
from dense import flatten

import ngd_theory as ngd

QUASI, DIAGONAL = ngd.fisher.QuasiDiagonal(), ngd.fisher.EntryWise()
BIASED, BARE = BY_NAME["L3 C3 gelu bias"], BY_NAME["L3 C1 erf, N>M"]


def published(p):
    """The update of Ollivier 2015, section 3.2, entry by entry, from each unit's block of the dense Fisher."""
    gradient = p.dense.jacobian.T @ np.asarray(p.residual).ravel() / p.lin.num_samples
    step = np.zeros_like(gradient)
    for unit in np.unique(p.dense.unit):
        *weights, bias = np.flatnonzero(p.dense.unit == unit)
        f = p.dense.fisher.astype(float)
        for i in weights:
            over = f[bias, i] / f[bias, bias]
            step[i] = (gradient[i] - over * gradient[bias]) / (f[i, i] - over * f[bias, i])
        rest = sum(f[bias, i] / f[bias, bias] * step[i] for i in weights)
        step[bias] = gradient[bias] / f[bias, bias] - rest
    return step


def test_at_damping_zero_it_is_the_published_update():
    p = problem(BIASED)
    found = flatten(QUASI.natural_gradient(p.lin, p.residual, 0.0))
    assert relative_error(found, published(p)) < 1e-9
    # The diagonal alone, and the row of the bias with zeros between the weights, are other matrices.
    diagonal = flatten(DIAGONAL.natural_gradient(p.lin, p.residual, 0.0))
    assert relative_error(diagonal, published(p)) > 0.05
    arrow = np.zeros_like(published(p))
    gradient = p.dense.jacobian.T @ np.asarray(p.residual).ravel() / p.lin.num_samples
    smallest = []
    for unit in np.unique(p.dense.unit):
        index = np.flatnonzero(p.dense.unit == unit)
        block = p.dense.fisher[np.ix_(index, index)].astype(float)
        bare = np.diag(np.diag(block))
        bare[-1], bare[:, -1] = block[-1], block[-1]
        smallest.append(np.linalg.eigvalsh(bare)[0] / np.trace(bare))
        arrow[index] = np.linalg.solve(bare, gradient[index])
    assert relative_error(arrow, published(p)) > 0.05
    assert min(smallest) < -1e-3  # not even positive


@pytest.mark.parametrize("damping", [0.0, 1e-3])
def test_without_biases_it_is_the_diagonal(damping):
    p = problem(BARE)
    found, expected = (
        flatten(a.natural_gradient(p.lin, p.residual, damping)) for a in (QUASI, DIAGONAL)
    )
    assert relative_error(found, expected) < 1e-12
    with_bias = problem(BIASED)
    found, expected = (
        flatten(a.natural_gradient(with_bias.lin, with_bias.residual, damping))
        for a in (QUASI, DIAGONAL)
    )
    assert relative_error(found, expected) > 0.05


@pytest.mark.parametrize("convolutional", [False, True])
def test_a_constant_added_to_the_inputs_of_a_layer_is_not_seen(convolutional):
    """With ``b -> b - W c`` the function is the same, and so are its maps; the diagonal's are not."""
    rng = np.random.default_rng(0)
    if convolutional:
        net = ngd.networks.cnn((3, 3, 2), [4], 1, activation="tanh", bias_std=0.5, padding="valid")
        x = rng.normal(size=(5, 3, 3, 2))
    else:
        net = ngd.networks.mlp(4, [6], 1, activation="tanh", bias_std=0.5)
        x = rng.normal(size=(5, 4))
    first, *others = net.init(jax.random.key(0))
    lin = ngd.networks.linearize(net, (first, *others), jnp.asarray(x))
    scale = float(lin.layers[0].inputs[0, 0, 0] / x.ravel()[0])
    constant = rng.normal(size=x.shape[-1])
    weight = np.asarray(first["weight"])
    # Every position sees the same constant of each channel.
    shift = np.tensordot(constant, weight.reshape(-1, x.shape[-1], weight.shape[-1]).sum(0), 1)
    moved = {**first, "bias": first["bias"] - scale * shift / 0.5}
    there = ngd.networks.linearize(net, (moved, *others), jnp.asarray(x + constant))
    np.testing.assert_allclose(there.outputs, lin.outputs, rtol=1e-10)
    maps = [QUASI.function_space_map(y, 0.0) for y in (lin, there)]
    assert relative_error(maps[1], maps[0]) < 1e-9
    # A weight of little variance beside its mean keeps its digits.
    far = {**first, "bias": first["bias"] - 1e4 * scale * shift / 0.5}
    further = ngd.networks.linearize(net, (far, *others), jnp.asarray(x + 1e4 * constant))
    assert relative_error(QUASI.function_space_map(further, 0.0), maps[0]) < 1e-6
    diagonal = [DIAGONAL.function_space_map(y, 0.0) for y in (lin, there)]
    assert relative_error(diagonal[1], diagonal[0]) > 0.01


def test_weights_without_anything_of_their_own_move_with_the_bias():
    """A constant input is another bias: the limit is that of a small damping, split as their sizes are."""
    # No unit is saturated: one that is has a little of its own, which a small damping takes.
    net = ngd.networks.mlp(3, [5], 1, activation="tanh", weight_std=0.7, bias_std=0.5)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3))).at[:, 0].set(1.0)
    lin = ngd.networks.linearize(net, net.init(jax.random.key(1)), x)
    residual = jnp.arange(4.0)[:, None] - 1
    limit, small = (flatten(QUASI.natural_gradient(lin, residual, rho)) for rho in (0.0, 1e-11))
    assert relative_error(small, limit) < 1e-5
    # Where a sample is alone, so is every unit's direction.
    one = ngd.networks.linearize(net, net.init(jax.random.key(1)), x[:1])
    k = QUASI.function_space_map(one, 0.0)
    units = 5 + 1
    np.testing.assert_allclose(k, [[float(units)]], rtol=1e-9)


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_it_keeps_a_dispersion_at_every_width(name):
    found = []
    for width in (64, 256, 1024):
        net = ngd.networks.mlp(20, [width], 1, activation=name, bias_std=0.3)
        x = jnp.asarray(np.random.default_rng(2).normal(size=(12, 20)))
        lin = ngd.networks.linearize(net, net.init(jax.random.key(2)), x)
        found.append(float(ngd.theory.isotropy(QUASI.function_space_map(lin, 1e-10)).dispersion))
    assert min(found) > 0.2
    assert found[-1] > 0.7 * found[0]
