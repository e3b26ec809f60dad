"""THEORY section 3 as numbers: isotropy constants and dispersions, measured on real networks."""

import time
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory.errors import InputError, NotPredictedError

linearize = jax.jit(ngd.networks.linearize, static_argnums=0)


def make(hidden, input_dim, num_samples, output_dim=1, activation="relu", bias_std=0.0, seed=0):
    """A network and its linearisation at Gaussian inputs."""
    network = ngd.networks.mlp(input_dim, hidden, output_dim, activation, bias_std=bias_std)
    params = jax.jit(network.init)(jax.random.key(seed))
    x = np.random.default_rng(seed).normal(size=(num_samples, input_dim))
    return network, linearize(network, params, jnp.asarray(x))


def measure(approximation, lin, damping):
    return ngd.theory.isotropy(approximation.function_space_map(lin, damping))


# --- Exact, layer-wise and K-FAC: isotropic at any width that meets the conditions ------------------

FINITE_WIDTH = [
    # (depth, outputs, activation, bias)
    (3, 1, "relu", 0.0),
    (3, 3, "tanh", 0.3),
    (4, 1, "tanh", 0.0),
    (4, 3, "relu", 0.3),
]
N = 8


@pytest.mark.parametrize(
    ("name", "damping"),
    [
        ("exact", 1e-8),
        ("block-diagonal", 1e-8),
        ("block-tridiagonal", 1e-8),
        ("kfac", 1e-16),
        ("kfac-tridiagonal", 1e-16),
    ],
)
@pytest.mark.parametrize(("depth", "output_dim", "activation", "bias_std"), FINITE_WIDTH)
def test_isotropy_constant_is_measured_at_finite_width(
    depth, output_dim, activation, bias_std, name, damping
):
    network, lin = make((128,) * (depth - 1), 16, N, output_dim, activation, bias_std)
    approximation = ngd.fisher.by_name(name)
    stated = {
        "exact": 1,
        "block-diagonal": depth,
        "block-tridiagonal": {3: 1, 4: 2}[depth],
        "kfac": N * (depth - 1) + 1,
        "kfac-tridiagonal": N,
    }[name]
    assert ngd.theory.isotropy_constant(approximation, network, N) == pytest.approx(stated)
    found = measure(approximation, lin, damping)
    assert float(found.constant) == pytest.approx(stated, rel=1e-4)
    assert float(found.dispersion) < 1e-5
    # The bound on what the damping does is of the right size: never exceeded, never far too large.
    bias = approximation.damping_bias(lin, damping)
    off = max(stated - float(found.min_eigenvalue), float(found.max_eigenvalue) - stated) / stated
    assert off <= 1.05 * bias
    assert bias < 1e-4


def test_kfac_constant_with_the_uniform_output_factor_is_depth_times_samples():
    network, lin = make((64, 64), 16, N)
    uniform = ngd.fisher.KFAC(output_factor="uniform")
    assert ngd.theory.isotropy_constant(uniform, network, N) == 3 * N
    assert float(measure(uniform, lin, 1e-16).constant) == pytest.approx(3 * N, rel=1e-4)
    # The Fisher's own output factor is another constant, N(L-1) + 1.
    assert float(measure(ngd.fisher.KFAC(), lin, 1e-16).constant) == pytest.approx(
        2 * N + 1, rel=1e-4
    )


@pytest.mark.slow
def test_tridiagonal_kfac_is_isotropic_whatever_the_input_dimension_from_depth_three():
    tridiagonal = ngd.fisher.KFACTridiagonal()
    network, lin = make((64, 64), 3, N, activation="tanh")
    found = measure(tridiagonal, lin, 0.0)
    assert float(found.constant) == pytest.approx(N, rel=1e-4)
    assert float(found.dispersion) < 1e-4
    assert all(c.holds for c in ngd.theory.check_conditions(tridiagonal, network, lin))
    # Negative controls: block-diagonal K-FAC disperses there, and so does this one at depth 2.
    assert float(measure(ngd.fisher.KFAC(), lin, 0.0).dispersion) > 0.05
    network, lin = make((64,), 4, N, activation="tanh")
    found = measure(tridiagonal, lin, 0.0)
    assert float(found.dispersion) > 0.1
    stated = ngd.theory.isotropy_constant(tridiagonal, network, N)
    assert stated == 1 + 4 * (N - 1) / N
    assert float(found.constant) == pytest.approx(stated, rel=1e-4)
    (broken,) = [c for c in ngd.theory.check_conditions(tridiagonal, network, lin) if not c.holds]
    assert broken.layer == 1
    # Too narrow: no constant is stated.
    assert ngd.theory.isotropy_constant(tridiagonal, make((4, 4), 12, N)[0], N) is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("damping", [0.0, 1e-16])
