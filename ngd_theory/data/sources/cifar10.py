"""CIFAR-10 from its original binary version."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ngd_theory.data.errors import DataError
from ngd_theory.data.raw import RawData, Request, Rows
from ngd_theory.data.sources.bytes_files import read_bytes
from ngd_theory.data.sources.folders import data_folder, find_all, missing_files

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_FILES = (*((f"data_batch_{batch}.bin",) for batch in range(1, 6)), ("test_batch.bin",))
_RECORD_BYTES = 1 + 3 * 32 * 32


def load_cifar10(request: Request) -> RawData:
    """CIFAR-10 from the six ``.bin`` files in the data folder; inputs are (32, 32, 3) images."""
    folder = data_folder(request.data_dir)
    if folder is None:
        raise missing_files("CIFAR-10", None, _FILES)
    subfolders = ("", "cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin")
    files = find_all([folder / name for name in subfolders], _FILES)
    if files is None:
        raise missing_files("CIFAR-10 (binary version)", folder, _FILES)
    return RawData(
        train=_read(files[:-1]),
        test=_read(files[-1:]),
        input_shape=(32, 32, 3),
        origin="CIFAR-10 (original binary files)",
        class_names=CLASS_NAMES,
        files=[os.fspath(path) for path in files],
        maximum=255.0,
    )


def _read(paths: Sequence[Path]) -> Rows:
    records = np.concatenate([_read_batch(path) for path in paths])
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Rows(images.reshape(len(records), -1), records[:, 0].astype(np.int64))


def _read_batch(path: Path) -> np.ndarray:
    content = read_bytes(path)
    if not content or len(content) % _RECORD_BYTES:
        raise DataError(
            f"{path} has {len(content)} bytes, not a positive multiple of {_RECORD_BYTES}; it is "
            "short or not the binary version: fetch it again"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, _RECORD_BYTES)
    if records[:, 0].max() >= len(CLASS_NAMES):
        raise DataError(
            f"{path} holds the label {records[:, 0].max()} but there are {len(CLASS_NAMES)} "
            "classes; it is damaged or not the binary version of CIFAR-10: fetch it again"
        )
    return records
