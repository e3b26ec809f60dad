"""The summary of a function-space map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ngd_theory as ngd
from ngd_theory.errors import InputError


def test_a_multiple_of_the_identity_has_no_dispersion():
    found = ngd.theory.isotropy(2.5 * jnp.eye(6))
    assert float(found.constant) == 2.5
    # XLA's optimisations leave a rounding.
    assert float(found.dispersion) < 1e-15
    assert (float(found.min_eigenvalue), float(found.max_eigenvalue)) == (2.5, 2.5)


def test_dispersion_is_the_relative_frobenius_distance_from_the_mean_identity():
    rng = np.random.default_rng(0)
    k = rng.normal(size=(5, 5))
    k = k @ k.T
    found = ngd.theory.isotropy(jnp.asarray(k))
    alpha = np.trace(k) / 5
    expected = np.linalg.norm(k - alpha * np.eye(5)) / (alpha * np.sqrt(5))
    assert float(found.constant) == pytest.approx(alpha)
    assert float(found.dispersion) == pytest.approx(expected)
    # Equivalently: the coefficient of variation of the eigenvalues.
    eigenvalues = np.linalg.eigvalsh(k)
    assert float(found.dispersion) == pytest.approx(eigenvalues.std() / eigenvalues.mean())
    assert float(found.min_eigenvalue) == pytest.approx(eigenvalues[0])
    assert float(found.max_eigenvalue) == pytest.approx(eigenvalues[-1])


def test_dispersion_does_not_depend_on_scale_or_basis():
    rng = np.random.default_rng(1)
    k = rng.normal(size=(4, 4))
    k = k @ k.T
    q, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    one = ngd.theory.isotropy(jnp.asarray(k))
    other = ngd.theory.isotropy(jnp.asarray(3 * q @ k @ q.T))
    assert float(other.dispersion) == pytest.approx(float(one.dispersion))
    assert float(other.constant) == pytest.approx(3 * float(one.constant))


def test_isotropy_can_be_jitted():
    found = jax.jit(ngd.theory.isotropy)(jnp.eye(3))
    assert isinstance(found, ngd.theory.Isotropy)
    assert float(found.constant) == 1


REFUSED = {
    "rectangular": (np.ones((2, 3)), "square map, train x train"),
    "a vector": (np.ones(4), "square map, train x train"),
    "empty": (np.ones((0, 0)), "one row at least"),
    "complex": (np.eye(2) * 1j, "real"),
    "truth values": (np.eye(2, dtype=bool), "real"),
    "texts": (np.full((2, 2), "a"), "real"),
    "a list": ([[1.0]], "not an array"),
    "nothing": (None, "not an array"),
    "NaN": (np.diag([1.0, np.nan]), "NaN or infinity.*check_conditions"),
    "infinite": (np.diag([1.0, np.inf]), "NaN or infinity"),
    "negative": (-np.diag(np.arange(1, 7.0)), "trace -21, which is not positive"),
    "traceless": (np.diag([1.0, -1.0]), "trace 0"),
    "zero": (np.zeros((2, 2)), "trace 0"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize(
    "measure",
    [ngd.theory.isotropy, ngd.theory.largest_monotone_step_size],
    ids=["isotropy", "step"],
)
def test_what_is_no_map_or_contracts_nothing_is_refused(measure, case):
    map_, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        measure(map_)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, jnp.bfloat16])
def test_maps_of_any_real_type_are_measured(dtype):
    found = ngd.theory.isotropy(np.asarray(3 * np.eye(4)).astype(dtype))
    assert float(found.constant) == 3 and float(found.dispersion) < 1e-15
    assert float(ngd.theory.largest_monotone_step_size(jnp.diag(jnp.array([1, 4])))) == 0.25


def test_inside_jit_a_dispersion_is_never_negative():
    measure = jax.jit(ngd.theory.isotropy)
    negative = -np.diag(np.arange(1, 7.0))
    expected = np.std(np.arange(1, 7)) / 3.5
    assert float(measure(negative).dispersion) == pytest.approx(expected)
    assert float(measure(negative).constant) == -3.5
    for traceless in (np.zeros((3, 3)), np.diag([1.0, -1.0])):
        assert np.isnan(float(measure(traceless).dispersion))
    with pytest.raises(InputError, match="square map"):
        jax.jit(ngd.theory.isotropy)(jnp.ones((2, 3)))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_maps_of_any_size_have_a_dispersion(scale):
    found = ngd.theory.isotropy(np.float32(scale) * np.diag(np.float32([1, 3])))
    assert float(found.dispersion) == pytest.approx(0.5)


def test_maps_whose_trace_is_out_of_range():
    large = np.float32(1e38)
    found = ngd.theory.isotropy(large * np.eye(10, dtype="float32"))
    for number in (found.constant, found.min_eigenvalue, found.max_eigenvalue):
        assert float(number) == pytest.approx(1e38)
    assert float(found.dispersion) == pytest.approx(0, abs=1e-6)
    # Sums from the left are inf - inf.
    mixed = np.diag(np.repeat(np.float32([1, -1, 1]), (9, 9, 1)))
    assert float(ngd.theory.isotropy(3 * large * mixed).constant) == pytest.approx(3e38 / 19)


@pytest.mark.parametrize("seed", range(4))
def test_what_damping_takes_of_unit_wise_is_bounded_sample_by_sample(seed):
    """Few sensitivities near 0 cost one sample most: a mean over samples would bound no dispersion."""
    net = ngd.networks.mlp(16, [128, 128], 1, "tanh", 1.0)
    x = jax.random.normal(jax.random.key(seed), (12, 16))
    lin = ngd.networks.linearize(net, net.init(jax.random.key(seed + 10)), x)
    unit_wise, rho = ngd.fisher.by_name("unit-wise"), 1e-10
    k = np.asarray(unit_wise.function_space_map(lin, rho))
    alpha, bias = np.trace(k) / 12, unit_wise.damping_bias(lin, rho)
    lost = (2 * 128 + 1) * np.eye(12) - k
    assert np.linalg.norm(lost) / (alpha * 12**0.5) <= 2 * bias
    # The control: bounds on the diagonal's entries are not loose by more than ten.
    assert np.linalg.norm(lost) / (alpha * 12**0.5) >= bias / 10