def test_tridiagonal_kfac_states_what_its_smallest_damping_changes(dtype, damping):
    network = ngd.networks.mlp(16, [128, 128], 1, "tanh")
    x = np.random.default_rng(0).normal(size=(N, 16)).astype(dtype)
    lin = linearize(network, jax.jit(network.init, static_argnums=1)(jax.random.key(0), dtype), x)
    tridiagonal = ngd.fisher.KFACTridiagonal()
    found = measure(tridiagonal, lin, damping)
    assert abs(float(found.constant) / N - 1) < tridiagonal.damping_bias(lin, damping) < 0.2


def test_kfac_damping_acts_through_its_square_root():
    # So K-FAC needs the damping squared to be as near to its limit as the others.
    _, lin = make((64, 64), 16, N)
    kfac = ngd.fisher.KFAC()
    assert kfac.matched_damping(1e-4) == pytest.approx(1e-8)
    gaps = [2 * N + 1 - float(measure(kfac, lin, rho).constant) for rho in (1e-12, 1e-16)]
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.05)


# --- Unit-wise and entry-wise -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output_dim", "activation", "low", "high"),
    # Sensitivities of several outputs share their directions in the lower layers, which the leading
    # formula leaves out: it is a little low for C > 1.
    [(1, "relu", 0.75, 1.25), (3, "tanh", 0.8, 1.6)],
)
def test_unit_wise_is_isotropic_as_the_width_grows(output_dim, activation, low, high):
    unit_wise, widths = ngd.fisher.UnitWise(), (64, 192, 512)
    dispersions, expected = [], []
    for width in widths:
        found = []
        for seed in range(8 if width < 512 else 3):
            network, lin = make((width, width), 20, N, output_dim, activation, seed=seed)
            found.append(measure(unit_wise, lin, 1e-10))
        alpha = ngd.theory.isotropy_constant(unit_wise, network, N)
        gamma = {"relu": 0.5, "tanh": 1.0}[activation]
        assert alpha == pytest.approx(2 * gamma * width / output_dim + 1)
        mean = np.mean([float(i.constant) for i in found])
        assert mean == pytest.approx(alpha, rel=0.1 if width == 64 else 0.05)
        dispersions.append(np.sqrt(np.mean([float(i.dispersion) ** 2 for i in found])))
        expected.append(ngd.theory.unit_wise_dispersion(network))
    slope = np.polyfit(np.log(widths), np.log(dispersions), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.12)
    ratios = np.asarray(dispersions) / expected
    assert np.all((low < ratios) & (ratios < high)), ratios


def test_unit_wise_dispersion_vanishes_for_one_output_that_every_unit_moves():
    network, lin = make((32, 32), 20, N, 1, "tanh")
    assert ngd.theory.unit_wise_dispersion(network) == 0
    assert float(measure(ngd.fisher.UnitWise(), lin, 0.0).dispersion) < 1e-6
    linear = ngd.networks.mlp(3, [], 1)
    assert ngd.theory.unit_wise_dispersion(linear) == 0


@pytest.mark.parametrize("name", ["entry-wise", "identity"])
def test_entry_wise_and_gradient_descent_disperse_at_every_width(name):
    approximation = ngd.fisher.by_name(name)
    for width in (64, 256, 1024):
        network, lin = make((width, width), 20, N)
        assert float(measure(approximation, lin, 1e-8).dispersion) > 0.3
        assert ngd.theory.isotropy_constant(approximation, network, N) is None


# --- Off rank ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["exact", "block-diagonal", "block-tridiagonal", "kfac", "unit-wise"]
)
@pytest.mark.parametrize(("output_dim", "bias_std"), [(1, 0.0), (2, 0.3)])
def test_constants_of_a_deep_linear_network(output_dim, bias_std, name):
    network, lin = make((40, 40), 12, N, output_dim, "identity", bias_std)
    approximation = ngd.fisher.by_name(name)
    predicted = ngd.theory.isotropy_constant(approximation, network, N)
    assert float(measure(approximation, lin, 0.0).constant) == pytest.approx(predicted, rel=1e-6)
    if name == "kfac":
        # delta is the same for every sample: rank C, not NC.
        assert predicted == pytest.approx(3)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "exact",
        ),
        "block-diagonal",
        pytest.param(
            "block-tridiagonal",
        ),
        "kfac",
        "unit-wise",
    ],
)
def test_constants_of_a_deep_linear_network_with_fewer_inputs_than_samples(name):
    network, lin = make((40, 40), 4, 10, 1, "identity")
    approximation = ngd.fisher.by_name(name)
    predicted = ngd.theory.isotropy_constant(approximation, network, 10)
    found = measure(approximation, lin, 0.0)
    assert float(found.constant) == pytest.approx(predicted, rel=1e-6)
    assert float(found.dispersion) > 0.5


