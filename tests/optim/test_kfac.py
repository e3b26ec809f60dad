"""K-FAC as an optimiser, step by step against dense matrices in NumPy: no pass of the package's is used here."""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import relative_error
from dense import softmax_fisher
from scipy import linalg, special

from ngd_theory import losses, networks, optim
from ngd_theory.errors import InputError
from ngd_theory.optim.quadratic_model import QuadraticModel, dot, minimise, value_at

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


def statistics(state, params, x, loss):
    """The factors that the next step measures: a function of two layers."""
    _, draw = jax.random.split(jax.random.wrap_key_data(state.key))
    outputs, inputs, deltas = forward_backward(params, x)
    score = losses.by_name(loss).sample_score
    draws = [np.asarray(score(key, jnp.asarray(outputs))) for key in jax.random.split(draw, 2)]
    rows = [np.concatenate([np.einsum("nc,ncm->nm", s, d) for s in draws]) for d in deltas]
    n = len(x)
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


@pytest.mark.parametrize(("loss", "structure"), BOTH)
def test_first_step_is_the_published_one(loss, structure):
    step = trajectory(loss, structure)[0]
    block = statistics(step.before, step.params, step.x[:6], loss)
    gamma = (OPTIONS["damping"] + OPTIONS["l2"]) ** 0.5
    assert float(step.after.factor_damping) == pytest.approx(gamma)
    proposal = -dense_inverse(block, NETWORKS[loss].depth, structure, gamma) @ step.slope
    (alpha,), _ = least(step.curvature(loss), step.slope, proposal[None])
    assert relative_error(flatten(step.updates), alpha * proposal) < 1e-9


@pytest.mark.parametrize(("loss", "structure"), BOTH)
def test_step_size_and_momentum_minimise_the_exact_quadratic_model(loss, structure):
    for step in trajectory(loss, structure)[1:10]:
        directions = np.stack([step.proposal, flatten(step.before.previous)])
        found = np.asarray([step.after.step_size, step.after.momentum])
        expected, value = least(step.curvature(loss), step.slope, directions)
        np.testing.assert_allclose(found, expected, rtol=1e-8)
        assert float(step.after.model_change) == pytest.approx(value, rel=1e-8)
        assert relative_error(flatten(step.updates), expected @ directions) < 1e-8
        assert same(step.updates, step.after.previous)
        # A Fisher of all the rows, or no penalty in the model, gives another step.
        damping = float(step.before.damping)
        for x, shift in ((step.x, damping + OPTIONS["l2"]), (step.x[:9], damping)):
            fisher = exact_fisher(step.params, x, loss)
            wrong = least(fisher + shift * np.eye(len(fisher)), step.slope, directions)[0]
            assert relative_error(wrong, expected) > 1e-5


@pytest.mark.parametrize(("loss", "structure"), BOTH)
def test_loss_falls(loss, structure):
    steps = trajectory(loss, structure)
    x, y = batch(loss, 0)
    first, last = (
        VALUES[loss](forward_backward(p, x)[0], np.asarray(y))
        for p in (steps[0].params, steps[-1].moved)
    )
    entropy = VALUES[loss](np.asarray(x * 3 if loss == "cross-entropy" else x), np.asarray(y))
    assert last - entropy < 0.5 * (first - entropy)


@pytest.mark.parametrize(("loss", "structure"), BOTH)
def test_compiled_once(loss, structure):
    trajectory(loss, structure)
    assert len(program(loss, structure).traces) == 1


