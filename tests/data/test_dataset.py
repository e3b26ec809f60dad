import dataclasses

import numpy as np
import pytest

from ngd_theory.data import DataError, Dataset
from ngd_theory.data.raw import RawData, Rows
from ngd_theory.errors import InputError

GOOD = {
    "inputs": np.ones((4, 6)),
    "targets": np.ones((4, 2)),
    "labels": np.arange(4),
    "test_inputs": np.ones((3, 6)),
    "test_targets": np.ones((3, 2)),
    "test_labels": np.arange(3),
    "name": "mine",
    "input_shape": (2, 3, 1),
    "description": {},
}


def test_sizes_are_read_off_the_arrays():
    data = Dataset(**GOOD)
    assert (data.num_train, data.num_test, data.input_dim, data.output_dim) == (4, 3, 6, 2)


def test_a_dataset_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Dataset(**GOOD).name = "other"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": np.ones(6)}, "inputs have shape"),
        ({"test_inputs": np.ones((3, 5))}, "same width"),
        ({"test_targets": np.ones((3, 1))}, "same width"),
        ({"targets": np.ones((5, 2))}, "targets of mine have 5 rows"),
        ({"test_labels": np.arange(2)}, "test_labels of mine have 2 rows"),
        ({"labels": np.arange(3)}, "labels of mine have 3 rows"),
        ({"input_shape": (2, 2, 1)}, "input_shape"),
        ({"inputs": np.full((4, 6), np.nan)}, "inputs of mine hold 24 NaN"),
        ({"test_targets": np.full((3, 2), np.inf)}, "test_targets of mine"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        Dataset(**(GOOD | change))


def test_data_errors_are_input_and_value_errors():
    assert issubclass(DataError, InputError) and issubclass(DataError, ValueError)


def raw(train, test=None, shape=(3,)):
    return RawData(train=train, test=test, input_shape=shape, origin="here")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: raw(Rows(np.ones((4, 3)), np.arange(5))), "4 rows but there are 5"),
        (lambda: raw(Rows(np.ones((4, 2)), np.arange(4))), "2 features"),
        (
            lambda: raw(Rows(np.ones((1, 3)), np.array([[np.nan]]))),
            "training targets of here hold 1 NaN",
        ),
        (
            lambda: raw(
                Rows(np.ones((1, 3)), np.ones((1, 1))),
                Rows(np.ones((1, 3)), np.ones((1, 2))),
            ),
            "differ in shape",
        ),
    ],
)
def test_rows_of_a_source_that_do_not_fit_together_are_refused(build, message):
    with pytest.raises(DataError, match=message):
        build()
