import numpy as np
import pytest

from ngd_theory.data import DataError
from ngd_theory.data.class_targets import encode_labels, resolve_classes

DIGITS = tuple("0123456789")
ANIMALS = ("cat", "dog", "frog")


def test_two_centred_classes_are_minus_and_plus_one_half():
    y = encode_labels(np.array([0, 1, 1]), 2, "centred")
    np.testing.assert_array_equal(y, [[-0.5], [0.5], [0.5]])


def test_two_centred_classes_have_two_columns_on_request():
    y = encode_labels(np.array([0, 1]), 2, "centred", output_dim=2)
    np.testing.assert_array_equal(y, [[0.5, -0.5], [-0.5, 0.5]])


def test_more_centred_classes_are_one_hot_minus_one_over_c():
    y = encode_labels(np.array([2, 0]), 3, "centred")
    np.testing.assert_allclose(y, np.array([[0, 0, 1], [1, 0, 0]]) - 1 / 3)
    np.testing.assert_allclose(y.sum(axis=1), 0, atol=1e-15)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_one_hot_is_plain_for_any_number_of_classes(num_classes):
    labels = np.arange(num_classes)
    np.testing.assert_array_equal(
        encode_labels(labels, num_classes, "one-hot"), np.eye(num_classes)
    )


def test_no_labels_give_no_rows_of_the_right_width():
    assert encode_labels(np.zeros(0, dtype=int), 3, "centred").shape == (0, 3)


@pytest.mark.parametrize(
    ("num_classes", "coding", "output_dim"),
    [(3, "centred", 1), (3, "one-hot", 2), (2, "one-hot", 1), (2, "centred", 3)],
)
def test_an_output_dim_that_does_not_fit_is_refused(num_classes, coding, output_dim):
    with pytest.raises(DataError, match=f"output_dim is {output_dim}"):
        encode_labels(np.array([0]), num_classes, coding, output_dim)


def test_an_unknown_coding_lists_the_known_ones():
    with pytest.raises(DataError, match="centred, one-hot"):
        encode_labels(np.array([0]), 2, "plus-minus")


@pytest.mark.parametrize(
    ("names", "classes", "expected"),
    [
        (DIGITS, None, tuple(range(10))),
        (DIGITS, (7, 0), (7, 0)),
        (DIGITS, ["7", "0"], (7, 0)),
        (DIGITS, (np.int64(3), 4), (3, 4)),
        (ANIMALS, ("frog", "cat"), (2, 0)),
        (ANIMALS, (2, 0), (2, 0)),
        (("5", "7"), (7, 5), (1, 0)),
        (("-1", "1"), (-1, 1), (0, 1)),
    ],
)
def test_classes_are_found_by_name_or_by_position_of_a_word(names, classes, expected):
    assert resolve_classes(names, classes, "here") == expected


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (DIGITS, (0, 10)),
        (("5", "7"), (0, 5)),
        (ANIMALS, (0, 3)),
        (ANIMALS, ("cat", "cow")),
        (ANIMALS, (True, "cat")),
        (ANIMALS, (-1, "cat")),
    ],
)
def test_an_unknown_class_lists_those_that_exist(names, classes):
    with pytest.raises(DataError, match=f"here has no class .*{', '.join(names)}"):
        resolve_classes(names, classes, "here")


def test_long_class_lists_are_cut():
    names = tuple(str(k) for k in range(500))
    with pytest.raises(DataError, match=r"\(500 in all\)"):
        resolve_classes(names, (0, 500), "here")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((1, 1), "twice"),
        (("1", 1), "twice"),
        ((1,), "at least two"),
        ((), "at least two"),
        ("01", "give a list"),
    ],
)
def test_lists_that_are_no_choice_of_classes_are_refused(classes, message):
    with pytest.raises(DataError, match=message):
        resolve_classes(DIGITS, classes, "here")
