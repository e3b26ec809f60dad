"""Maps of the limit: closed forms of THEORY section 5, finite networks, ensembles."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ngd_theory import dynamics, fisher
from ngd_theory.dynamics import predict
from ngd_theory.errors import InputError, NotPredictedError, SingularKernelError
from ngd_theory.kernels import infinite
from ngd_theory.networks import linearize, mlp

N, N_TEST, DIM = 6, 4, 9
NAMES = ["identity", "exact", "block-diagonal", "block-tridiagonal", "kfac"]


@pytest.fixture
def points():
    keys = jax.random.split(jax.random.key(5))
    return jax.random.normal(keys[0], (N, DIM)), jax.random.normal(keys[1], (N_TEST, DIM))


def network(depth=3, output_dim=1, width=32, activation="relu", bias_std=0.2):
    return mlp(DIM, [width] * (depth - 1), output_dim, activation, 2**0.5, bias_std)


def stated(name, net, x, x_test):
    """Q of THEORY section 5 from the kernels, by inverses."""
    # In NumPy: nothing to compile.
    here, there = (
        jax.tree.map(np.asarray, infinite.layer_kernels(net, *pair)) for pair in ((x,), (x_test, x))
    )

    def solve(a, b):
        return a @ np.linalg.inv(b)

    theta, theta_test = (k.inputs * k.sensitivities for k in (here, there))
    if name == "identity":
        return theta_test.sum(0) / N
    if name == "exact":
        return solve(theta_test.sum(0), theta.sum(0))
    terms = [solve(a, b) for a, b in zip(theta_test, theta, strict=True)]
    if name == "block-diagonal":
        return sum(terms)
    if name == "block-tridiagonal":
        shares = np.linalg.solve(fisher.tridiagonal_coupling(net.depth), np.ones(net.depth))
        return sum(s * t for s, t in zip(shares, terms, strict=True))
    inputs = [solve(a, b) for a, b in zip(there.inputs, here.inputs, strict=True)]
    sides = [
        solve(a, b) for a, b in zip(there.sensitivities[:-1], here.sensitivities[:-1], strict=True)
    ]
    return N * sum(a * b for a, b in zip(inputs, sides, strict=False)) + inputs[-1]


@pytest.mark.parametrize("name", NAMES)
def test_predictors_equal_the_stated_formulas(name, points):
    net = network(depth=4)
    maps = dynamics.predictor(fisher.by_name(name), net, *points)
    reference = stated(name, net, *points)
    np.testing.assert_allclose(maps.test_map, reference, atol=1e-9 * np.abs(reference).max())


@pytest.mark.parametrize("name", NAMES[1:])
def test_training_maps_are_isotropic_with_the_stated_constant(name, points):
    # Depth 2: the coupling matrix of block-tridiagonal is singular.
    net = network(depth=2)
    approximation = fisher.by_name(name)
    maps = dynamics.predictor(approximation, net, *points)
    alpha = approximation.isotropy_constant(network(depth=2, width=10**4).layer_sizes, N)
    np.testing.assert_allclose(maps.train_map, alpha * np.eye(N), atol=1e-9 * alpha)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_one_factor_of_kfac_alone_has_the_limit_of_the_layer_kernels(activation, points):
    """Products of gamma = sigma_w^2 Qdot on the diagonal; for ReLU at sigma_w^2 = 2 alpha = L."""
    net = network(depth=3, activation=activation)
    kernels = infinite.layer_kernels(net, points[0])
    a, b = np.asarray(kernels.inputs), np.asarray(kernels.sensitivities)
    inputs = dynamics.predictor(fisher.KFACInput(), net, *points)
    np.testing.assert_allclose(inputs.train_map, np.diag(sum(map(np.diagonal, b))), atol=1e-8)
    outputs = dynamics.predictor(fisher.KFACOutput(), net, *points)
    expected = np.diag(sum(map(np.diagonal, a[:-1]))) + a[-1] / N
    np.testing.assert_allclose(outputs.train_map, expected, atol=1e-8)
    across = infinite.layer_kernels(net, points[1], points[0])
    solved = [y @ np.linalg.inv(z) for y, z in zip(across.inputs, a, strict=True)]
    q = sum(x * y for x, y in zip(across.sensitivities, solved, strict=True))
    np.testing.assert_allclose(inputs.test_map, q, atol=1e-7)


def test_fewer_inputs_than_samples_break_isotropy_of_kfac(points):
    x, x_test = points[0][:, :4], points[1][:, :4]
    net = mlp(4, [32, 32], 1, "relu")
    maps = dynamics.predictor(fisher.KFAC(), net, x, x_test)
    # Layer 1 has rank M_0 = 4 in place of N: its share of the trace is 4.
    assert float(maps.constant) == pytest.approx(4 + N + 1, abs=1e-8)
    assert float(jnp.std(jnp.diagonal(maps.train_map))) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_several_outputs_are_copies_of_one(name, points):
    output_dim, damping = 3, 1e-2
    net = network(output_dim=output_dim)
    lin, at = infinite.linearize(net, *points)
    approximation = fisher.by_name(name, **({"damping_split": "equal"} if name == "kfac" else {}))
    maps = dynamics.predictor(approximation, net, *points, damping=damping)
    whole = approximation.function_space_map(lin, damping, at)
    np.testing.assert_allclose(
        whole, jnp.kron(maps.test_map, jnp.eye(output_dim)), atol=1e-9 * float(jnp.abs(whole).max())
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [n if n in ("exact", "kfac") else pytest.param(n, marks=pytest.mark.slow) for n in NAMES],
)
def test_maps_of_finite_networks_approach_the_limit(name, points):
    approximation = fisher.by_name(name)
    errors = []
    for width in (64, 512):
        net = network(width=width)
        limit = dynamics.predictor(approximation, net, *points).test_map

        @jax.jit
        def distance(key, net=net, limit=limit):
            params = net.init(key)
            lin, at = (linearize(net, params, p) for p in points)
            return jnp.sum((approximation.function_space_map(lin, 0.0, at) - limit) ** 2)

        squares = [distance(key) for key in jax.random.split(jax.random.key(1), 6)]
        errors.append(float(jnp.sqrt(jnp.mean(jnp.stack(squares)) / jnp.sum(limit**2))))
    # M^(-1/2) would make the ratio 2.8.
    assert errors[1] < 0.3 and errors[0] / errors[1] > 1.7, errors


def test_unit_wise_training_map_is_isotropic_and_reports_its_error(points):
    net = network(width=50)
    maps = dynamics.predictor(fisher.UnitWise(), net, *points, key=jax.random.key(2), num_units=400)
    # gamma M a hidden layer, 1 for the output; off the diagonal nothing is left to chance.
    alpha = fisher.UnitWise().isotropy_constant(net.layer_sizes, N)
    deviation = jnp.abs(jnp.diagonal(maps.train_map) - alpha)
    assert (deviation < 5 * jnp.diagonal(maps.train_error)).all()
    np.testing.assert_allclose(
        maps.train_map - jnp.diag(jnp.diagonal(maps.train_map)), 0, atol=1e-9
    )
    assert (maps.test_error > 0).all()


@pytest.mark.parametrize("damping", [0.0, 1e-4])
def test_unit_wise_equals_the_mean_over_finite_networks(damping, points):
    # C = 3, so that the gradients' ratios have a mean; z-scores with a false-alarm rate of 1e-4 in all.
    net = network(width=256, output_dim=3, bias_std=0.2)
    maps = dynamics.predictor(
        fisher.UnitWise(), net, *points, damping=damping, key=jax.random.key(3), num_units=1500
    )

    @jax.jit
    def one(key):
        params = net.init(key)
        lin, at = (linearize(net, params, p) for p in points)
        whole = fisher.UnitWise().function_space_map(lin, damping, at)
        return jnp.einsum("ncmc->nm", whole.reshape(N_TEST, 3, N, 3)) / 3

    finite = jnp.stack([one(key) for key in jax.random.split(jax.random.key(4), 6)])
    error = jnp.hypot(jnp.std(finite, axis=0, ddof=1) / 6**0.5, maps.test_error)
    # Finite width biases the map by O(1): allow 2 % of its size on top of 6 standard errors.
    slack = 0.02 * float(jnp.abs(maps.test_map).max())
    assert (jnp.abs(jnp.mean(finite, axis=0) - maps.test_map) < 6 * error + slack).all()


def test_unit_wise_needs_a_key_and_full_rank_inputs(points):
    x, x_test = points
    with pytest.raises(InputError, match="pass key"):
        dynamics.predictor(fisher.UnitWise(), network(), x, x_test)
    narrow = mlp(2, [32], 1, "relu")
    with pytest.raises(NotPredictedError, match="layer 1"):
        dynamics.predictor(
            fisher.UnitWise(), narrow, x[:, :2], x_test[:, :2], key=jax.random.key(0), num_units=2
        )


@pytest.mark.parametrize("name", ["exact", "unit-wise"])
@pytest.mark.parametrize("damping", [-1.0, -1e-3, float("nan"), float("inf")])
def test_a_bad_damping_is_refused(name, damping, points):
    with pytest.raises(InputError, match=r"damping is .*one finite number >= 0"):
        dynamics.predictor(
            fisher.by_name(name), network(), *points, damping=damping, key=jax.random.key(0)
        )


def test_a_unit_wise_map_that_is_not_finite_is_an_error(points):
    with pytest.raises(SingularKernelError, match="unit-wise: the map of the limit is not finite"):
        dynamics.predictor(
            fisher.UnitWise(),
            network(),
            *points,
            damping=1e-320,
            key=jax.random.key(0),
            num_units=9,
        )


def test_entry_wise_has_no_limit(points):
    with pytest.raises(NotPredictedError, match="entry-wise"):
        dynamics.predictor(fisher.EntryWise(), network(), *points)


@pytest.mark.parametrize("name", ["identity", "block-tridiagonal"])
def test_ensemble_mean_equals_the_dynamics_of_the_mean_network(name, points):
    net = network()
    x, x_test = points
    targets = jnp.linspace(-1, 1, N)[:, None]
    approximation = fisher.by_name(name)
    maps = dynamics.predictor(approximation, net, x, x_test)
    step = float(1.3 / jnp.linalg.eigvalsh(maps.train_map)[-1])
    found = dynamics.ensemble(maps, net, x, x_test, targets, step, range(4))
    lin, at = infinite.linearize(net, x, x_test)
    path = predict(approximation, lin, targets, step, 3, 0.0, at=at)
    np.testing.assert_allclose(found.mean, path.outputs, atol=1e-10)
    np.testing.assert_allclose(found.test_mean, path.test_outputs, atol=1e-9)


@pytest.mark.parametrize("name", ["identity", "kfac"])
def test_ensemble_covariance_equals_that_of_propagated_samples(name, points):
    net = network()
    x, x_test = points
    targets = jnp.linspace(-1, 1, N)[:, None]
    maps = dynamics.predictor(fisher.by_name(name), net, x, x_test)
    step = float(0.8 / jnp.linalg.eigvalsh(maps.train_map)[-1])
    found = dynamics.ensemble(maps, net, x, x_test, targets, step, [0, 2])
    prior = infinite.nngp(net, jnp.concatenate(points))
    # Exact propagation of the prior's square root, step by step: linear, so no sampling error.
    columns = jnp.linalg.cholesky(prior + 1e-13 * jnp.eye(len(prior)))
    here, there = columns[:N], columns[N:]
    for _ in range(2):
        here, there = here - step * maps.train_map @ here, there - step * maps.test_map @ here
    np.testing.assert_allclose(found.covariance[1], here @ here.T, atol=1e-9)
    np.testing.assert_allclose(found.test_covariance[1], there @ there.T, atol=1e-9)
    np.testing.assert_allclose(found.covariance[0], prior[:N, :N], atol=1e-12)
    np.testing.assert_allclose(found.test_covariance[0], prior[N:, N:], atol=1e-12)


def test_isotropic_methods_share_the_training_curve_but_not_the_test_outputs(points):
    net = network()
    targets = jnp.linspace(-1, 1, N)[:, None]
    ends = []
    for name in NAMES[1:]:
        maps = dynamics.predictor(fisher.by_name(name), net, *points)
        path = dynamics.ensemble(maps, net, *points, targets, float(0.5 / maps.constant), [1, 60])
        np.testing.assert_allclose(path.mean[0], targets / 2, atol=1e-9)
        np.testing.assert_allclose(path.test_mean[1], maps.weights @ targets, atol=1e-9)
        ends.append(path.test_mean[1])
    assert all(jnp.abs(a - b).max() > 1e-3 for i, a in enumerate(ends) for b in ends[:i])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["identity", "exact"])
def test_ensembles_are_differentiated_by_their_maps(name, points):
    # All eigenvalues of exact are equal: forward mode was half a per cent off, reverse mode NaN.
    net, rng = network(), np.random.default_rng(0)
    targets = jnp.linspace(-1, 1, N)[:, None]
    maps = dynamics.predictor(fisher.by_name(name), net, *points)
    train, test = (jnp.asarray(rng.normal(size=s)) for s in ((N, N), (N_TEST, N)))

    def total(t):
        moved = replace(
            maps, train_map=maps.train_map + t * train, test_map=maps.test_map + t * test
        )
        found = dynamics.ensemble(moved, net, *points, targets, 0.3, [0, 1, 6])
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(found))

    value = [float(total(s)) for s in (-2e-4, -1e-4, 1e-4, 2e-4)]
    wanted = (8 * (value[2] - value[1]) - (value[3] - value[0])) / 12e-4
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(mode(total)(0.0), wanted, rtol=1e-7)


def test_ensemble_names_bad_arguments(points):
    net = network()
    maps = dynamics.predictor(fisher.Exact(), net, *points)
    targets = jnp.ones((N, 1))
    with pytest.raises(InputError, match="maps are for"):
        dynamics.ensemble(maps, net, points[0][:-1], points[1], targets, 1.0, [1])
    with pytest.raises(InputError, match="targets"):
        dynamics.ensemble(maps, net, *points, targets[:-1], 1.0, [1])
    with pytest.raises(InputError, match="step_size"):
        dynamics.ensemble(maps, net, *points, targets, 0.0, [1])
    with pytest.raises(InputError, match="steps"):
        dynamics.ensemble(maps, net, *points, targets, 1.0, [-1])
