"""CURVES: the strokes against the parabola they are of, and what the cache folder may do."""

import numpy as np
import pytest
from scipy import ndimage

from ngd_theory.data import DataError, curves, load
from ngd_theory.data.curves import curve_points


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("NGD_THEORY_CACHE", str(folder))
    return folder


def test_images_are_grey_and_whole():
    images = curves(300)
    assert images.shape == (300, 784) and images.dtype == np.float32
    assert images.min() == 0 and 0.9 < images.max() <= 1
    # Short strokes, of points close together, have the least.
    assert images.sum(axis=1).min() > 1
    assert np.mean((images > 0.1) & (images < 0.9)) > 0.02
    assert len(np.unique(images)) > 200
    touched = np.pad(np.zeros((26, 26), bool), 1, constant_values=True).ravel()
    assert images[:, touched].max() <= 0.5


@pytest.mark.parametrize("size", [12, 28, 40])
def test_ink_is_one_less_the_distance_to_the_parabola_through_the_points(size):
    p0, p1, p2 = (curve_points(4, seed=3, size=size)[:, k, None] for k in range(3))
    t = np.linspace(0, 1, 4001)[:, None]
    # Newton's form of the interpolant, at nodes 0, 1/2 and 1.
    stroke = p0 + 2 * t * (p1 - p0) + 2 * t * (t - 0.5) * (p2 - 2 * p1 + p0)
    np.testing.assert_allclose(stroke[:, [0, 2000, 4000]], np.hstack([p0, p1, p2]), atol=1e-12)
    assert stroke.min() >= 1 and stroke.max() <= size - 1
    rows, columns = np.divmod(np.arange(size**2), size)
    centres = np.column_stack([columns, rows]) + 0.5
    for image, points in zip(curves(4, seed=3, size=size), stroke, strict=True):
        distance = np.linalg.norm(centres[:, None] - points, axis=-1).min(axis=1)
        np.testing.assert_allclose(image, np.clip(1 - distance, 0, 1), atol=0.04)


def test_every_image_is_one_stroke_through_its_points():
    eight_neighbours = np.ones((3, 3))
    for image, points in zip(curves(200).reshape(-1, 28, 28), curve_points(200), strict=True):
        assert ndimage.label(image > 0, eight_neighbours)[1] == 1
        columns, rows = np.floor(points).astype(int).T
        # A pixel's centre is at most sqrt(1/2) from a point in it.
        assert image[rows, columns].min() > 0.25


def test_images_are_a_function_of_the_seed_and_a_larger_set_begins_with_a_smaller():
    images = curves(200, seed=1)
    np.testing.assert_array_equal(curves(70, seed=1), images[:70])
    assert not (curves(200, seed=2) == images).all(axis=1).any()
    np.testing.assert_array_equal(curve_points(70, seed=1), curve_points(200, seed=1)[:70])


def test_the_second_call_reads_the_file(cache):
    curves(5)
    (path,) = cache.iterdir()
    marked = np.arange(5 * 784).reshape(5, 784).astype(np.uint8)
    np.savez(path, levels=marked)
    np.testing.assert_array_equal(curves(5), marked.astype(np.float32) / np.float32(255))


def test_sets_that_differ_have_files_of_their_own(cache):
    asked = [{}, {"seed": 1}, {"size": 12}, {"num_images": 6}]
    sets = [curves(**{"num_images": 5, **arguments}) for arguments in asked]
    assert len(list(cache.iterdir())) == len(asked)
    for images, arguments in zip(sets, asked, strict=True):
        np.testing.assert_array_equal(images, curves(**{"num_images": 5, **arguments}))
    assert not np.array_equal(sets[0], sets[1])


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda c: b"", lambda c: c[: len(c) // 2], lambda c: b"no archive", flipped],
    ids=["empty", "truncated", "garbage", "one byte"],
)
def test_a_damaged_file_is_made_again(cache, damage):
    images = curves(5)
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    np.testing.assert_array_equal(curves(5), images)
    assert list(cache.iterdir()) == [path]
    with np.load(path) as archive:
        np.testing.assert_array_equal(archive["levels"] / np.float32(255), images)


@pytest.mark.parametrize(
    "arrays",
    [
        {"levels": np.zeros((4, 784), np.uint8)},
        {"levels": np.zeros((5, 784))},
        {"others": np.zeros((5, 784), np.uint8)},
        {"levels": np.full((5, 784), None)},
    ],
    ids=["shape", "dtype", "key", "pickle"],
)
def test_a_file_of_something_else_is_made_again(cache, arrays):
    images = curves(5)
    (path,) = cache.iterdir()
    np.savez(path, **arrays)
    np.testing.assert_array_equal(curves(5), images)


def test_without_a_folder_to_write_in_nothing_is_kept(cache):
    images = curves(5)
    for path in cache.iterdir():
        path.unlink()
    cache.rmdir()
    cache.write_text("a file where the folder should be")
    np.testing.assert_array_equal(curves(5), images)
    assert cache.is_file()


def test_the_folder_is_the_users_cache_unless_one_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("NGD_THEORY_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    curves(2)
    assert len(list((tmp_path / ".cache/ngd_theory").iterdir())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    curves(2)
    assert len(list((tmp_path / "xdg/ngd_theory").iterdir())) == 1


def test_a_user_without_a_home_folder_is_served(monkeypatch):
    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.expanduser", no_home)
    assert curves(2).shape == (2, 784)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 0}, "num_images is 0; give a whole number of at least 1"),
        ({"num_images": True}, "num_images is True"),
        ({"num_images": 2, "seed": -1}, "seed is -1"),
        ({"num_images": 2, "size": 3}, "size is 3; give a whole number of at least 4"),
    ],
)
def test_a_bad_number_is_named(cache, arguments, message):
    with pytest.raises(DataError, match=message):
        curves(**arguments)
    assert not cache.exists()


def test_as_a_source_the_images_are_their_own_targets(monkeypatch):
    monkeypatch.setattr("ngd_theory.data.sources.curves.curves", lambda: curves(30))
    data = load("curves", num_train=20, num_test=10, standardise=False, unit_norm=False)
    assert data.input_shape == (28, 28, 1) and data.labels is None
    np.testing.assert_array_equal(data.inputs, data.targets)
    rows = np.vstack([data.inputs, data.test_inputs])
    assert {row.tobytes() for row in rows.astype(np.float32)} == {r.tobytes() for r in curves(30)}
