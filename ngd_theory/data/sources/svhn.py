"""Street View House Numbers, cropped digits (format 2), from their original MATLAB files."""

import os
from pathlib import Path

import numpy as np
import scipy.io

from ngd_theory.data.errors import DataError
from ngd_theory.data.raw import RawData, Request, Rows
from ngd_theory.data.sources.folders import data_folder, find_all, missing_files

CLASS_NAMES = tuple("0123456789")
_FILES = (("train_32x32.mat",), ("test_32x32.mat",))


def load_svhn(request: Request) -> RawData:
    """SVHN from the two ``.mat`` files in the data folder; inputs are (32, 32, 3) images."""
    folder = data_folder(request.data_dir)
    if folder is None:
        raise missing_files("SVHN", None, _FILES)
    files = find_all([folder, folder / "svhn"], _FILES)
    if files is None:
        raise missing_files("SVHN (cropped digits)", folder, _FILES)
    return RawData(
        train=_read(files[0]),
        test=_read(files[1]),
        input_shape=(32, 32, 3),
        origin="SVHN (original cropped digits)",
        class_names=CLASS_NAMES,
        files=[os.fspath(path) for path in files],
        maximum=255.0,
    )


def _read(path: Path) -> Rows:
    try:
        content = scipy.io.loadmat(os.fspath(path))
        images, labels = np.asarray(content["X"]), np.asarray(content["y"]).ravel()
    # What loadmat raises depends on where the file is damaged.
    except Exception as error:
        raise DataError(
            f"{path} is not a readable MATLAB file with arrays X and y: fetch it again"
        ) from error
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3) or images.shape[3] != len(labels):
        raise DataError(
            f"{path} holds X of shape {images.shape} and {len(labels)} labels, not (32, 32, 3, N) and N"
        )
    if len(labels) == 0 or labels.min() < 1 or labels.max() > 10:
        raise DataError(
            f"{path} holds labels that are not from 1 to 10 (10 stands for the digit 0)"
        )
    rows = np.moveaxis(images, 3, 0).reshape(len(labels), -1)
    return Rows(rows, labels.astype(np.int64) % 10)
