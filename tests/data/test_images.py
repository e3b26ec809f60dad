"""Raw images for autoencoders, from every place they can come from."""

import numpy as np
import pytest

from ngd_theory.data import DataError, autoencoder_images, curves


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NGD_THEORY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def faces(tmp_path):
    images = np.random.default_rng(0).normal(size=(12, 625))
    np.savez(tmp_path / "faces.npz", images=images)
    return images.astype(np.float32)


def rows(images):
    return {row.tobytes() for row in images}


def test_curves_are_those_of_the_seed():
    images = autoencoder_images("curves", num_images=7, seed=2)
    np.testing.assert_array_equal(images, curves(7, seed=2))


def test_mnist_images_are_grey_levels_of_all_classes_in_any_part():
    images = autoencoder_images("mnist")
    assert images.shape == (5000, 784) and images.dtype == np.float32
    assert images.min() == 0 and images.max() == 1
    np.testing.assert_array_equal(images * 255, np.rint(images * 255))
    np.testing.assert_array_equal(autoencoder_images("mnist", num_images=100), images[:100])
    assert rows(autoencoder_images("mnist", seed=1)) == rows(images)
    # The file is sorted by digit; ones have half the ink of zeros.
    parts = images[:2000].sum(axis=1).reshape(4, 500).mean(axis=1)
    assert np.ptp(parts) < 0.15 * parts.mean()


def test_mnist_is_read_from_the_original_files_where_there_are(tmp_path, write_idx):
    written = write_idx(tmp_path)["train"][0].reshape(40, 12)
    images = autoencoder_images("mnist", data_dir=tmp_path)
    assert rows(np.rint(images * 255).astype(np.int64)) == rows(written)


@pytest.mark.parametrize("subfolder", ["", "faces"])
def test_faces_are_as_in_their_file(tmp_path, faces, subfolder, monkeypatch):
    (tmp_path / subfolder).mkdir(exist_ok=True)
    (tmp_path / "faces.npz").rename(tmp_path / subfolder / "faces.npz")
    images = autoencoder_images("faces", data_dir=tmp_path)
    assert images.dtype == np.float32
    assert rows(images) == rows(faces)
    monkeypatch.setenv("NGD_THEORY_DATA", str(tmp_path))
    np.testing.assert_array_equal(autoencoder_images("faces", num_images=5), images[:5])
    assert not np.array_equal(autoencoder_images("faces", seed=1), images)


def test_without_faces_the_wanted_file_is_described(tmp_path):
    wanted = r"faces\.npz with an array images \(N, 625\)"
    with pytest.raises(DataError, match=f"faces needs {wanted}.*NGD_THEORY_DATA"):
        autoencoder_images("faces")
    with pytest.raises(DataError, match=f"holds no {wanted}"):
        autoencoder_images("faces", data_dir=tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        autoencoder_images("faces", data_dir=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((3, 625))}, r"has no array images \(found x\)"),
        ({"images": np.zeros((3, 624))}, r"have shape \(3, 624\), not \(N, 625\)"),
        ({"images": np.zeros((0, 625))}, r"have shape \(0, 625\)"),
        ({"images": np.full((3, 625), np.nan)}, "NaN or infinite"),
        ({"images": np.full((3, 625), "a")}, "give real numbers"),
        ({"images": np.full((3, 625), None)}, "is not a readable .npz file of numbers"),
    ],
)
def test_faces_of_the_wrong_kind_are_described(tmp_path, arrays, message):
    np.savez(tmp_path / "faces.npz", **arrays)
    with pytest.raises(DataError, match=message):
        autoencoder_images("faces", data_dir=tmp_path)


def test_a_damaged_file_of_faces_is_described(tmp_path, faces):
    path = tmp_path / "faces.npz"
    content = path.read_bytes()
    for damaged in (b"", b"no archive", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"is not a readable \.npz file"):
            autoencoder_images("faces", data_dir=tmp_path)
    with path.open("wb") as file:
        np.save(file, faces)
    with pytest.raises(DataError, match=r"is not a readable \.npz file"):
        autoencoder_images("faces", data_dir=tmp_path)


def test_more_images_than_there_are_is_an_error(tmp_path, faces):
    with pytest.raises(DataError, match=r"13 images were asked for but .*faces\.npz has only 12"):
        autoencoder_images("faces", num_images=13, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cats"}, "there are no images 'cats'; choose one of curves, mnist, faces"),
        ({"num_images": 0}, "num_images is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_bad_argument_is_named(arguments, message):
    with pytest.raises(DataError, match=message):
        autoencoder_images(**{"name": "mnist", **arguments})