@pytest.mark.parametrize("structure", STRUCTURES)
def test_statistics_are_running_averages_of_sampled_factors(structure):
    reach = {"block-diagonal": 0, "block-tridiagonal": 1}[structure]
    for step in trajectory("mse", structure)[:6]:
        fresh = statistics(step.before, step.params, step.x[:6], "mse")
        eps = min(1 - 1 / step.number, OPTIONS["decay"])
        assert step.after.factors.bandwidth == reach
        for i in range(DEEP.depth):
            for j in range(i, min(i + reach, DEEP.depth - 1) + 1):
                blocks = zip(
                    step.before.factors.block(i, j),
                    fresh(i, j),
                    step.after.factors.block(i, j),
                    strict=True,
                )
                for old, new, found in blocks:
                    np.testing.assert_allclose(found, eps * old + (1 - eps) * new, atol=1e-12)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_inverses_are_refreshed_at_the_first_three_steps_and_their_periods_only(structure):
    for step in trajectory("mse", structure):
        k = step.number
        # The search for gamma, every seventh step, inverts too.
        due = k <= 3 or k % 5 == 0 or k % 7 == 0
        assert same(step.before.inverse, step.after.inverse) != due, k
        if due:
            gamma = float(step.after.factor_damping)
            inverse = dense_inverse(step.after.factors.block, DEEP.depth, structure, gamma)
            assert relative_error(-step.proposal, inverse @ step.slope) < 1e-8, k


@pytest.mark.parametrize("structure", STRUCTURES)
def test_factor_damping_is_the_best_of_three_at_its_period_only(structure):
    choices = set()
    for step in trajectory("mse", structure):
        gamma, found = (float(s.factor_damping) for s in (step.before, step.after))
        if step.number % 7:
            assert found == gamma
            continue
        values = []
        for factor in (1, OMEGA_2, 1 / OMEGA_2):
            inverse = dense_inverse(step.after.factors.block, DEEP.depth, structure, gamma * factor)
            directions = np.stack([-inverse @ step.slope, flatten(step.before.previous)])
            values.append(least(step.curvature("mse"), step.slope, directions)[1])
        best = (1, OMEGA_2, 1 / OMEGA_2)[int(np.argmin(values))]
        assert found == pytest.approx(gamma * best, rel=1e-12)
        choices.add(best)
    assert choices - {1}


def expected_damping(step, loss):
    """Levenberg and Marquardt's rule; also its case."""
    change = objective(step.moved, step.x, step.y, loss) - objective(
        step.params, step.x, step.y, loss
    )
    ratio = change / float(step.after.model_change)
    case = "shrinks" if ratio > 3 / 4 else "grows" if ratio < 1 / 4 else "stays"
    factor = {"shrinks": OMEGA_1, "grows": 1 / OMEGA_1, "stays": 1}[case]
    return ratio, case, float(step.before.damping) * factor


@pytest.mark.parametrize(("loss", "structure"), BOTH)
def test_damping_follows_the_reduction_ratio_at_its_period_only(loss, structure):
    for step in trajectory(loss, structure):
        if step.number % 2:
            assert float(step.after.damping) == float(step.before.damping)
            assert same(step.after.reduction_ratio, step.before.reduction_ratio)
            continue
        ratio, _, damping = expected_damping(step, loss)
        assert float(step.after.reduction_ratio) == pytest.approx(ratio, rel=1e-8)
        assert float(step.after.damping) == pytest.approx(damping, rel=1e-12)


def test_damping_shrinks_stays_and_grows():
    # A gradient too long by c makes a step too long by c, of which the model promises too much.
    before = trajectory("mse", "block-diagonal")[9]
    cases = []
    for scale in (1.0, 1.3, 1.6, -1.0):
        step = take("mse", "block-diagonal", 10, before.params, before.before, scale)
        _, case, damping = expected_damping(step, "mse")
        assert float(step.after.damping) == pytest.approx(damping, rel=1e-12)
        cases.append(case)
    assert set(cases) == {"shrinks", "stays", "grows"}


def test_iterates_are_averaged():
    steps = trajectory("mse", "block-diagonal")
    average = flatten(steps[0].params)
    for step in steps:
        xi = min(1 - 1 / step.number, OPTIONS["averaging"])
        average = xi * average + (1 - xi) * flatten(step.moved)
        found = optim.averaged_params(step.after, step.moved)
        np.testing.assert_allclose(flatten(found), average, rtol=1e-12, atol=1e-14)
    assert relative_error(average, flatten(steps[-1].moved)) > 1e-4


def test_without_averaging_the_iterate_is_its_own_average():
    params = initial_params()
    state = optim.kfac(DEEP).init(params)
    assert optim.averaged_params(state, params) is params


