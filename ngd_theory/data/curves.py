"""CURVES: synthetic images of smooth strokes, made here and kept in a cache folder."""

from contextlib import suppress
from math import ceil

import numpy as np
from jaxtyping import Float, UInt8

from ngd_theory.data.checks import require_count
from ngd_theory.files import cache_folder, written

#: Increase it whenever the pixels of an image change; files of another format are then ignored.
_FORMAT = 1
_BATCH_PIXELS = 2**16
_TOLERANCE = 0.03


def curves(num_images: int = 20_000, *, seed: int = 0, size: int = 28) -> Float[np.ndarray, "N D"]:
    """Grey images of one smooth stroke each, through three random points of the plane.

    They are new images that stand in for the CURVES data of Hinton & Salakhutdinov (Science 313, 2006),
    on which deep autoencoders are compared (Martens 2010; Martens & Grosse 2015). The stroke is the
    parabola ``p(t)`` through the points ``p(0), p(1/2), p(1)`` of `curve_points`. A pixel at distance
    d from it has ink ``max(0, 1 - d)``, rounded to 1/255: a line one pixel wide, anti-aliased.

    The images are kept in the folder ``NGD_THEORY_CACHE``, else ``XDG_CACHE_HOME/ngd_theory``, else
    ``~/.cache/ngd_theory``. A damaged file there is made again. If the folder cannot be written,
    nothing is kept.

    Parameters
    ----------
    num_images : int
        N. A larger set begins with the images of a smaller set of the same seed.
    seed : int
        Non-negative.
    size : int
        Pixels per side, at least 4.

    Returns
    -------
    (N, size * size) float32 in [0, 1]
        Row-major, 1 is ink.

    Raises
    ------
    DataError
        If a number is not a whole one, or too small.
    """
    # The name of a file says everything that its content depends on.
    points = curve_points(num_images, seed=seed, size=size)
    name = f"curves-{size}px-seed{seed}-{num_images}-v{_FORMAT}.npz"
    levels = _read_cache(name, (num_images, size * size))
    if levels is None:
        levels = _draw(points, size)
        _write_cache(name, levels)
    return np.divide(levels, 255, dtype=np.float32)


def curve_points(num_images: int, *, seed: int = 0, size: int = 28) -> Float[np.ndarray, "N 3 2"]:
    """The points ``(x, y)`` that the strokes of `curves` pass through, first to last, in pixels.

    They are uniform in the inner square whose parabolas never leave the frame. The pixel in row i,
    column j has its centre at ``(j + 1/2, i + 1/2)``.

    Raises
    ------
    DataError
        If a number is not a whole one, or too small.
    """
    num_images = require_count(num_images, "num_images", 1)
    seed = require_count(seed, "seed", 0)
    side = _inner_side(require_count(size, "size", 4))
    uniform = np.random.default_rng(seed).random((num_images, 3, 2))
    return (size - side) / 2 + side * uniform


def _inner_side(size: int) -> float:
    # A parabola through values in [0, 1] stays in [-1/8, 9/8]; the ink takes one pixel more.
    return (size - 2) / 1.25


def _draw(points: Float[np.ndarray, "N 3 2"], size: int) -> UInt8[np.ndarray, "N D"]:
    """Grey levels 0 ... 255 of the strokes; memory beyond the result is that of one batch."""
    # K chords of a parabola with |p''| <= 8 sqrt(2) side are within |p''| / (8 K^2) of it.
    num_chords = ceil((2**0.5 * _inner_side(size) / _TOLERANCE) ** 0.5)
    t = np.linspace(0, 1, num_chords + 1)[:, None]
    weights = np.hstack([(1 - t) * (1 - 2 * t), 4 * t * (1 - t), t * (2 * t - 1)])
    levels = np.empty((len(points), size * size), np.uint8)
    batch = max(1, _BATCH_PIXELS // size**2)
    for start in range(0, len(points), batch):
        distance = _distances(weights @ points[start : start + batch], size)
        ink = 255 * np.clip(1 - distance, 0, 1)
        levels[start : start + batch] = np.rint(ink).reshape(len(ink), -1)
    return levels


def _distances(vertices: Float[np.ndarray, "B V 2"], size: int) -> Float[np.ndarray, "B S S"]:
    """Distance of every pixel's centre to a polyline, for a batch of them."""
    steps = np.diff(vertices, axis=1)
    lengths = np.maximum(np.hypot(*np.moveaxis(steps, -1, 0)), 1e-9)
    directions = steps / lengths[..., None]
    centres = np.arange(size) + 0.5
    # Coordinates along and across a chord are a function of x plus one of y: small tables.
    dx, dy = (centres - vertices[:, :-1, axis, None] for axis in range(2))
    ux, uy = directions[..., 0, None], directions[..., 1, None]
    along_x, along_y, across_x, across_y = (
        table.astype(np.float32) for table in (ux * dx, uy * dy, uy * dx, -ux * dy)
    )
    ends = lengths.astype(np.float32)[..., None, None]
    nearest = np.full((len(vertices), size, size), np.inf, np.float32)
    for k in range(steps.shape[1]):
        along = along_y[:, k, :, None] + along_x[:, k, None, :]
        across = across_y[:, k, :, None] + across_x[:, k, None, :]
        along -= np.clip(along, 0, ends[:, k])
        along *= along
        across *= across
        along += across
        np.minimum(nearest, along, out=nearest)
    return np.sqrt(nearest)


def _read_cache(name: str, shape: tuple[int, int]) -> UInt8[np.ndarray, "N D"] | None:
    # A damaged file can raise any error. The remedy is always the same: make the file again.
    try:
        with (cache_folder() / name).open("rb") as file, np.load(file) as archive:
            levels = archive["levels"]
    except Exception:
        return None
    return levels if levels.shape == shape and levels.dtype == np.uint8 else None


def _write_cache(name: str, levels: UInt8[np.ndarray, "N D"]) -> None:
    # RuntimeError: a user without a home folder.
    with suppress(OSError, RuntimeError):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        # An open file, since NumPy would add .npz to a temporary name.
        with written(folder / name) as temporary, temporary.open("wb") as file:
            np.savez(file, levels=levels)