@pytest.mark.parametrize("depth", [1, 3])
def test_exact_constant_counts_the_parameters_when_they_are_few(depth):
    network, lin = make((3,) * (depth - 1), 4, 40, 1, "tanh")
    predicted = ngd.theory.isotropy_constant(ngd.fisher.Exact(), network, 40)
    assert predicted < 1
    # Each layer's rank is counted; what one layer's columns share with another's is not.
    measured = float(measure(ngd.fisher.Exact(), lin, 0.0).constant)
    assert measured <= predicted + 1e-9
    if depth == 1:
        assert measured == pytest.approx(predicted)


@pytest.mark.slow
def test_kfac_input_layer_with_fewer_inputs_than_samples_disperses_whatever_the_width():
    samples, input_dim = 40, 10
    dispersions = []
    for width in (64, 256, 1024):
        network, lin = make((width, width), input_dim, samples)
        first = ngd.networks.Linearization(lin.outputs, lin.layers[:1])
        found = measure(ngd.fisher.KFAC(), first, 0.0)
        assert float(found.constant) == pytest.approx(input_dim, rel=1e-9)
        dispersions.append(float(found.dispersion))
        whole = ngd.theory.isotropy_constant(ngd.fisher.KFAC(), network, samples)
        assert whole == input_dim + samples + 1
        assert float(measure(ngd.fisher.KFAC(), lin, 0.0).constant) == pytest.approx(
            whole, rel=1e-9
        )
    assert np.ptp(dispersions) < 1e-9
    # K_1 is then N times the leverages of the inputs.
    x = np.random.default_rng(0).normal(size=(samples, input_dim))
    leverages = np.diagonal(x @ np.linalg.pinv(x))
    assert dispersions[0] == pytest.approx(leverages.std() / leverages.mean(), rel=1e-6)


def test_kfac_input_layer_dispersion_at_unit_rows_is_that_of_theory():
    # The 0.18 of THEORY section 3 (N = 40, M_0 = 10) is for inputs of unit norm.
    found = []
    for seed in range(5):
        x = np.random.default_rng(seed).normal(size=(40, 10))
        x = jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))
        network = ngd.networks.mlp(10, [64], 1)
        lin = linearize(network, jax.jit(network.init)(jax.random.key(seed)), x)
        first = ngd.networks.Linearization(lin.outputs, lin.layers[:1])
        found.append(float(measure(ngd.fisher.KFAC(), first, 0.0).dispersion))
    assert np.mean(found) == pytest.approx(0.175, abs=0.03)


def test_forster_transform_makes_the_input_layer_isotropic_again():
    samples, input_dim = 24, 6
    x = np.random.default_rng(0).normal(size=(samples, input_dim))
    y, _ = ngd.data.forster(x)
    network = ngd.networks.mlp(input_dim, [64, 64], 1)
    lin = linearize(network, jax.jit(network.init)(jax.random.key(0)), jnp.asarray(y))
    first = ngd.networks.Linearization(lin.outputs, lin.layers[:1])
    found = measure(ngd.fisher.KFAC(), first, 0.0)
    assert float(found.constant) == pytest.approx(input_dim, rel=1e-8)
    assert float(found.dispersion) < 1e-8
    alpha = ngd.theory.isotropy_constant(ngd.fisher.KFAC(), network, samples)
    assert alpha == input_dim + samples * 1 + 1
    assert float(measure(ngd.fisher.KFAC(), lin, 0.0).constant) == pytest.approx(alpha, rel=1e-8)


def test_duplicated_inputs_leave_the_null_space_of_the_kernel_unmoved():
    network = ngd.networks.mlp(6, [32], 1)
    x = np.random.default_rng(0).normal(size=(5, 6))
    x = jnp.asarray(np.concatenate([x, x[:1]]))
    lin = linearize(network, jax.jit(network.init)(jax.random.key(0)), x)
    k = np.asarray(ngd.fisher.Exact().function_space_map(lin, 0.0))
    difference = np.asarray([1.0, 0, 0, 0, 0, -1.0])
    np.testing.assert_allclose(k @ difference, 0, atol=1e-8)
    np.testing.assert_allclose(np.trace(k), 5, atol=1e-8)


