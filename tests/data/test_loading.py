import json

import numpy as np
import pytest

from ngd_theory.data import DataError, load, source_names


def same(a, b):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("inputs", "targets", "labels", "test_inputs", "test_targets", "test_labels")
    )


def digits(**arguments):
    return load("digits", **({"num_train": 40, "num_test": 20} | arguments))


def test_the_listing_holds_every_kind_of_source():
    names = source_names()
    assert {"mnist", "fashion-mnist", "cifar10", "digits", "gaussian"} <= set(names)
    assert {"openml:NAME", "PATH.npz"} <= set(names)


@pytest.mark.parametrize("name", ["minst", "", "data.csv", "svhn2"])
def test_an_unknown_source_lists_the_known_ones(name):
    with pytest.raises(DataError, match="choose one of cifar10, digits, fashion-mnist"):
        load(name, num_train=10)


@pytest.mark.parametrize("source", ["digits", "gaussian"])
def test_the_same_seed_gives_the_same_data_and_another_seed_other(source):
    dims = {"input_dim": 8, "output_dim": 1} if source == "gaussian" else {}
    first, again, other = (
        load(source, num_train=20, num_test=10, seed=seed, **dims) for seed in (1, 1, 2)
    )
    assert same(first, again)
    assert not np.array_equal(first.inputs, other.inputs)
    assert not np.array_equal(first.test_inputs, other.test_inputs)


def test_training_and_test_rows_are_disjoint():
    data = digits(num_train=900, num_test=800, standardise=False, unit_norm=False)
    train, test = ({row.tobytes() for row in x} for x in (data.inputs, data.test_inputs))
    assert len(train) == 900 and len(test) == 800 and not train & test


def test_classes_are_balanced_and_labels_follow_the_order_named():
    data = digits(classes=(7, 3, 1), num_train=40)
    assert sorted(np.bincount(data.labels)) == [13, 13, 14]
    reordered = digits(classes=(1, 3, 7), num_train=40)
    assert data.description["classes"] == ["7", "3", "1"]
    assert reordered.description["classes"] == ["1", "3", "7"]


def test_labels_are_those_of_the_rows():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    label_of = {row.tobytes(): label for row, label in zip(x, y, strict=True)}
    data = digits(classes=(7, 3, 1), standardise=False, unit_norm=False)
    for rows, labels in ((data.inputs, data.labels), (data.test_inputs, data.test_labels)):
        assert [label_of[(row * 16).tobytes()] for row in rows] == [(7, 3, 1)[k] for k in labels]


def test_two_classes_make_one_output_and_more_make_one_each():
    two, ten = digits(classes=(8, 2)), digits()
    np.testing.assert_array_equal(two.targets[:, 0], two.labels - 0.5)
    assert ten.targets.shape == (40, 10) and ten.test_targets.shape == (20, 10)
    np.testing.assert_allclose(ten.targets.sum(axis=1), 0, atol=1e-14)
    one_hot = digits(classes=(8, 2), targets="one-hot")
    np.testing.assert_array_equal(one_hot.targets, np.eye(2)[one_hot.labels])


def test_rows_have_norm_root_of_the_input_width():
    data = digits()
    for x in (data.inputs, data.test_inputs):
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 8.0)


def test_features_are_standardised_over_all_training_rows_that_are_no_test_rows():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    plain = digits(classes=(0, 1), standardise=False, unit_norm=False)
    data = digits(classes=(0, 1), unit_norm=False)
    test_rows = {row.tobytes() for row in plain.test_inputs * 16}
    pool = np.array([row for row in x[y < 2] if row.tobytes() not in test_rows]) / 16
    std = pool.std(axis=0)
    gain = np.where(std > 0, 1 / np.where(std > 0, std, 1), 0)
    np.testing.assert_allclose(data.inputs, (plain.inputs - pool.mean(axis=0)) * gain, atol=1e-9)
    np.testing.assert_allclose(
        data.test_inputs, (plain.test_inputs - pool.mean(axis=0)) * gain, atol=1e-9
    )


def test_standardised_inputs_keep_full_rank_without_forster():
    data = load("mnist", classes=(0, 1), num_train=50)
    assert np.linalg.matrix_rank(data.inputs) == 50