# --- What is not finite, zero or alone --------------------------------------------------------------


def spoil(what, value, x, y, grads):
    if what == "inputs":
        return x.at[3, 2].set(value), y, grads
    if what == "a later row":  # which neither the statistics nor the curvature see
        return x.at[-1, 0].set(value), y, gradient("mse")(initial_params(), x.at[-1].set(value), y)
    return x, y, jax.tree.map(lambda g: g.at[(0,) * g.ndim].set(value), grads)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("number", [1, 2, 5, 7, 10])
def test_a_batch_that_is_not_finite_leaves_no_trace(structure, number):
    step = trajectory("mse", structure)[number - 1]
    update = program("mse", structure).update
    for what in ("inputs", "a later row", "gradient"):
        for value in (np.nan, np.inf):
            x, y, grads = spoil(what, value, step.x, step.y, step.grads)
            updates, skipped = update(grads, step.before, step.params, x, y)
            assert not np.any(flatten(updates))
            assert int(skipped.skipped) == int(step.before.skipped) + 1
            assert not same(skipped.key, step.before.key)
            fields = {n: getattr(step.before, n) for n in ("count", "skipped", "key")}
            assert same(skipped._replace(**fields), step.before)
    # What follows is as if it had not been.
    found = update(step.grads, skipped, step.params, step.x, step.y)
    expected = update(
        step.grads, step.before._replace(key=skipped.key), step.params, step.x, step.y
    )
    assert same(found[0], expected[0])
    fields = {n: getattr(expected[1], n) for n in ("count", "skipped")}
    assert same(found[1]._replace(**fields), expected[1])
    assert int(found[1].count) == number + 1 and int(found[1].skipped) == 1


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("what", ["zero inputs", "dead units", "nothing at all"])
def test_layers_without_signal_take_finite_steps(what, structure):
    params = initial_params()
    x, y = batch("mse", 0)
    if what != "dead units":
        x, params = 0 * x, tuple({**p, "bias": 0 * p["bias"]} for p in params)
    if what == "dead units":  # saturated to the last bit: their sensitivities are zero
        params = ({**params[0], "bias": params[0]["bias"] + 1e3}, *params[1:])
    if what == "nothing at all":
        y, params = 0 * y, jax.tree.map(jnp.zeros_like, params)
    start, state = params, program("mse", structure).init(params)
    for _ in range(8):
        grads = gradient("mse")(params, x, y)
        updates, state = program("mse", structure).update(grads, state, params, x, y)
        params = optax.apply_updates(params, updates)
    assert finite(params) and finite(state._replace(reduction_ratio=0.0))
    assert int(state.skipped) == 0
    before, after = (objective(p, x, y, "mse") for p in (start, params))
    if what == "nothing at all":
        assert after == before == 0 and float(state.damping) == OPTIONS["damping"]
    else:
        assert after < before


@cache
def single_row():
    """A program for parameters in float32, which here takes batches of one row in float64."""
    p = make(SHALLOW, "sigmoid-cross-entropy", structure="block-tridiagonal", **OPTIONS)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), initial_params(p.loss))
    x, y = (rows[:1] for rows in batch(p.loss, 0))
    states, start = [p.init(params)], objective(params, x, y, p.loss)
    for _ in range(8):
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        grads = jax.tree.map(lambda g: g.astype(jnp.float32), gradient(p.loss)(wide, x, y))
        updates, state = p.update(grads, states[-1], params, x, y)
        params = optax.apply_updates(params, updates)
        states.append(state)
    return p, start, objective(params, x, y, p.loss), states, updates


def test_a_batch_of_one_row_takes_finite_steps():
    _, before, after, states, updates = single_row()
    assert after < before
    assert finite((states[-1], updates)) and int(states[-1].skipped) == 0


def test_parameters_in_float32_stay_so_whatever_the_data_are():
    p, _, _, (first, *_, last), updates = single_row()
    dtypes = [[leaf.dtype for leaf in jax.tree.leaves(state)] for state in (first, last)]
    assert dtypes[0] == dtypes[1] and np.float64 not in dtypes[0]
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(updates))
    assert len(p.traces) == 1


