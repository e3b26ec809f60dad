import numpy as np
import pytest

from ngd_theory.data import DataError, load

X = np.random.default_rng(0).standard_normal((12, 5))
LABELS = np.arange(12) % 3
RAW = {"standardise": False, "unit_norm": False}


@pytest.mark.parametrize("keys", [("x", "y"), ("inputs", "labels"), ("inputs", "targets")])
def test_integers_are_labels(write_npz, keys):
    path = write_npz(**{keys[0]: X, keys[1]: LABELS * 10 - 10})
    data = load(path, classes=(10, -10), num_train=8, **RAW)
    assert data.description["classes"] == ["10", "-10"]
    assert data.input_shape == (5,)
    for row, label, target in zip(data.inputs, data.labels, data.targets, strict=True):
        position = np.flatnonzero((X == row).all(axis=1))[0]
        assert LABELS[position] == (2, 0)[label]
        assert target == label - 0.5


@pytest.mark.parametrize("width", [None, 1, 2])
def test_floats_are_regression_targets_used_as_they_are(write_npz, width):
    y = X[:, 0] if width is None else X[:, :width]
    data = load(str(write_npz(x=X, y=y)), num_train=7, num_test=5, **RAW)
    assert data.labels is None and data.test_labels is None
    assert data.targets.shape == (7, width or 1)
    np.testing.assert_array_equal(data.targets, data.inputs[:, : width or 1])
    np.testing.assert_array_equal(data.test_targets, data.test_inputs[:, : width or 1])
    assert data.description["targets"] == "as given"


def test_test_rows_of_the_file_are_used(write_npz):
    path = write_npz(x=X, y=LABELS, x_test=X[:6] + 100, y_test=LABELS[:6])
    data = load(path, num_train=12, num_test=6, **RAW)
    assert (data.test_inputs > 50).all() and (data.inputs < 50).all()


@pytest.mark.parametrize(("shape", "expected"), [((4, 3), (4, 3, 1)), ((2, 3, 2), (2, 3, 2))])
def test_images_keep_their_shape(write_npz, shape, expected):
    data = load(write_npz(x=X[:, :1].repeat(12, 1).reshape(12, *shape), y=LABELS), num_train=3)
    assert data.input_shape == expected


def test_single_precision_and_bytes_become_double(write_npz):
    for dtype in (np.float32, np.uint8):
        data = load(write_npz(x=(X * 10 + 50).astype(dtype), y=LABELS), num_train=6)
        assert data.inputs.dtype == data.targets.dtype == np.float64


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": LABELS}, "no array x or inputs .found y"),
        ({"x": X}, "no array y or targets or labels"),
        ({"x": X, "inputs": X, "y": LABELS}, "both x and inputs"),
        ({"x": X, "y": LABELS, "x_test": X}, "no array y_test or test_targets or test_labels"),
        ({"x": X, "y": LABELS, "x_test": X, "y_test": X}, "labels in one"),
        ({"x": X, "y": LABELS, "x_test": X[:, :2], "y_test": LABELS}, "make them agree"),
        ({"x": X, "y": LABELS[:5]}, "12 rows but there are 5"),
        ({"x": X[:, 0], "y": LABELS}, "x of shape"),
        ({"x": X[:0], "y": LABELS[:0]}, "x of shape"),
        ({"x": X.astype(complex), "y": LABELS}, "x of type complex128"),
        ({"x": X.astype(str), "y": LABELS}, "x of type"),
        ({"x": X, "y": LABELS[:, None]}, "y of type int64"),
        ({"x": X, "y": LABELS.astype(str)}, "y of type"),
        ({"x": X, "y": np.array(list(map(str, LABELS)), dtype=object)}, "object arrays"),
        ({"x": X.astype(object), "y": LABELS}, "object arrays"),
        ({"x": np.where(X > 1, np.nan, X), "y": LABELS}, "training inputs of .* NaN"),
        ({"x": X, "y": X * np.inf}, "training targets of .* infinite"),
    ],
)
def test_arrays_that_cannot_be_used_are_named_with_the_file(write_npz, arrays, message):
    with pytest.raises(DataError, match=message) as caught:
        load(write_npz(**arrays), num_train=3)
    assert "own.npz" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda b: b[:-30], lambda b: b"", lambda b: b"no archive"])
def test_a_damaged_file_is_named(write_npz, damage):
    path = write_npz(x=X, y=LABELS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"own\.npz is not a readable"):
        load(path, num_train=3)


@pytest.mark.parametrize("part", ["encryption", "compression", "content"])
def test_damaged_bytes_within_an_archive_are_named(write_npz, part):
    path = write_npz(x=X, y=LABELS)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    position = {"encryption": entry + 8, "compression": entry + 10, "content": 300}[part]
    content[position] ^= 0x01
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"own\.npz is not a readable"):
        load(path, num_train=3)


def test_a_single_array_under_the_name_of_an_archive_is_refused(tmp_path):
    path = tmp_path / "own.npz"
    with path.open("wb") as file:
        np.save(file, X)
    with pytest.raises(DataError, match=r"single \.npy array"):
        load(path, num_train=3)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.npz is not a file"):
        load(tmp_path / "absent.npz", num_train=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": (0, 1)}, "no classes"),
        ({"targets": "one-hot"}, "one-hot ones need labels"),
        ({"output_dim": 2}, "output_dim is 2"),
    ],
)
def test_class_arguments_are_refused_for_regression(write_npz, arguments, message):
    with pytest.raises(DataError, match=message):
        load(write_npz(x=X, y=X[:, 0]), num_train=3, **arguments)