@pytest.mark.parametrize("source", ["digits", "mnist", "gaussian"])
def test_forster_gives_isotropic_rows_and_maps_the_test_rows(source):
    dims = {"output_dim": 2} if source == "gaussian" else {}
    arguments = {"num_train": 100, "num_test": 30, "input_dim": 20, **dims}
    data = load(source, forster=True, **arguments)
    np.testing.assert_allclose(data.inputs.T @ data.inputs / 100, np.eye(20), atol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(data.inputs, axis=1), np.sqrt(20))
    np.testing.assert_allclose(np.linalg.norm(data.test_inputs, axis=1), np.sqrt(20))
    plain = load(source, forster=False, **arguments)
    assert np.abs(plain.inputs.T @ plain.inputs / 100 - np.eye(20)).max() > 0.01
    # One linear map must send both plain sets to the transformed ones, up to row norms.
    linear_map = np.linalg.lstsq(plain.inputs, data.inputs, rcond=None)[0]
    assert np.linalg.matrix_rank(linear_map) == 20


def test_forster_test_rows_equal_training_rows_where_the_raw_rows_point_the_same_way(write_npz):
    x = np.random.default_rng(0).standard_normal((40, 6))
    path = write_npz(x=x, y=x[:, 0], x_test=2 * x, y_test=x[:, 0])
    data = load(path, num_train=40, num_test=40, forster=True, standardise=False)
    order, test_order = np.argsort(data.targets[:, 0]), np.argsort(data.test_targets[:, 0])
    np.testing.assert_allclose(data.inputs[order], data.test_inputs[test_order], atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_test_rows_that_are_training_rows_are_refused_or_counted(write_npz, dtype):
    rng = np.random.default_rng(0)
    # Halves: the same numbers in both types.
    x = rng.integers(-(10**6), 10**6, (200, 3)) / 2
    other = x + np.array([0.25, 0, 0])
    y = np.arange(200) % 2
    x_test = other.astype(dtype)
    x_test[7] = x[11]
    raw = {"num_train": 200, "standardise": False, "unit_norm": False}
    path = write_npz(x=x.astype(np.float32), y=y, x_test=x_test, y_test=y)
    one = load(path, num_test=200, **raw)
    assert one.description["notes"] == ["1 of the 200 test rows are training rows too"]
    x_test[:5] = x[:5]
    path = write_npz(x=x.astype(np.float32), y=y, x_test=x_test, y_test=y)
    with pytest.raises(DataError, match=r"6 of the 200 test rows of .*npz are training rows too"):
        load(path, num_test=200, **raw)
    assert load(path, num_test=0, **raw).description["notes"] == []


def test_forster_on_images_names_the_remedy():
    with pytest.raises(DataError, match="smaller input_dim"):
        digits(num_train=200, forster=True)
    with pytest.raises(DataError, match=r"N=40 < M_0=64.*smaller input_dim"):
        digits(num_train=40, forster=True)


def test_input_dim_keeps_principal_components():
    data = digits(input_dim=10)
    assert data.input_shape == (10,) and data.inputs.shape == (40, 10)
    assert "10 principal components of the training rows" in data.description["preprocessing"]
    assert digits(input_dim=64).input_shape == (8, 8, 1)


def test_the_description_is_json_and_names_the_steps_in_order():
    description = digits(input_dim=10, forster=True).description
    assert json.loads(json.dumps(description)) == description
    assert [step.split()[0] for step in description["preprocessing"]] == [
        "features",
        "10",
        "rows",
        "Forster",
    ]
    assert digits(standardise=False, unit_norm=False).description["preprocessing"] == []


def test_no_test_rows_give_empty_arrays():
    data = digits(num_test=0, forster=True, input_dim=10)
    assert data.test_inputs.shape == (0, 10)
    assert data.test_targets.shape == (0, 10) and data.test_labels.shape == (0,)


def test_a_row_that_preprocessing_makes_zero_is_an_error(write_npz):
    x = np.random.default_rng(0).standard_normal((6, 4))
    x[2] = 0
    with pytest.raises(DataError, match="is zero"):
        load(write_npz(x=x, y=x[:, 0]), num_train=6, standardise=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train": 0}, "num_train is 0"),
        ({"num_train": -3}, "num_train is -3"),
        ({"num_train": True}, "num_train is True"),
        ({"num_test": -1}, "num_test is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"input_dim": 0}, "input_dim is 0"),
        ({"input_dim": 65}, "input_dim is 65"),
        ({"input_dim": 63, "num_train": 100}, "principal components"),
        ({"output_dim": 0}, "output_dim is 0"),
        ({"output_dim": 3}, "output_dim is 3"),
        ({"targets": "plus-minus"}, "centred, one-hot"),
        ({"classes": (0, 12)}, "no class 12; its classes are 0, 1"),
        ({"num_train": 1800}, "ask for at most"),
        ({"num_test": 1750}, "ask for at most"),
        ({"classes": (0, 1), "num_train": 400}, "class 0: 178, class 1: 182"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_in_one_line(arguments, message):
    with pytest.raises(DataError, match=message) as caught:
        digits(**arguments)
    assert "\n" not in str(caught.value)