# --- Step sizes -------------------------------------------------------------------------------------


def test_step_sizes_follow_from_the_constant():
    network = ngd.networks.mlp(16, [64, 64], 1)
    kfac = ngd.fisher.KFAC()
    assert ngd.theory.optimal_step_size(kfac, network, N) == pytest.approx(1 / 17)
    assert ngd.theory.stable_step_sizes(kfac, network, N) == (0.0, pytest.approx(2 / 17))


def test_no_step_size_is_invented_where_there_is_no_constant():
    network = ngd.networks.mlp(16, [64], 1)
    for call in (ngd.theory.optimal_step_size, ngd.theory.stable_step_sizes):
        with pytest.raises(NotPredictedError, match=r"'entry-wise'.*largest_monotone_step_size"):
            call(ngd.fisher.EntryWise(), network, N)
    with pytest.raises(InputError, match="num_samples is 0"):
        ngd.theory.isotropy_constant(ngd.fisher.Exact(), network, 0)


def test_largest_monotone_step_size_is_one_over_the_largest_eigenvalue():
    map_ = jnp.diag(jnp.asarray([0.5, 4.0, 1.0]))
    assert float(ngd.theory.largest_monotone_step_size(map_)) == pytest.approx(0.25)


# --- Arguments and sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [2.5, True, "3", None, float("nan"), float("inf"), 0, -1, [3]])
def test_what_is_no_number_of_samples_is_refused(value):
    network, exact = ngd.networks.mlp(4, [8], 1), ngd.fisher.Exact()
    for call in (
        ngd.theory.isotropy_constant,
        ngd.theory.optimal_step_size,
        ngd.theory.stable_step_sizes,
        ngd.theory.step_memory,
    ):
        with pytest.raises(InputError, match="num_samples is"):
            call(exact, network, value)
    with pytest.raises(InputError, match="itemsize is"):
        ngd.theory.step_memory(exact, network, 3, value)


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.float32(3), jnp.asarray(3)])
def test_whole_numbers_of_any_type_count_samples(value):
    network = ngd.networks.mlp(4, [64], 1)
    assert ngd.theory.isotropy_constant(ngd.fisher.KFAC(), network, value) == 4


def test_the_weights_of_the_coupling_are_its_pseudo_inverse():
    for depth in range(1, 15):
        network = ngd.networks.mlp(6, [64] * (depth - 1), 1)
        coupling = np.eye(depth) + np.eye(depth, k=1) + np.eye(depth, k=-1)
        expected = np.linalg.pinv(coupling, hermitian=True).sum(axis=1)
        found = ngd.fisher.BlockTridiagonal().layer_constants(network.layer_sizes, 3)
        np.testing.assert_allclose(found, expected, atol=1e-12)


NAMES = ("exact", "block-diagonal", "block-tridiagonal", "kfac", "kfac-tridiagonal", "unit-wise")


@pytest.mark.parametrize(
    ("hidden", "activation"),
    [([10**9], "relu"), ([10**9, 10**9], "tanh"), ([8] * 2_000, "relu"), ([8] * 2_000, "identity")],
)
def test_sizes_are_counted_and_not_allocated(hidden, activation):
    start = time.perf_counter()
    network = ngd.networks.mlp(10, hidden, 1, activation)
    sizes = [10, *hidden, 1]
    assert network.num_parameters == sum(a * b for a, b in pairwise(sizes))
    assert [s.num_units for s in network.layer_sizes] == sizes[1:]
    for name in NAMES:
        approximation = ngd.fisher.by_name(name)
        alpha = ngd.theory.isotropy_constant(approximation, network, 4)
        memory = ngd.theory.step_memory(approximation, network, 4)
        assert type(memory.total) is int
        assert memory.parameters == 3 * 4 * network.num_parameters
        if activation != "identity" and hidden[0] > 8:
            expected = {"exact": 1, "block-diagonal": len(sizes) - 1, "kfac": 4 * len(hidden) + 1}
            gamma = {"relu": 0.5, "tanh": 1.0}[activation]
            expected["unit-wise"] = gamma * sum(hidden) + 1
            assert alpha == expected.get(name, alpha)
    # Some 0.3 s; what grows as the square of depth or width takes minutes.
    assert time.perf_counter() - start < 10
