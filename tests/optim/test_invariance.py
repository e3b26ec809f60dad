"""Theorem 1 of Martens & Grosse (2015): undamped K-FAC does not see a linear change of activations.

The network with ``s_i+ = W_i+ a_{i-1}+`` and ``a_i+ = Omega_i abar(Phi_i s_i+)`` computes the same function where
``W_i = Phi_i W_i+ Omega_{i-1}``. Then ``a+ = Omega a`` and, as ``s = Phi s+``, ``delta+ = Phi^T delta``; with
V = W^T an update U+ of the one network is ``U = Omega^T U+ Phi^T`` of the other.
"""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, problem, relative_error

import ngd_theory as ngd
from ngd_theory import losses
from ngd_theory.fisher import invert_diagonal, invert_tridiagonal, kronecker_fisher
from ngd_theory.fisher.factored_damping import factored_damping
from ngd_theory.fisher.kinds import curvature_sensitivities
from ngd_theory.networks import LayerLinearization, ParameterLayout

#: Samples enough for every factor to have full rank, the bias' row included.
CASE = Case("L3 C2 tanh bias, invariance", 3, (4, 3), 2, "tanh", 40, bias_std=0.5)
LOSS = losses.by_name("sigmoid-cross-entropy")
STRUCTURES = {"block-diagonal": (0, invert_diagonal), "block-tridiagonal": (1, invert_tridiagonal)}
STEP_SIZE = 0.3


class Change(NamedTuple):
    """Omega_{i-1} of each layer's inputs and Phi_i of its units."""

    omegas: list
    phis: list

    def forward(self, matrices):
        """V+ of V."""
        return [
            jnp.linalg.solve(omega.T, v) @ jnp.linalg.inv(phi.T)
            for omega, v, phi in zip(self.omegas, matrices, self.phis, strict=True)
        ]

    def back(self, matrices):
        """V of V+."""
        return [
            omega.T @ v @ phi.T
            for omega, v, phi in zip(self.omegas, matrices, self.phis, strict=True)
        ]

    def of_rows(self, layers):
        """The layers with ``a -> Omega a``, ``delta -> Phi^T delta``."""
        return [
            LayerLinearization(y.inputs @ omega.T, y.sensitivities @ phi, plain(y))
            for omega, y, phi in zip(self.omegas, layers, self.phis, strict=True)
        ]


def plain(layer):
    """A (P, M) matrix as it is."""
    return ParameterLayout((layer.inputs.shape[-1], layer.sensitivities.shape[-1]), has_bias=False)


def random_change(seed):
    """Invertible matrices with singular values from 1/2 to 2."""
    rng = np.random.default_rng(seed)

    def invertible(size):
        left, right = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
        return jnp.asarray((left * np.geomspace(0.5, 2, size)) @ right)

    sizes = [y.layout for y in problem(CASE).lin.layers]
    return Change(
        [invertible(y.num_inputs) for y in sizes], [invertible(y.num_units) for y in sizes]
    )


@partial(jax.jit, static_argnames=("structure",))
def updates(layers, outputs, targets, structure, gamma):
    """One natural gradient, or the gradient, as a (P, M) matrix a layer."""
    residual = LOSS.residual(outputs, targets) / len(outputs)
    gradient = [y.layout.to_matrix(y.vjp(residual)) for y in layers]
    if structure == "gradient":
        return gradient
    bandwidth, invert = STRUCTURES[structure]
    root = LOSS.fisher_root(outputs)
    curved = [
        LayerLinearization(y.inputs, curvature_sensitivities(y.sensitivities, root), y.layout)
        for y in layers
    ]
    fisher = kronecker_fisher(curved, bandwidth)
    diagonal = [fisher.block(i, i) for i in range(fisher.depth)]
    rhos = [
        factored_damping(jnp.trace(a) / len(a), jnp.trace(b) / len(b), gamma) for a, b in diagonal
    ]
    return invert(fisher, rhos).apply(gradient)


def targets():
    return jax.nn.sigmoid(problem(CASE).targets)


def distance(left, right):
    return relative_error(*(np.concatenate([np.ravel(m) for m in ms]) for ms in (left, right)))


def mismatch(structure, gamma, seed):
    """How far the update of the changed rows is from the changed update."""
    p, change = problem(CASE), random_change(seed)
    own = updates(p.lin.layers, p.lin.outputs, targets(), structure, gamma)
    changed = updates(
        tuple(change.of_rows(p.lin.layers)), p.lin.outputs, targets(), structure, gamma
    )
    return distance(change.back(changed), own)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("structure", STRUCTURES)
