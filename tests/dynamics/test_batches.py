"""Mini-batches and momentum: prediction is the linearised network's training, and what real training tends to.

The reference trains the linearised network in its own parameters, with dense Fisher matrices of each batch.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_NAME, LARGE_LATER, problem, relative_error
from dense import flatten, softmax_fisher
from scipy import special

import ngd_theory as ngd
from ngd_theory.dynamics import Momentum, draw_batches, predict, predict_from_maps, spring, train
from ngd_theory.errors import InputError

CASE = BY_NAME["L3 C3 gelu bias"]
#: One sample in both batches of a step is no error.
BATCHES = jnp.array([[0, 1], [3, 2], [1, 3], [2, 2], [0, 3], [1, 2]])
#: Positions, groups, tokens and norms, each with factors of its own.
SHAPES = {
    "convolution": ngd.networks.cnn((4, 4, 2), [3, 3], 2, activation="tanh"),
    "residual": ngd.networks.resnet(4, 6, 2, 2, "tanh", bias_std=0.3),
    "tokens": ngd.networks.transformer(3, None, 4, 1, 2, vocabulary=7),
    "recurrent": ngd.networks.recurrent(3, 2, 5, 2),
}
MOMENTA = {"none": 0.0, "heavy ball": 0.7, "SPRING": Momentum(0.8, 0.35)}


def simulated(p, name, batches, step_size, damping, momentum, loss="mse"):
    """Outputs and distances of the linearised network."""
    how = momentum if isinstance(momentum, Momentum) else Momentum(momentum)
    f, f_at, y = (np.asarray(v) for v in (p.lin.outputs, p.at.outputs, p.targets))
    jacobian, rows_at = p.dense.jacobian, np.asarray(p.jacobian_at)
    direction = moved = np.zeros(jacobian.shape[1])
    train_outputs, test_outputs, distances = [f], [f_at], [0.0]
    for batch in map(np.asarray, batches):
        dense = p.dense.take(batch)
        residual = f[batch] - y[batch]
        if loss == "cross-entropy":
            residual = special.softmax(f[batch], axis=1) - y[batch]
            dense = dense.with_output_fisher(softmax_fisher(f[batch]))
        kept = (dense.jacobian @ direction).reshape(residual.shape)
        gradient = dense.natural_gradient(name, damping, residual - (how.correction or 0) * kept)
        direction = how.decay * direction + gradient
        moved = moved - step_size * direction
        f = train_outputs[0] + (jacobian @ moved).reshape(f.shape)
        f_at = test_outputs[0] + (rows_at @ moved).reshape(f_at.shape)
        train_outputs.append(f)
        test_outputs.append(f_at)
        distances.append(np.linalg.norm(moved))
    return np.stack(train_outputs), np.stack(test_outputs), np.array(distances)


def step_size(p, name, damping):
    """Half of one over the largest eigenvalue of K."""
    k = np.asarray(ngd.fisher.by_name(name).function_space_map(p.lin, damping))
    return float(0.5 / np.linalg.eigvalsh((k + k.T) / 2)[-1])


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("damping", [0.1, 1e-3])
@pytest.mark.parametrize("name", LARGE_LATER)
def test_prediction_with_batches_is_training_of_the_linearised_network(name, damping, momentum):
    p, momentum = problem(CASE), MOMENTA[momentum]
    eta = step_size(p, name, damping)
    outputs, tests, distances = simulated(p, name, BATCHES, eta, damping, momentum)
    found = predict(
        ngd.fisher.by_name(name),
        p.lin,
        p.targets,
        eta,
        len(BATCHES),
        damping,
        p.at,
        batches=BATCHES,
        momentum=momentum,
    )
    assert relative_error(found.outputs, outputs) < 1e-10
    assert relative_error(found.test_outputs, tests) < 1e-10
    np.testing.assert_allclose(found.parameter_distances, distances, rtol=1e-9, atol=1e-12)
    losses = np.sum((outputs - np.asarray(p.targets)) ** 2, axis=(1, 2)) / (2 * CASE.num_samples)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-9)
    # Negative control: the full batch is told from these.
    full = simulated(p, name, [np.arange(4)] * len(BATCHES), eta, damping, momentum)[0]
    assert relative_error(full, outputs) > 1e-3


@pytest.mark.parametrize("momentum", list(MOMENTA)[1:])
@pytest.mark.parametrize("name", ["identity", "exact", "block-diagonal", "kfac", "unit-wise"])
def test_closed_form_with_momentum_is_training_of_the_linearised_network(name, momentum):
    p, momentum, steps = problem(CASE), MOMENTA[momentum], 12
    eta = step_size(p, name, 0.01)
    everything = [jnp.arange(CASE.num_samples)] * steps
    outputs, tests, _ = simulated(p, name, everything, eta, 0.01, momentum)
    how = ngd.fisher.by_name(name), p.lin, p.targets, eta, steps, 0.01, p.at
    found = predict(*how, momentum=momentum)
    assert relative_error(found.outputs, outputs) < 1e-10
    assert relative_error(found.test_outputs, tests) < 1e-10
    # The same by the recursion over batches.
    again = predict(*how, batches=jnp.stack(everything), momentum=momentum)
    assert relative_error(again.outputs, found.outputs) < 1e-10


def test_batches_under_cross_entropy_take_the_fisher_of_the_batch():
    p = problem(CASE)
    p = p.__class__(**{**vars(p), "targets": jnp.eye(3)[jnp.array([0, 1, 2, 1])]})
    kind = ngd.fisher.TrueFisher("cross-entropy")
    exact = ngd.fisher.by_name("exact", kind=kind)
    expected = simulated(p, "exact", BATCHES, 0.3, 0.1, 0.5, "cross-entropy")[0]
    found = predict(
        exact, p.lin, p.targets, 0.3, 6, 0.1, loss="cross-entropy", batches=BATCHES, momentum=0.5
    )
    assert relative_error(found.outputs, expected) < 1e-10


def test_many_batches_are_predicted_at_once():
    p = problem(CASE)
    exact = ngd.fisher.Exact()
    keys = jax.random.split(jax.random.key(0), 3)
    many = jnp.stack([draw_batches(key, 4, 2, 5) for key in keys])

    def run(batches):
        return predict(exact, p.lin, p.targets, 0.5, 5, 1e-3, batches=batches).outputs

    found = jax.vmap(run)(many)
    for ours, batches in zip(found, many, strict=True):
        assert relative_error(ours, run(batches)) < 1e-10


def test_derivatives_of_the_closed_form_by_step_size_and_momentum_are_differences():
    p = problem(CASE)
    k = ngd.fisher.BlockDiagonal().function_space_map(p.lin, 0.1)
    q = ngd.fisher.BlockDiagonal().function_space_map(p.lin, 0.1, p.at)

    def last(values):
        eta, decay, correction = values
        run = predict_from_maps(
            k, p.lin.outputs, p.targets, eta, 7, q, p.at.outputs, Momentum(decay, correction)
        )
        return jnp.sum(run.outputs[-1] ** 2) + jnp.sum(run.test_outputs[-1] ** 2)

    at = np.array([0.3, 0.6, 0.2])
    differences = [(last(at + h) - last(at - h)) / 2e-5 for h in 1e-5 * np.eye(3)]
    for derivative in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(derivative(last)(jnp.asarray(at)), differences, rtol=1e-6)


@pytest.mark.parametrize("momentum", MOMENTA.values(), ids=MOMENTA)
def test_the_long_run_rate_is_the_spectral_radius(momentum):
    eigenvalues, eta, steps = np.array([0.02, 0.3, 1.0, 1.9]), 0.9, 400
    run = predict_from_maps(
        jnp.diag(eigenvalues),
        jnp.ones((4, 1)),
        jnp.zeros((4, 1)),
        eta,
        steps,
        momentum=momentum,
    )
    how = momentum if isinstance(momentum, Momentum) else Momentum(momentum)
    found = ngd.dynamics.spectral_radius(jnp.asarray(eigenvalues), eta, momentum)
    for i, (value, radius) in enumerate(zip(eigenvalues, found, strict=True)):
        m = how.decay - (how.correction or 0) * value
        matrix = np.array([[1 - eta * value, -eta * value * m], [1, m]])
        np.testing.assert_allclose(radius, np.abs(np.linalg.eigvals(matrix)).max(), rtol=1e-10)
        # The largest of late residuals, as complex roots turn.
        early, late = (np.abs(run.outputs[t : t + 40, i, 0]).max() for t in (40, 140))
        if late > 1e-200:
            np.testing.assert_allclose((late / early) ** (1 / 100), radius, rtol=0.01)


@pytest.mark.parametrize("name", ["exact", "block-diagonal", "kfac"])
def test_spring_leaves_the_batch_what_the_step_size_says(name):
    # Every layer sees full ranks on two samples: K = alpha I there.
    case = BY_NAME["L3 C1 erf, N>M"]
    p, approximation = problem(case), ngd.fisher.by_name(name)
    batches = jnp.array([[0, 1], [2, 3], [4, 5], [1, 4]])
    alpha = float(np.trace(approximation.function_space_map(p.lin.take(batches[0]), 0.0)) / 2)
    how = approximation, p.lin, p.targets, 0.4 / alpha, 4, 0.0

    def shares(momentum):
        f = np.asarray(predict(*how, batches=batches, momentum=momentum).outputs)
        residuals = f - np.asarray(p.targets)
        pairs = zip(residuals, residuals[1:], batches, strict=False)
        # The first step has no direction yet.
        return [after[b] / before[b] for before, after, b in itertools.islice(pairs, 1, None)]

    np.testing.assert_allclose(shares(0.0), 0.6, atol=1e-6)
    # Negative controls: heavy ball, and SPRING with another alpha.
    assert np.abs(np.array(shares(0.9)) - 0.6).max() > 0.05
    if alpha > 1.5:
        assert np.abs(np.array(shares(spring(0.9))) - 0.6).max() > 0.05
    # With momentum mu the residual of the batch moves by eta alpha r, and nothing of the last direction.
    found = np.asarray(predict(*how, batches=batches, momentum=spring(0.9, alpha)).outputs)
    np.testing.assert_allclose(shares(spring(0.9, alpha)), 0.6, atol=1e-6)
    assert not np.allclose(found[-1], predict(*how, batches=batches).outputs[-1], atol=1e-3)


def test_on_the_full_batch_spring_is_no_momentum_where_k_is_isotropic():
    p = problem(CASE)
    how = ngd.fisher.Exact(), p.lin, p.targets, 0.4, 6, 0.0, p.at
    plain, ours = predict(*how), predict(*how, momentum=spring(0.9))
    np.testing.assert_allclose(ours.test_outputs, plain.test_outputs, atol=1e-9)
    heavy = predict(*how, momentum=0.9)
    assert relative_error(heavy.outputs, plain.outputs) > 0.1


def test_a_correction_without_momentum_counts():
    p = problem(CASE)
    how, scheme = Momentum(0.0, 0.5), {"batches": BATCHES}
    eta = step_size(p, "exact", 0.1)
    expected = simulated(p, "exact", BATCHES, eta, 0.1, how)[0]
    exact = ngd.fisher.Exact()
    found = predict(exact, p.lin, p.targets, eta, len(BATCHES), 0.1, momentum=how, **scheme)
    assert relative_error(found.outputs, expected) < 1e-10
    radius = jax.jit(ngd.dynamics.spectral_radius)(jnp.ones(1), 0.5, Momentum(0.0, 0.7))
    np.testing.assert_allclose(
        ngd.dynamics.spectral_radius(jnp.ones(1), 0.5, Momentum(0.0, 0.7)), radius
    )


@pytest.mark.parametrize("network", SHAPES, ids=SHAPES)
def test_a_batch_of_a_linearisation_is_the_linearisation_of_the_batch(network):
    net = SHAPES[network]
    keys = jax.random.split(jax.random.key(0), 2)
    if net.vocabulary is None:
        x = jax.random.normal(keys[0], (5, *net.input_shape))
    else:
        x = jax.random.randint(keys[0], (5, *net.input_shape), 0, net.vocabulary)
    params, batch = net.init(keys[1]), jnp.array([3, 0, 4])
    taken = ngd.networks.linearize(net, params, x).take(batch)
    there = ngd.networks.linearize(net, params, x[batch])
    np.testing.assert_allclose(taken.outputs, there.outputs, rtol=1e-12)
    for name in ("exact", "kfac", "unit-wise"):
        approximation = ngd.fisher.by_name(name)
        ours, theirs = (
            approximation.natural_gradient(lin, jnp.ones_like(lin.outputs), 0.1)
            for lin in (taken, there)
        )
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


def test_an_empirical_fisher_takes_the_targets_of_its_batch(tanh):
    net, params, x, y, _ = tanh
    lin = ngd.networks.linearize(net, params, x)
    empirical = ngd.fisher.by_name("exact", kind=ngd.fisher.EmpiricalFisher(y))
    full = predict(empirical, lin, y, 0.1, 3, 0.1, batches=jnp.tile(jnp.arange(8), (3, 1)))
    turned = jnp.stack([jax.random.permutation(jax.random.key(k), 8) for k in range(3)])
    found = predict(empirical, lin, y, 0.1, 3, 0.1, batches=turned)
    np.testing.assert_allclose(found.outputs, full.outputs, rtol=1e-9)
    # Of half of the samples: G of these, as where nothing else was there.
    half = turned[:, :4]
    own = ngd.fisher.by_name("exact", kind=ngd.fisher.EmpiricalFisher(y[half[0]]))
    seen = lin.take(half[0])
    step = own.natural_gradient(seen, seen.outputs - y[half[0]], 0.1)
    after = predict(empirical, lin, y, 0.1, 1, 0.1, batches=half[:1]).outputs[1]
    np.testing.assert_allclose(after, lin.outputs - 0.1 * lin.jvp(step), rtol=1e-9)
    run = train(net, params, x, y, empirical, 0.1, 1, 0.1, batches=half[:1])
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, step)
    for a, b in zip(jax.tree.leaves(run.params), jax.tree.leaves(moved), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


# Training


@pytest.fixture(scope="module")
def tanh():
    net = ngd.networks.mlp(10, [40, 40], 1, "tanh", 1.0)
    x = jax.random.normal(jax.random.key(1), (8, 10))
    params = net.init(jax.random.key(0))
    return net, params, x, jax.random.normal(jax.random.key(2), (8, 1)), x[:3] + 0.1


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("name", ["identity", "exact", "kfac"])
def test_training_in_the_lazy_family_tends_to_the_prediction_at_first_order(tanh, name, momentum):
    net, params, x, y, x_test = tanh
    approximation, momentum = ngd.fisher.by_name(name), MOMENTA[momentum]
    batches = draw_batches(jax.random.key(3), 8, 4, 6)
    lin, at = (ngd.networks.linearize(net, params, rows) for rows in (x, x_test))
    k = approximation.function_space_map(lin, 1e-3)
    eta = float(0.3 / np.linalg.eigvalsh(np.asarray((k + k.T) / 2))[-1])
    options = {"batches": batches, "momentum": momentum}
    predicted = predict(approximation, lin, y, eta, 6, 1e-3, at, **options)
    gaps, shares = [], (1e-2, 1e-3)
    for share in shares:
        run = train(
            net, params, x, y, approximation, eta, 6, 1e-3, x_test, laziness=share, **options
        )
        assert run.outputs.shape == predicted.outputs.shape
        gaps.append(
            [
                np.linalg.norm(run.outputs - predicted.outputs),
                np.linalg.norm(run.test_outputs - predicted.test_outputs),
                np.linalg.norm(run.parameter_distances - predicted.parameter_distances),
            ]
        )
    slopes = np.log(np.divide(*gaps)) / np.log(shares[0] / shares[1])
    np.testing.assert_allclose(slopes, 1, atol=0.05)
    # Negative control: another order of the batches is a gap of order 0.
    other = predict(
        approximation, lin, y, eta, 6, 1e-3, at, batches=batches[::-1], momentum=momentum
    )
    assert np.linalg.norm(other.outputs - predicted.outputs) > 30 * gaps[1][0]


def test_a_batch_of_all_samples_is_the_full_batch(tanh):
    net, params, x, y, x_test = tanh
    how = net, params, x, y, ngd.fisher.KFAC(), 0.05, 4, 1e-2, x_test
    full = train(*how, momentum=0.5)
    batched = train(*how, momentum=0.5, batches=jnp.tile(jnp.arange(8), (4, 1)))
    for ours, theirs in zip(jax.tree.leaves(batched), jax.tree.leaves(full), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert flatten(full.params).shape == flatten(params).shape


def test_a_breakdown_on_a_batch_is_explained_at_its_step(tanh):
    net, params, x, y, _ = tanh
    x = x.astype("float32").at[3].set(x[2].astype("float32"))
    params, y = (jax.tree.map(lambda a: a.astype("float32"), tree) for tree in (params, y))
    batches = jnp.array([[0, 1], [4, 5], [2, 3]])
    exact = ngd.fisher.Exact()
    with pytest.raises(ngd.errors.SingularKernelError, match="step 2"):
        train(net, params, x, y, exact, 0.5, 3, 1e-30, batches=batches, momentum=0.5)


# Batches


def test_epochs_have_every_sample_once():
    batches = np.asarray(draw_batches(jax.random.key(0), 10, 3, 7))
    assert batches.shape == (7, 3)
    for epoch in (batches[:3], batches[3:6]):
        assert len(np.unique(epoch)) == 9
    assert len(np.unique(batches[6])) == 3
    # What is left out differs from epoch to epoch.
    many = np.asarray(draw_batches(jax.random.key(1), 10, 3, 300)).reshape(100, 9)
    left = [set(range(10)) - set(epoch) for epoch in many]
    assert len({sample for rest in left for sample in rest}) == 10


def test_independent_batches_are_all_subsets_equally_often():
    draws = 6000
    batches = np.sort(draw_batches(jax.random.key(0), 4, 2, draws, "independent"), axis=1)
    subsets, counts = np.unique(batches, axis=0, return_counts=True)
    assert len(subsets) == 6
    assert np.abs(counts - draws / 6).max() < 5 * np.sqrt(draws / 6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p, how: draw_batches(jax.random.key(0), 4, 5, 1), "from 1 to all 4"),
        (lambda p, how: draw_batches(jax.random.key(0), 4, 0, 1), "from 1 to all 4"),
        (lambda p, how: draw_batches(jax.random.key(0), 4, 2, 1, "random"), "epochs"),
        (lambda p, how: draw_batches(jax.random.key(0), 4, 2, -1), "at least 0"),
        (lambda p, how: predict(*how, batches=BATCHES[:3]), r"\(6, B\)"),
        (lambda p, how: predict(*how, batches=BATCHES[:, :0]), r"\(6, B\)"),
        (lambda p, how: predict(*how, batches=BATCHES + 1), "from 1 to 4"),
        (lambda p, how: predict(*how, batches=BATCHES - 1), "from -1 to 2"),
        (lambda p, how: predict(*how, batches=[[0, 1]] * 6), "an array"),
        (lambda p, how: predict(*how, momentum=-0.1), "decay"),
        (lambda p, how: predict(*how, momentum=1.5), "from 0 to 1"),
        (lambda p, how: predict(*how, momentum=np.nan), "decay"),
        (lambda p, how: Momentum(0.5, -1.0), "correction"),
        (lambda p, how: Momentum(0.5, np.inf), "correction"),
        (lambda p, how: spring(0.5, 0.0), "positive"),
        (lambda p, how: spring(0.5, np.nan), "constant"),
    ],
)
def test_what_cannot_be_is_refused_in_words(call, words):
    p = problem(CASE)
    with pytest.raises(InputError, match=words):
        call(p, (ngd.fisher.Exact(), p.lin, p.targets, 0.5, 6, 1e-3))


# The bound


def kernel_of(condition, size=8, seed=0):
    """Log-spaced eigenvalues, random eigenvectors."""
    vectors, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return (vectors * np.geomspace(1 / condition, 1, size)) @ vectors.T


def subsets(size, count):
    return jnp.array(list(itertools.combinations(range(size), count)))


@pytest.mark.parametrize("step_scale", [0.5, 1.0, 1.6])
@pytest.mark.parametrize("condition", [10, 1e4])
def test_the_mean_step_over_all_batches_is_within_the_bound_and_attains_it(condition, step_scale):
    theta, batches = kernel_of(condition), subsets(8, 4)
    bound = float(ngd.dynamics.contraction_bound(jnp.asarray(theta), batches, step_scale))
    inverse = np.linalg.inv(theta)
    # E of r^T Theta^-1 r after a step, as a quadratic form: each step solves on its batch, by NumPy.
    after = np.zeros((8, 8))
    for batch in np.asarray(batches):
        step = np.eye(8)
        solved = np.linalg.inv(theta[np.ix_(batch, batch)])
        step[:, batch] -= step_scale * theta[:, batch] @ solved
        after += step.T @ inverse @ step / len(batches)
    factor = np.linalg.cholesky(theta)
    shares = np.linalg.eigvalsh(factor.T @ after @ factor)
    np.testing.assert_allclose(shares[-1], bound, rtol=1e-8)
    assert shares[0] >= (1 - step_scale) ** 2 - 1e-9


def test_the_bound_of_the_full_batch_and_of_white_kernels_is_free_of_the_kernel():
    for condition in (1, 1e3):
        found = ngd.dynamics.contraction_bound(
            jnp.asarray(kernel_of(condition)), jnp.arange(8)[None], 0.5
        )
        np.testing.assert_allclose(found, 0.25, atol=1e-9)
    white = ngd.dynamics.contraction_bound(jnp.eye(8), subsets(8, 2))
    np.testing.assert_allclose(white, 1 - 2 / 8, atol=1e-12)


def test_the_bound_grows_with_the_condition_number_and_falls_with_the_batch():
    def bound(condition, size):
        kernel = jnp.asarray(kernel_of(condition))
        return float(ngd.dynamics.contraction_bound(kernel, subsets(8, size)))

    assert bound(10, 4) < bound(100, 4) < bound(1e4, 4) < 1
    assert bound(100, 6) < bound(100, 4) < bound(100, 2)


def test_a_singular_kernel_has_the_bound_one_and_a_repeated_sample_counts_once():
    theta = kernel_of(20)
    singular = theta - np.outer(*[np.linalg.eigh(theta)[1][:, 0]] * 2) / 20
    bound = ngd.dynamics.contraction_bound(jnp.asarray(singular), subsets(8, 4))
    np.testing.assert_allclose(bound, 1.0, atol=1e-10)
    one, twice = (
        ngd.dynamics.contraction_bound(jnp.asarray(theta), jnp.tile(jnp.arange(8)[:, None], (1, k)))
        for k in (1, 2)
    )
    np.testing.assert_allclose(twice, one, rtol=1e-10)


def test_all_outputs_of_a_sample_are_in_its_batch():
    theta = kernel_of(50)
    pairs = ngd.dynamics.contraction_bound(jnp.asarray(theta), subsets(4, 2), 1.0, 2)
    rows = jnp.array([[2 * a, 2 * a + 1, 2 * b, 2 * b + 1] for a, b in np.asarray(subsets(4, 2))])
    np.testing.assert_allclose(
        pairs, ngd.dynamics.contraction_bound(jnp.asarray(theta), rows), rtol=1e-10
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((jnp.eye(7), BATCHES, 1.0, 2), "2 outputs"),
        ((jnp.eye(3), BATCHES), "from 0 to 3"),
        ((jnp.eye(8) * jnp.nan, BATCHES), "NaN"),
        ((jnp.eye(8), BATCHES, 2.5), "from 0 to 2"),
    ],
)
def test_a_bound_of_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        ngd.dynamics.contraction_bound(*arguments)
