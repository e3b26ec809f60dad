import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngd_theory.data import DataError, principal_components, standardise, unit_rows
from ngd_theory.data.transforms import feature_statistics

shapes = st.tuples(st.integers(2, 30), st.integers(1, 12), st.integers(0, 10_000))


def random_rows(num_rows, dim, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((num_rows, dim)) * rng.uniform(0.01, 100, dim) + rng.normal(
        0, 9, dim
    )


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_standardised_training_features_have_mean_zero_and_variance_one(case):
    num_rows, dim, seed = case
    train, _ = standardise(random_rows(num_rows, dim, seed), random_rows(3, dim))
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(train.std(axis=0), 1, rtol=1e-10)


def test_standardise_uses_training_statistics_for_the_test_rows():
    train, test = random_rows(20, 5), random_rows(7, 5, seed=1)
    expected = (test - train.mean(axis=0)) / train.std(axis=0)
    np.testing.assert_allclose(standardise(train, test)[1], expected)


def test_standardise_is_not_influenced_by_the_test_rows():
    train = random_rows(20, 5)
    once, _ = standardise(train, random_rows(7, 5))
    again, _ = standardise(train, 1e6 * random_rows(9, 5, seed=3))
    np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e8 + 0.3])
def test_constant_features_become_exactly_zero(value):
    train, test = random_rows(31, 3), random_rows(4, 3)
    train[:, 1] = value
    train, test = standardise(train, test)
    assert (train[:, 1] == 0).all() and (test[:, 1] == 0).all()
    assert (train[:, [0, 2]] != 0).all()


def test_standardising_over_the_rows_themselves_loses_a_rank_and_over_a_pool_does_not():
    pool = random_rows(200, 50)
    train = pool[:20]
    alone, _ = standardise(train, train[:0])
    pooled, _ = standardise(train, train[:0], reference=pool)
    assert np.linalg.matrix_rank(unit_rows(alone)) == 19
    assert np.linalg.matrix_rank(unit_rows(pooled)) == 20


def test_feature_statistics_of_bytes_match_numpy_across_blocks():
    x = np.random.default_rng(0).integers(0, 256, (9000, 6), dtype=np.uint8)
    x[:, 2] = 7
    mean, std = feature_statistics(x)
    np.testing.assert_allclose(mean, x.astype(float).mean(axis=0))
    np.testing.assert_allclose(std, x.astype(float).std(axis=0))
    assert std[2] == 0


@settings(max_examples=40, deadline=None)
@given(shapes, st.sampled_from([None, 1.0, 3.5]))
def test_unit_rows_have_the_norm_asked_for_and_keep_their_direction(case, scale):
    num_rows, dim, seed = case
    x = random_rows(num_rows, dim, seed)
    y = unit_rows(x, scale)
    norm = np.sqrt(dim) if scale is None else scale
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), norm, rtol=1e-12)
    np.testing.assert_allclose((x * y).sum(axis=1), np.linalg.norm(x, axis=1) * norm, rtol=1e-10)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_unit_rows_survive_squares_that_over_or_underflow(size):
    y = unit_rows(np.array([[3.0, 4.0]]) * size, 1.0)
    np.testing.assert_allclose(y, [[0.6, 0.8]])


def test_unit_rows_of_no_rows_is_no_rows():
    assert unit_rows(np.zeros((0, 4))).shape == (0, 4)


def test_transforms_leave_their_arguments_alone():
    x = random_rows(6, 3)
    before = x.copy()
    standardise(x, x)
    unit_rows(x)
    principal_components(x, x, 2)
    np.testing.assert_array_equal(x, before)


def test_unit_rows_name_the_zero_row():
    with pytest.raises(DataError, match=r"row 2 is zero \(1 such of 3\)"):
        unit_rows(np.array([[1.0, 2], [3, 4], [0, 0]]))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan])
def test_unit_rows_refuse_a_scale_that_is_no_norm(scale):
    with pytest.raises(DataError, match="scale"):
        unit_rows(np.ones((2, 2)), scale)


def test_all_principal_components_keep_the_inner_products():
    train, test = random_rows(20, 6), random_rows(5, 6, seed=1)
    p, p_test = principal_components(train, test, 6)
    np.testing.assert_allclose(p @ p.T, train @ train.T)
    np.testing.assert_allclose(p_test @ p.T, test @ train.T)


def test_few_principal_components_are_the_best_low_rank_approximation():
    train = random_rows(20, 6)
    p, _ = principal_components(train, train, 2)
    singular = np.linalg.svd(train, compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(p, axis=0), singular[:2])
    np.testing.assert_allclose(p.T @ p, np.diag(singular[:2] ** 2), atol=1e-6)


def test_more_principal_components_than_the_rank_are_refused():
    with pytest.raises(DataError, match="rank 3"):
        principal_components(random_rows(3, 6), random_rows(2, 6), 4)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros(4), "shape"),
        (np.zeros((2, 3, 4)), "shape"),
        (np.zeros((2, 0)), "no columns"),
        (np.array([["a", "b"]]), "real numbers"),
        (np.array([[1.0, np.nan]]), "row 0, column 1"),
        (np.array([[1.0, 2.0], [-np.inf, 0.0]]), "row 1, column 0"),
    ],
)
def test_arrays_that_are_no_finite_matrix_are_refused(bad, message):
    good = np.ones((2, 2))
    for call in (
        lambda: unit_rows(bad),
        lambda: standardise(bad, good),
        lambda: standardise(good, bad),
        lambda: principal_components(bad, good, 1),
    ):
        with pytest.raises(DataError, match=message):
            call()


def test_different_widths_are_refused():
    with pytest.raises(DataError, match="same width"):
        standardise(np.ones((3, 2)), np.ones((3, 4)))
    with pytest.raises(DataError, match="same width"):
        principal_components(np.ones((3, 2)), np.ones((3, 4)), 1)


def test_statistics_of_no_rows_are_refused():
    with pytest.raises(DataError, match="no rows"):
        feature_statistics(np.zeros((0, 3)))


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e200, 5e307])
def test_standardising_does_not_depend_on_the_unit(scale):
    x = np.random.default_rng(0).uniform(-1, 1, size=(7, 3))
    expected = standardise(x[:5], x[5:])
    tolerance = (
        1e-11 if scale < 1e-300 else 1e-14
    )  # of digits that numbers below the normal ones have
    for found, wanted in zip(standardise(scale * x[:5], scale * x[5:]), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e3 * tolerance, atol=tolerance)
    for found, wanted in zip(feature_statistics(scale * x), feature_statistics(x), strict=True):
        np.testing.assert_allclose(found, scale * wanted, rtol=1e-9)


def test_what_is_beyond_the_range_of_floats_is_named():
    x = np.random.default_rng(0).uniform(-1, 1, size=(7, 3))
    with pytest.raises(DataError, match="standardised test inputs are beyond the range of float64"):
        standardise(1e-300 * x[:5], 1e300 * x[5:])
    with pytest.raises(DataError, match="projected training inputs are beyond the range"):
        principal_components(np.full((2, 3), [[1.7e308], [-1.7e308]]), x, 1)
