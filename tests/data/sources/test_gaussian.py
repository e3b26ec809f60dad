import numpy as np
import pytest

from ngd_theory.data import DataError, load


def gaussian(**arguments):
    defaults = {"num_train": 20, "num_test": 8, "input_dim": 30, "output_dim": 2}
    return load("gaussian", **(defaults | arguments))


def test_inputs_are_standard_normal():
    x = gaussian(num_train=400, input_dim=200, unit_norm=False).inputs
    assert abs(x.mean()) < 0.02 and abs(x.std() - 1) < 0.02
    assert abs((x**4).mean() - 3) < 0.1


def test_targets_are_random_signs_times_one_half():
    y = gaussian(num_train=400).targets
    assert y.shape == (400, 2)
    assert set(np.unique(y)) == {-0.5, 0.5}
    assert np.abs(y.mean(axis=0)).max() < 0.1
    assert abs((y[:, 0] * y[:, 1]).mean()) < 0.05


def test_inputs_keep_full_rank():
    assert np.linalg.matrix_rank(gaussian().inputs) == 20


def test_one_hot_targets_are_balanced_classes():
    data = gaussian(targets="one-hot", output_dim=3)
    assert np.ptp(np.bincount(data.labels)) <= 1
    np.testing.assert_array_equal(data.targets, np.eye(3)[data.labels])


def test_training_rows_do_not_depend_on_the_number_of_test_rows():
    np.testing.assert_array_equal(gaussian().inputs, gaussian(num_test=0).inputs)


def test_test_rows_are_not_training_rows():
    data = gaussian(num_test=20)
    assert (data.inputs != data.test_inputs).all()


@pytest.mark.parametrize("name", ["input_dim", "output_dim"])
def test_both_dimensions_are_needed(name):
    with pytest.raises(DataError, match=f"gaussian needs {name}"):
        gaussian(**{name: None})
