"""K-FAC as an optimiser, written out with dense matrices in NumPy, and steps of the real one to hold against it."""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dense import softmax_fisher
from scipy import linalg, special

from ngd_theory import losses, networks, optim

#: One deep; F-hat of two layers is F-tilde.
DEEP, SHALLOW = (networks.autoencoder(6, w, code_activation="tanh") for w in ((4, 2), (3,)))
NETWORKS = {"mse": DEEP, "cross-entropy": SHALLOW, "sigmoid-cross-entropy": SHALLOW}
ROWS, STEPS = 12, 25
#: Short periods that are no multiples of one another, and fractions that leave rows out.
OPTIONS = {
    "damping": 0.5,
    "l2": 0.01,
    "damping_period": 2,
    "factor_damping_period": 7,
    "inverse_period": 5,
    "statistics_fraction": 0.5,
    "curvature_fraction": 0.75,
    "num_draws": 2,
    "decay": 0.7,
    "averaging": 0.8,
}
OMEGA_1, OMEGA_2 = 0.95**2, 0.95**3.5
LOSSES = ("mse", "cross-entropy", "sigmoid-cross-entropy")
STRUCTURES = ("block-diagonal", "block-tridiagonal")
BOTH = [(loss, structure) for loss in LOSSES for structure in STRUCTURES]

#: Value, and Lambda of each loss, written out.
VALUES = {
    "mse": lambda f, y: np.sum((f - y) ** 2) / 2 / len(f),
    "cross-entropy": lambda f, y: -np.sum(y * special.log_softmax(f, axis=1)) / len(f),
    "sigmoid-cross-entropy": lambda f, y: (
        -np.sum(y * special.log_expit(f) + (1 - y) * special.log_expit(-f)) / len(f)
    ),
}
OUTPUT_FISHERS = {
    "mse": lambda f: np.stack([np.eye(f.shape[1])] * len(f)),
    "cross-entropy": softmax_fisher,
    "sigmoid-cross-entropy": lambda f: np.stack([np.diag(p * (1 - p)) for p in special.expit(f)]),
}


# --- The method, dense ------------------------------------------------------------------------------


def matrices(tree):
    """``[W; b]`` of each layer, (P, M)."""
    return [np.vstack([layer["weight"], layer["bias"]]) for layer in tree]


def flatten(tree):
    return np.concatenate([m.ravel() for m in matrices(tree)])


def forward_backward(params, x):
    """Outputs, inputs [(N, P)] and sensitivities [(N, C, M)] of an autoencoder."""
    inputs, slopes, h = [], [], np.asarray(x)
    for matrix in matrices(params):
        inputs.append(np.hstack([h, np.ones((len(h), 1))]))
        u = inputs[-1] @ matrix
        h = np.tanh(u)
        slopes.append(1 - h**2)
    n, c = u.shape
    deltas = [np.broadcast_to(np.eye(c), (n, c, c))]
    for matrix, slope in zip(matrices(params)[:0:-1], slopes[-2::-1], strict=True):
        deltas.insert(0, deltas[0] @ matrix[:-1].T * slope[:, None])
    return u, inputs, deltas


def objective(params, x, y, loss):
    value = VALUES[loss](forward_backward(params, x)[0], np.asarray(y))
    return value + OPTIONS["l2"] / 2 * np.sum(flatten(params) ** 2)


def exact_fisher(params, x, loss):
    """``J^T Lambda J / N``."""
    outputs, inputs, deltas = forward_backward(params, x)
    n, c = outputs.shape
    rows = zip(inputs, deltas, strict=True)
    jacobian = [np.einsum("np,ncm->ncpm", a, d).reshape(n, c, -1) for a, d in rows]
    jacobian = np.concatenate(jacobian, axis=2)
    return np.einsum("ncp,ncd,ndq->pq", jacobian, OUTPUT_FISHERS[loss](outputs), jacobian) / n


def drawn_rows(state, params, x, loss):
    """Inputs [(N, P)] and sensitivities [(2, N, M)] of the targets that the next step draws."""
    _, draw = jax.random.split(jax.random.wrap_key_data(state.key))
    outputs, inputs, deltas = forward_backward(params, x)
    score = losses.by_name(loss).sample_score
    draws = [np.asarray(score(key, jnp.asarray(outputs))) for key in jax.random.split(draw, 2)]
    return inputs, [np.stack([np.einsum("nc,ncm->nm", s, d) for s in draws]) for d in deltas]


def statistics(state, params, x, loss):
    """The factors that the next step measures: a function of two layers."""
    inputs, rows = drawn_rows(state, params, x, loss)
    rows, n = [np.concatenate(each) for each in rows], len(x)
    return lambda i, j: (inputs[i].T @ inputs[j] / n, rows[i].T @ rows[j] / (2 * n))


