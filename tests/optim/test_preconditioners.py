"""The preconditioners beside K-FAC's own: against dense matrices, on convolutions, and on networks of any shape."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from kfac_steps import (
    OPTIONS,
    drawn_rows,
    flatten,
    initial_params,
    program,
    take,
    trajectory,
)

from ngd_theory import losses, networks, optim
from ngd_theory.networks import backpropagate
from ngd_theory.optim.preconditioners import PRECONDITIONERS

NEW = ("ekfac", "kfac-input", "shampoo")
#: Steps of `OPTIONS` whose inverse is made anew.
REFRESHED = {1, 2, 3} | {k for k in range(1, 26) if k % 5 == 0 or k % 7 == 0}


class Dense:
    """One layer's preconditioner as a (PM, PM) matrix, its statistics averaged step by step."""

    def __init__(self):
        self.average, self.basis, self.moments, self.age = None, None, None, 0

    def see(self, a, delta, number):
        """Rows a (n, P) and delta (2, n, M) of step ``number``."""
        keep = min(1 - 1 / number, OPTIONS["decay"])
        fresh = self.statistics(a, delta)
        if self.average is None:
            self.average = [0 * matrix for matrix in fresh]
        self.average = [
            keep * old + (1 - keep) * new for old, new in zip(self.average, fresh, strict=True)
        ]

    def statistics(self, a, delta):
        gradients = np.einsum("np,knm->knpm", a, delta)
        n = len(a)
        moment_a = np.einsum("knpm,knqm->pq", gradients, gradients) / (2 * n)
        moment_b = np.einsum("knpm,knpo->mo", gradients, gradients) / (2 * n)
        factor_b = np.einsum("knm,kno->mo", delta, delta) / (2 * n)
        return [a.T @ a / n, factor_b, moment_a, moment_b]


class DenseInput(Dense):
    def matrix(self, a, delta, gamma, refreshed):
        if refreshed:
            self.basis = self.average[0] + gamma**2 * np.eye(a.shape[1])
        return np.kron(self.basis, np.eye(delta.shape[2]))


class DenseShampoo(Dense):
    def matrix(self, a, delta, gamma, refreshed):
        if refreshed:
            roots = []
            for moment in self.average[2:]:
                values, vectors = np.linalg.eigh(moment + gamma**2 * np.eye(len(moment)))
                roots.append(vectors @ np.diag(values**0.5) @ vectors.T)
            self.basis = np.kron(*roots)
        return self.basis


class DenseEKFAC(Dense):
    def matrix(self, a, delta, gamma, refreshed):
        if refreshed:
            vectors = [np.linalg.eigh(factor)[1] for factor in self.average[:2]]
            self.basis, self.age, self.rho = np.kron(*vectors), 0, gamma**2
        self.age += 1
        rows = np.einsum("np,knm->knpm", a, delta).reshape(2 * len(a), -1) @ self.basis
        keep = min(1 - 1 / self.age, OPTIONS["decay"]) if self.age > 1 else 0.0
        old = 0 if self.moments is None else self.moments
        self.moments = keep * old + (1 - keep) * np.mean(rows**2, axis=0)
        return self.basis @ np.diag(self.moments + self.rho) @ self.basis.T


DENSE = {"ekfac": DenseEKFAC, "kfac-input": DenseInput, "shampoo": DenseShampoo}


@pytest.mark.parametrize("structure", NEW)
@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_every_step_applies_the_dense_inverse(structure, loss):
    layers = None
    for step in trajectory(loss, structure):
        inputs, deltas = drawn_rows(step.before, step.params, step.x[:6], loss)
        layers = layers or [DENSE[structure]() for _ in inputs]
        gamma, refreshed = float(step.after.factor_damping), step.number in REFRESHED
        rng = np.random.default_rng(step.number)
        vectors, expected = [], []
        for layer, a, delta in zip(layers, inputs, deltas, strict=True):
            layer.see(a, delta, step.number)
            matrix = layer.matrix(a, delta, gamma, refreshed)
            vectors.append(rng.normal(size=(a.shape[1], delta.shape[2])))
            solved = np.linalg.solve(matrix, vectors[-1].ravel())
            expected.append(solved.reshape(vectors[-1].shape))
        found = step.after.inverse.apply([jnp.asarray(v) for v in vectors])
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9 * np.abs(other).max())
    # A dense reference of another preconditioner is none of this one.
    wrong = np.linalg.solve(matrix + 0.1 * np.eye(len(matrix)), vectors[-1].ravel())
    assert np.linalg.norm(wrong - np.ravel(found[-1])) > 1e-3 * np.linalg.norm(wrong)


@pytest.mark.parametrize("structure", NEW)
def test_the_update_is_where_the_exact_model_is_least(structure):
    for step in trajectory("mse", structure)[4:9]:
        curvature, slope = step.curvature("mse"), step.slope
        directions = np.stack([step.proposal, flatten(step.before.previous)])
        gram, right = directions @ curvature @ directions.T, directions @ slope
        alpha, mu = -np.linalg.solve(gram, right)
        assert float(step.after.step_size) == pytest.approx(alpha, rel=1e-6)
        assert float(step.after.momentum) == pytest.approx(mu, rel=1e-5, abs=1e-8)


def convolution():
    net = networks.standard_parameterization(
        networks.cnn((4, 4, 1), [3, 2], 2, 3, activation="tanh", bias_std=1.0)
    )
    return net, net.init(jax.random.key(0))


