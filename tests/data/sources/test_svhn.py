import numpy as np
import pytest
import scipy.io

from ngd_theory.data import DataError, load


def write(folder, name="train_32x32.mat", count=30, **changes):
    rng = np.random.default_rng(len(name))
    content = {
        "X": rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8),
        "y": (np.arange(count) % 10 + 1).astype(np.uint8)[:, None],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(folder / name, content)
    return content


@pytest.mark.parametrize("subfolder", ["", "svhn"])
def test_cropped_digits_become_channels_last_images_and_ten_is_zero(tmp_path, subfolder):
    train = write(tmp_path / subfolder)
    write(tmp_path / subfolder, "test_32x32.mat", 20)
    data = load(
        *("svhn",), num_train=30, num_test=20, data_dir=tmp_path, standardise=False, unit_norm=False
    )
    assert data.input_shape == (32, 32, 3)
    assert data.description["classes"] == list("0123456789")
    found = np.rint(data.inputs * 255).astype(np.uint8).reshape(-1, 32, 32, 3)
    for image, label in zip(found, data.labels, strict=True):
        (place,) = [i for i in range(30) if (train["X"][..., i] == image).all()]
        assert label == train["y"][place, 0] % 10


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(DataError, match=r"train_32x32\.mat.*data_dir or NGD_THEORY_DATA"):
        load("svhn", num_train=10)
    write(tmp_path)
    with pytest.raises(DataError, match=r"lacks test_32x32\.mat"):
        load("svhn", num_train=10, data_dir=tmp_path)
    write(tmp_path, "test_32x32.mat", 20)
    for changes, message in (
        ({"y": np.zeros((30, 1))}, "from 1 to 10"),
        ({"y": np.ones((7, 1))}, "7 labels"),
        ({"X": np.zeros((3, 3))}, r"\(3, 3\)"),
    ):
        write(tmp_path, **changes)
        with pytest.raises(DataError, match=message):
            load("svhn", num_train=10, data_dir=tmp_path)
    (tmp_path / "train_32x32.mat").write_bytes(b"not a MATLAB file")
    with pytest.raises(DataError, match=r"train_32x32\.mat is not a readable"):
        load("svhn", num_train=10, data_dir=tmp_path)