def dense_inverse(block, depth, structure, gamma):
    """F-breve's or F-hat's inverse from the factors of layers i and j and factored damping."""
    diagonal = []
    for i in range(depth):
        a, b = map(np.asarray, block(i, i))
        mean_a, mean_b = np.trace(a) / len(a), np.trace(b) / len(b)
        pi = np.sqrt(mean_a / mean_b)
        damped = a + pi * gamma * np.eye(len(a)), b + gamma / pi * np.eye(len(b))
        diagonal.append(np.kron(*damped))
    if structure == "block-diagonal":
        return linalg.block_diag(*map(np.linalg.inv, diagonal))
    ends = np.cumsum([0, *map(len, diagonal)])
    xi, remainders = np.eye(ends[-1]), []
    for i, own in enumerate(diagonal[:-1]):
        across = np.kron(*block(i, i + 1))
        psi = np.linalg.solve(diagonal[i + 1], across.T).T
        xi[ends[i] : ends[i + 1], ends[i + 1] : ends[i + 2]] = -psi
        remainders.append(own - psi @ across.T)
    return xi.T @ np.linalg.solve(linalg.block_diag(*remainders, diagonal[-1]), xi)


def least(curvature, gradient, directions):
    """Coefficients of the directions where the quadratic model is least, and its value there."""
    gram, slope = directions @ curvature @ directions.T, directions @ gradient
    coefficients = -np.linalg.solve(gram, slope)
    return coefficients, slope @ coefficients / 2


# --- A trajectory -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """An optimiser, its compiled update, and how often that was traced."""

    loss: str
    optimizer: optax.GradientTransformationExtraArgs
    update: object
    traces: list

    def init(self, params):
        return self.optimizer.init(params)


def make(network, loss, **options):
    optimizer, traces = optim.kfac(network, loss, **options), []

    @jax.jit
    def update(grads, state, params, x, y):
        traces.append(1)
        return optimizer.update(grads, state, params, x=x, y=y)

    return Program(loss, optimizer, update, traces)


@cache
def program(loss, structure):
    return make(NETWORKS[loss], loss, structure=structure, **OPTIONS)


@cache
def gradient(loss):
    value = losses.by_name(loss).value
    return jax.jit(jax.grad(lambda p, x, y: value(NETWORKS[loss].apply(p, x), y)))


def initial_params(loss="mse"):
    # Small enough for tanh, and with biases.
    draw = np.random.default_rng(0).normal
    shapes = [block.affine.layout.shapes for block in NETWORKS[loss].blocks]
    return tuple({k: jnp.asarray(0.5 * draw(size=v)) for k, v in s.items()} for s in shapes)


def batch(loss, number):
    """Rows of low rank, which an autoencoder can learn, and themselves as targets."""
    rng = np.random.default_rng(number)
    mixing = np.random.default_rng(1).normal(size=(2, 6))
    x = rng.normal(size=(ROWS, 2)) @ mixing + 0.1 * rng.normal(size=(ROWS, 6))
    y = {
        "mse": x,
        "cross-entropy": special.softmax(3 * x, axis=1),
        "sigmoid-cross-entropy": special.expit(x),
    }[loss]
    return jnp.asarray(x), jnp.asarray(y)


class Step(NamedTuple):
    number: int
    x: jax.Array
    y: jax.Array
    params: tuple
    grads: tuple
    before: optim.KFACState
    updates: tuple
    after: optim.KFACState

    @property
    def moved(self):
        return optax.apply_updates(self.params, self.updates)

    @property
    def slope(self):
        """Gradient of the objective, flat."""
        return flatten(self.grads) + OPTIONS["l2"] * flatten(self.params)

    def curvature(self, loss):
        """What the step's quadratic model has."""
        fisher = exact_fisher(self.params, self.x[:9], loss)
        return fisher + (float(self.before.damping) + OPTIONS["l2"]) * np.eye(len(fisher))

    @property
    def proposal(self):
        pairs = zip(matrices(self.grads), matrices(self.params), strict=True)
        gradient = [jnp.asarray(g + OPTIONS["l2"] * p) for g, p in pairs]
        return -np.concatenate([np.ravel(m) for m in self.after.inverse.apply(gradient)])


def take(loss, structure, number, params, state, scale=1.0):
    """One step; the gradient can be made a wrong one."""
    x, y = batch(loss, number)
    grads = jax.tree.map(lambda g: scale * g, gradient(loss)(params, x, y))
    updates, after = program(loss, structure).update(grads, state, params, x, y)
    return Step(number, x, y, params, grads, state, updates, after)


@cache
def trajectory(loss, structure):
    params = initial_params(loss)
    state, steps = program(loss, structure).init(params), []
    for number in range(1, STEPS + 1):
        steps.append(take(loss, structure, number, params, state))
        params, state = steps[-1].moved, steps[-1].after
    return steps


def same(left, right):
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def finite(tree):
    return all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(tree))
