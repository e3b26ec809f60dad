import numpy as np
import pytest

from ngd_theory.data import DataError, load


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin"])
def test_binary_batches_become_channels_last_images(tmp_path, write_cifar, subfolder):
    batches = write_cifar(tmp_path / subfolder)
    data = load(
        "cifar10",
        num_train=100,
        num_test=20,
        data_dir=tmp_path,
        standardise=False,
        unit_norm=False,
    )
    assert data.input_shape == (32, 32, 3)
    assert data.description["classes"][3] == "cat"
    for records, x, labels in (
        (np.concatenate(batches[:5]), data.inputs, data.labels),
        (batches[5], data.test_inputs, data.test_labels),
    ):
        images = np.rint(x * 255).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
        rebuilt = np.column_stack([labels, images.reshape(len(x), -1)]).astype(np.uint8)
        assert sorted(map(bytes, rebuilt)) == sorted(map(bytes, records))


def test_classes_go_by_name_or_number(tmp_path, write_cifar):
    write_cifar(tmp_path)
    by_name = load("cifar10", classes=("airplane", "dog"), num_train=6, data_dir=tmp_path)
    by_number = load("cifar10", classes=(0, 5), num_train=6, data_dir=tmp_path)
    np.testing.assert_array_equal(by_name.inputs, by_number.inputs)
    assert by_name.description["classes"] == ["airplane", "dog"]


def test_no_folder_and_no_files_say_what_is_needed(tmp_path):
    with pytest.raises(DataError, match=r"data_batch_1\.bin.*data_dir or NGD_THEORY_DATA"):
        load("cifar10", num_train=10)
    with pytest.raises(DataError, match=r"no CIFAR-10 .*test_batch\.bin"):
        load("cifar10", num_train=10, data_dir=tmp_path)


def test_a_missing_batch_is_named(tmp_path, write_cifar):
    write_cifar(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"lacks data_batch_3\.bin"):
        load("cifar10", num_train=10, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-1], "not a positive multiple of 3073"),
        (lambda b: b"", "has 0 bytes"),
        (lambda b: b"\x0a" + b[1:], "label 10"),
    ],
)
def test_a_damaged_batch_is_named(tmp_path, write_cifar, damage, message):
    write_cifar(tmp_path)
    path = tmp_path / "data_batch_2.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"data_batch_2\.bin.*{message}"):
        load("cifar10", num_train=10, data_dir=tmp_path)