# --- Options ----------------------------------------------------------------------------------------

SMALL = networks.mlp(3, [], 2, bias_std=0.5)


@cache
def small():
    """Parameters, batch and gradient."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(10, 3))), jnp.asarray(rng.normal(size=(10, 2)))
    params = SMALL.init(jax.random.key(0))
    grads = jax.grad(lambda p: losses.MSE.value(SMALL.apply(p, x), y))(params)
    return params, x, y, grads


def small_value(params):
    _, x, y, _ = small()
    return float(losses.MSE.value(SMALL.apply(params, x), y))


def test_a_step_that_makes_it_worse_is_taken_back():
    params, x, y, grads = small()
    p = make(SMALL, "mse", damping=1e-3, reject_worse=True, damping_period=4)
    state = p.init(params)
    uphill = jax.tree.map(jnp.negative, grads)
    updates, worse = p.update(uphill, state, params, x, y)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((updates, worse.previous)))
    assert float(worse.damping) == pytest.approx(1e-3 / 0.95**4, rel=1e-12)
    assert int(worse.skipped) == 0
    # A good one is not, and leaves lambda alone before its period.
    updates, better = p.update(grads, worse, params, x, y)
    assert small_value(optax.apply_updates(params, updates)) < small_value(params)
    assert float(better.damping) == float(worse.damping)
    # Nor does lambda grow twice where both rules ask for it.
    _, third = p.update(grads, better, params, x, y)
    _, fourth = p.update(uphill, third, params, x, y)
    assert float(fourth.damping) == pytest.approx(float(third.damping) / 0.95**4, rel=1e-12)


def test_fixed_step_size_and_momentum():
    params, x, y, grads = small()
    p = make(
        SMALL,
        "mse",
        damping=1.0,
        damping_period=1,
        step_size=0.1,
        momentum=0.5,
        l2=0.1,
        adapt_factor_damping=False,
    )
    slope = jax.tree.map(lambda g, w: g + 0.1 * w, grads, params)
    updates, state = p.update(grads, p.init(params), params, x, y)
    layouts = [block.affine.layout for block in SMALL.blocks]

    def proposal(state):
        solved = state.inverse.apply([y.to_matrix(g) for y, g in zip(layouts, slope, strict=True)])
        return tuple(y.from_matrix(-v) for y, v in zip(layouts, solved, strict=True))

    again, last = p.update(grads, state, params, x, y)
    first, second = proposal(state), proposal(last)
    expected = jax.tree.map(lambda d: 0.1 * d, first)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), updates, expected)
    expected = jax.tree.map(lambda d, u: 0.1 * d + 0.5 * u, second, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), again, expected)
    assert float(last.step_size) == 0.1 and float(last.momentum) == 0.5
    # Without a search gamma follows lambda.
    assert float(state.damping) != 1.0
    assert float(last.factor_damping) == pytest.approx((float(state.damping) + 0.1) ** 0.5)


def test_least_squares_in_one_step():
    # One output: whatever targets are drawn, the proposal is along Newton's, and alpha is exact.
    network = networks.mlp(4, [], 1, bias_std=1.0)
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(50, 4))), jnp.asarray(rng.normal(size=(50, 1)))
    params = network.init(jax.random.key(0))
    optimizer = optim.kfac(network, damping=1e-12)
    chain = optax.chain(optimizer, optax.scale(0.5))

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: losses.MSE.value(network.apply(p, x), y))(params)
        return chain.update(grads, state, params, x=x, y=y)

    updates, _ = step(params, chain.init(params))
    reached = network.apply(jax.tree.map(lambda p, u: p + 2 * u, params, updates), x)
    design = np.hstack([x, np.ones((50, 1))])
    best = design @ np.linalg.lstsq(design, y)[0]
    assert relative_error(reached, best) < 1e-5
    half = network.apply(optax.apply_updates(params, updates), x)
    np.testing.assert_allclose(half, (reached + network.apply(params, x)) / 2, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "diagonal"}, "unknown structure 'diagonal'; choose one of: block-diagonal"),
        ({"loss": "hinge"}, "unknown loss 'hinge'; choose one of: mse, cross-entropy"),
        ({"damping_period": 0}, "damping_period is 0; it must be a whole number of at least 1"),
        ({"factor_damping_period": 0}, "factor_damping_period is 0; it must be a whole"),
        ({"inverse_period": -3}, "inverse_period is -3; it must be a whole"),
        ({"num_draws": 0}, "num_draws is 0; it must be a whole"),
        ({"statistics_fraction": 0.0}, r"statistics_fraction is 0.0; it must be in \(0, 1\]"),
        ({"curvature_fraction": 1.5}, r"curvature_fraction is 1.5; it must be in \(0, 1\]"),
        ({"curvature_fraction": np.nan}, r"curvature_fraction is nan; it must be in \(0, 1\]"),
        ({"decay": 1.0}, r"decay is 1.0; it must be in \[0, 1\)"),
        ({"averaging": -0.1}, r"averaging is -0.1; it must be in \[0, 1\)"),
        ({"l2": -1.0}, "l2 is -1.0; it must be zero or positive, and finite"),
        ({"l2": np.inf}, "l2 is inf; it must be zero or positive, and finite"),
        ({"damping": 0.0}, "damping is 0.0; it must be positive and finite"),
        ({"damping": np.nan}, "damping is nan; it must be positive and finite"),
        ({"factor_damping": -1.0}, "factor_damping is -1.0; it must be positive and finite"),
        ({"step_size": 0.0, "momentum": 0.0}, "step_size is 0.0; it must be positive, or None"),
        ({"step_size": 1.0, "momentum": 1.0}, r"momentum is 1.0; it must be in \[0, 1\), or None"),
        ({"step_size": 1.0}, "momentum=None takes it from the quadratic model"),
        ({"momentum": 0.9}, "with step_size=None momentum is None .* or 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        optim.kfac(SMALL, **options)


def test_an_update_needs_parameters_and_batch():
    params, x, y, grads = small()
    optimizer = optim.kfac(SMALL)
    state = optimizer.init(params)
    for given in ({"x": x}, {"y": y}, {}):
        with pytest.raises(InputError, match=r"K-FAC needs update\(grads, state, params, x=x, y="):
            optimizer.update(grads, state, params, **given)
    with pytest.raises(InputError, match="K-FAC needs"):
        optimizer.update(grads, state, x=x, y=y)


# --- The quadratic model alone ----------------------------------------------------------------------


def random_model(size=5):
    rng = np.random.default_rng(0)
    root, gradient = rng.normal(size=(size, size)), rng.normal(size=size)
    model = QuadraticModel(lambda t: jnp.asarray(root) @ t, jnp.asarray(gradient), jnp.asarray(0.3))
    curvature = root.T @ root + 0.3 * np.eye(size)
    return model, curvature, gradient, [jnp.asarray(rng.normal(size=size)) for _ in range(2)]


def test_minimum_over_a_plane_and_along_a_line():
    model, curvature, gradient, (first, second) = random_model()
    pushed = model.push(second)
    found = minimise(model, first, second, pushed)
    expected, value = least(curvature, gradient, np.stack([first, second]))
    np.testing.assert_allclose(found[:2], expected, rtol=1e-10)
    assert float(found.value) == pytest.approx(value, rel=1e-10)
    (along,), value = least(curvature, gradient, np.asarray(first)[None])
    for line in (
        value_at(model, first, second, pushed, None, 0.0),
        minimise(model, first, 0 * first, 0 * pushed),
        minimise(model, first, -2 * first, -2 * model.push(first)),
    ):
        np.testing.assert_allclose(line[:2], [along, 0], rtol=1e-10)
        assert float(line.value) == pytest.approx(value, rel=1e-10)
    somewhere = np.asarray(0.7 * first - 0.2 * second)
    value = somewhere @ curvature @ somewhere / 2 + somewhere @ gradient
    found = value_at(model, first, second, pushed, 0.7, -0.2)
    assert float(found.value) == pytest.approx(value, rel=1e-10)
    assert float(dot((first, second), (second, first))) == pytest.approx(2 * first @ second)