def test_undamped_updates_commute_with_the_change(structure, seed):
    assert mismatch(structure, 0.0, seed) < 1e-8


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("structure", STRUCTURES)
def test_damped_updates_do_not(structure, seed):
    assert mismatch(structure, 0.3, seed) > 0.1
    # The less damping, the nearer.
    assert mismatch(structure, 1e-7, seed) < 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_gradients_do_not(seed):
    assert mismatch("gradient", 0.0, seed) > 0.3


# --- End to end: the changed network written out, its derivatives by autodiff -----------------------


def changed_network(change, matrices, x, shifts):
    """Outputs and inputs a+ of the network with ``a+ = Omega abar(Phi s+)``."""
    hidden, inputs = x, []
    for i, (block, v) in enumerate(zip(problem(CASE).network.blocks, matrices, strict=True)):
        layer = block.affine
        bar = layer.weight_std / layer.fan_in**0.5 * hidden
        bar = jnp.concatenate([bar, jnp.full((len(x), 1), layer.bias_std)], axis=1)
        inputs.append(bar @ change.omegas[i].T)
        s = inputs[-1] @ v + shifts[i]
        outputs = s @ change.phis[i].T
        hidden = jnp.tanh(outputs)
    return outputs, inputs


@jax.jit
def changed_linearization(change, matrices, x):
    shifts = [jnp.zeros((len(x), v.shape[1])) for v in matrices]
    outputs, inputs = changed_network(change, matrices, x, shifts)
    deltas = jax.jacrev(lambda shifts: changed_network(change, matrices, x, shifts)[0].sum(0))(
        shifts
    )
    return outputs, [
        LayerLinearization(
            a[:, None],
            jnp.moveaxis(delta, 0, 1)[:, :, None],
            ParameterLayout((a.shape[1], delta.shape[2]), has_bias=False),
        )
        for a, delta in zip(inputs, deltas, strict=True)
    ]


def as_params(matrices):
    blocks = problem(CASE).network.blocks
    return tuple(b.affine.layout.from_matrix(v) for b, v in zip(blocks, matrices, strict=True))


@jax.jit
def own_linearization(matrices, x):
    lin = ngd.networks.linearize(problem(CASE).network, as_params(matrices), x)
    return lin.outputs, lin.layers


@cache
def initial():
    p = problem(CASE)
    return [y.layout.to_matrix(w) for y, w in zip(p.lin.layers, p.params, strict=True)]


def test_changed_network_is_the_same_function_with_changed_rows():
    p, change = problem(CASE), random_change(0)
    outputs, layers = changed_linearization(change, change.forward(initial()), p.x)
    np.testing.assert_allclose(outputs, p.lin.outputs, rtol=1e-11, atol=1e-11)
    for found, expected in zip(layers, change.of_rows(p.lin.layers), strict=True):
        np.testing.assert_allclose(found.inputs, expected.inputs, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(
            found.sensitivities, expected.sensitivities, rtol=1e-10, atol=1e-11
        )


def outputs_after(linearization, matrices, structure, gamma, steps=3):
    """Outputs at other inputs after a few steps."""
    p = problem(CASE)
    for _ in range(steps):
        outputs, layers = linearization(matrices, p.x)
        update = updates(tuple(layers), outputs, targets(), structure, gamma)
        matrices = [v - STEP_SIZE * u for v, u in zip(matrices, update, strict=True)]
    return linearization(matrices, p.x_test)[0]


@pytest.mark.parametrize(
    ("structure", "gamma", "same"),
    [
        ("block-diagonal", 0.0, True),
        ("block-tridiagonal", 0.0, True),
        ("block-diagonal", 0.3, False),
        ("block-tridiagonal", 0.3, False),
        ("gradient", 0.0, False),
    ],
)
def test_both_networks_stay_the_same_function_in_undamped_training(structure, gamma, same):
    change = random_change(1)
    own = outputs_after(own_linearization, initial(), structure, gamma)
    changed = outputs_after(
        partial(changed_linearization, change), change.forward(initial()), structure, gamma
    )
    assert relative_error(own, problem(CASE).at.outputs) > 0.01
    error = relative_error(changed, own)
    assert error < 1e-7 if same else error > 0.01