def rows_of(layer):
    """Each sample's gradient of a drawn target, (N, K, P, M)."""
    return np.einsum("ntp,nktm->nkpm", layer.inputs, layer.sensitivities)


def test_convolutions_have_moments_of_whole_samples():
    network, params = convolution()
    x = jax.random.normal(jax.random.key(1), (5, 4, 4, 1))
    _, layers = backpropagate(network, params, x, lambda f: jnp.stack([f, 2 * f + 1], axis=1))
    found = PRECONDITIONERS["shampoo"].statistics(layers)
    basis = PRECONDITIONERS["ekfac"].statistics(layers)
    inverse = PRECONDITIONERS["ekfac"].inverses(basis)(jnp.asarray(0.1))
    corrected = PRECONDITIONERS["ekfac"].correct(inverse, layers, 0.9)
    for i, layer in enumerate(layers):
        gradients = rows_of(layer)
        of_inputs = np.einsum("nkpm,nkqm->pq", gradients, gradients) / 5
        of_sensitivities = np.einsum("nkpm,nkpo->mo", gradients, gradients) / 5
        np.testing.assert_allclose(found[i][0], of_inputs, atol=1e-12 * np.abs(of_inputs).max())
        np.testing.assert_allclose(
            found[i][1], of_sensitivities, atol=1e-12 * np.abs(of_sensitivities).max()
        )
        a, b = corrected.inputs[i], corrected.sensitivities[i]
        rotated = np.einsum("pu,nkpm,mv->nkuv", a, gradients, b)
        moments = np.sum(rotated**2, (0, 1)) / 5
        np.testing.assert_allclose(corrected.moments[i], moments, atol=1e-10 * moments.max())
    assert int(corrected.count) == 1


NETS = {
    "convolutions": lambda: convolution()[0],
    "resnet": lambda: networks.resnet(6, 8, 1, 2, "tanh", bias_std=1.0),
    "transformer": lambda: networks.transformer(3, 2, 8, 1, 2, "gelu", bias_std=1.0),
    "recurrent": lambda: networks.recurrent(3, 2, 8, 2, "tanh", bias_std=1.0),
}


@pytest.mark.parametrize("structure", ["block-diagonal", *NEW])
@pytest.mark.parametrize("name", NETS)
def test_networks_of_any_shape_are_trained(name, structure):
    network = NETS[name]()
    params = network.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (24, *network.input_shape))
    y = jnp.sin(3 * x.reshape(24, -1)[:, :2])
    periods = {"statistics_period": 2, "inverse_period": 4}
    optimizer = optim.kfac(network, structure=structure, damping=0.1, factor_damping=0.3, **periods)
    state = optimizer.init(params)
    inverse = type(state.inverse).__name__
    assert inverse == {"ekfac": "EigenInverse", "kfac-input": "InputInverse"}.get(
        structure, "DiagonalInverse"
    )

    def value(params):
        return losses.MSE.value(network.apply(params, x), y)

    @jax.jit
    def step(params, state):
        at, grads = jax.value_and_grad(value)(params)
        updates, state = optimizer.update(grads, state, params, x=x, y=y)
        return optax.apply_updates(params, updates), state, at

    found = []
    for _ in range(12):
        params, state, at = step(params, state)
        found.append(float(at))
    assert found[-1] < 0.3 * found[0] and int(state.skipped) == int(state.stale) == 0
    if structure == "ekfac":  # the basis of step 12, in which no batch was seen yet but its own
        assert int(state.inverse.count) == 1


@pytest.mark.parametrize("structure", NEW)
def test_a_layer_without_signal_takes_finite_steps(structure):
    params = initial_params()
    dead = ({**params[0], "bias": params[0]["bias"] + 1e3}, *params[1:])
    step = take("mse", structure, 1, dead, program("mse", structure).init(dead))
    assert np.all(np.isfinite(flatten(step.updates))) and int(step.after.skipped) == 0
    assert np.any(flatten(step.updates))


def primitives(jaxpr, looped=False):
    """Names of the operations of a program, and whether each is inside of a loop."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name, looped
        inner = looped or equation.primitive.name == "scan"
        for value in equation.params.values():
            for each in value if isinstance(value, tuple | list) else (value,):
                each = getattr(each, "jaxpr", each)
                if hasattr(each, "eqns"):
                    yield from primitives(each, inner)


@pytest.mark.parametrize("name", ["ekfac", "shampoo"])
def test_eigenvectors_are_computed_once_for_all_gammas(name):
    preconditioner, x = PRECONDITIONERS[name], jnp.ones((3, 4))
    net = networks.mlp(4, [5], 2, "tanh")
    layers = networks.linearize(net, net.init(jax.random.key(0)), x).layers
    statistics = preconditioner.statistics(layers)
    gammas = jnp.array([0.1, 0.2, 0.3])

    def search(statistics):
        return jax.lax.map(preconditioner.inverses(statistics), gammas)

    names = set(primitives(jax.make_jaxpr(search)(statistics).jaxpr))
    assert ("eigh", False) in names and ("eigh", True) not in names
    # One after the other gives the same.
    found = jax.tree.map(lambda leaf: leaf[1], search(statistics))
    wanted = preconditioner.inverses(statistics)(gammas[1])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
