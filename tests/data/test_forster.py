import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngd_theory.data import DataError, forster, unit_rows


def random_rows(num_rows, dim, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((num_rows, dim)) @ rng.standard_normal((dim, dim)) + 1.0


def leverages(x):
    q, _ = np.linalg.qr(x)
    return np.square(q).sum(axis=1)


cases = st.tuples(st.integers(1, 10), st.integers(0, 20), st.integers(0, 10_000))


@settings(max_examples=40, deadline=None)
@given(cases)
def test_transformed_rows_are_isotropic_of_equal_norm_and_equal_leverage(case):
    dim, extra, seed = case
    x = random_rows(dim + extra, dim, seed)
    y, _ = forster(x)
    np.testing.assert_allclose(y.T @ y / len(y), np.eye(dim), atol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), np.sqrt(dim), rtol=1e-12)
    np.testing.assert_allclose(leverages(y), dim / len(y), rtol=1e-8)


def test_unit_rows_alone_do_not_have_equal_leverages():
    assert np.ptp(leverages(unit_rows(random_rows(30, 8)))) > 0.01


def test_whitening_alone_does_not_have_unit_rows():
    q, _ = np.linalg.qr(random_rows(30, 8))
    assert np.ptp(np.linalg.norm(q, axis=1)) > 0.01


def test_the_map_gives_the_rows_and_maps_other_rows_too():
    x = random_rows(30, 8)
    y, linear_map = forster(x)
    np.testing.assert_allclose(unit_rows(x @ linear_map), y, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(unit_rows(x[:4] @ linear_map), y[:4], rtol=1e-9, atol=1e-12)


def test_the_map_is_symmetric_positive_definite_with_mean_eigenvalue_one():
    _, linear_map = forster(random_rows(30, 8))
    np.testing.assert_allclose(linear_map, linear_map.T, atol=1e-12)
    eigenvalues = np.linalg.eigvalsh(linear_map)
    assert eigenvalues.min() > 0
    np.testing.assert_allclose(eigenvalues.mean(), 1)


def test_the_map_does_not_depend_on_row_norms_or_row_order():
    x = random_rows(30, 8)
    rng = np.random.default_rng(5)
    rescaled = (x * rng.uniform(0.1, 10, (30, 1)))[rng.permutation(30)]
    np.testing.assert_allclose(forster(x)[1], forster(rescaled)[1], rtol=1e-7, atol=1e-9)


def test_rows_that_are_isotropic_already_stay_as_they_are():
    x = unit_rows(np.concatenate([np.eye(4), -np.eye(4)]))
    y, linear_map = forster(x)
    np.testing.assert_allclose(y, x, atol=1e-10)
    np.testing.assert_allclose(linear_map, np.eye(4), atol=1e-10)


def test_scale_sets_the_norm_of_the_rows():
    y, _ = forster(random_rows(30, 8), scale=1.0)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1.0)
    np.testing.assert_allclose(y.T @ y, np.eye(8) * 30 / 8, atol=1e-8)


def test_badly_conditioned_inputs_still_converge():
    x = random_rows(80, 10) * np.logspace(0, 6, 10)
    y, _ = forster(x)
    np.testing.assert_allclose(y.T @ y / 80, np.eye(10), atol=1e-8)


def test_one_row_too_many_for_a_basis_converges():
    y, _ = forster(random_rows(33, 32))
    np.testing.assert_allclose(y.T @ y / 33, np.eye(32), atol=1e-8)


def test_fewer_rows_than_features_are_refused():
    with pytest.raises(DataError, match="N=5 < M_0=8"):
        forster(random_rows(5, 8))


def test_collinear_features_are_refused():
    x = random_rows(30, 8)
    x[:, 3] = x[:, 1] - 2 * x[:, 5]
    with pytest.raises(DataError, match="rank 7 < M_0=8"):
        forster(x)


def test_a_constant_zero_feature_is_refused():
    x = random_rows(30, 8)
    x[:, 3] = 0
    with pytest.raises(DataError, match="full column rank"):
        forster(x)


@pytest.mark.parametrize("max_iterations", [10, 2000])
def test_too_many_parallel_rows_are_refused_as_not_converged(max_iterations):
    x = random_rows(20, 4)
    x[:10] = x[0]
    with pytest.raises(DataError, match="did not converge"):
        forster(x, max_iterations=max_iterations)


def test_too_few_iterations_are_an_error_and_no_poor_result():
    with pytest.raises(DataError, match="did not converge"):
        forster(random_rows(30, 8), max_iterations=2)


def test_a_zero_row_is_refused():
    x = random_rows(30, 8)
    x[4] = 0
    with pytest.raises(DataError, match="row 4 is zero"):
        forster(x)


@pytest.mark.parametrize("bad", [{"tolerance": 0.0}, {"tolerance": np.nan}, {"max_iterations": 0}])
def test_settings_that_cannot_stop_the_iteration_are_refused(bad):
    with pytest.raises(DataError, match=next(iter(bad))):
        forster(random_rows(30, 8), **bad)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    x = random_rows(30, 8)
    x[1, 2] = value
    with pytest.raises(DataError, match="row 1, column 2"):
        forster(x)
