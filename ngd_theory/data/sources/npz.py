"""The user's own data in a NumPy ``.npz`` file."""

import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from ngd_theory.data.class_targets import encode_labels, resolve_classes
from ngd_theory.data.errors import DataError
from ngd_theory.data.raw import RawData, Request, Rows

_INPUT_KEYS = ("x", "inputs")
_TARGET_KEYS = ("y", "targets", "labels")
_TEST_INPUT_KEYS = ("x_test", "test_inputs")
_TEST_TARGET_KEYS = ("y_test", "test_targets", "test_labels")


def load_npz(request: Request) -> RawData:
    """Read the rows of an ``.npz`` file.

    Its keys are ``x``, ``y`` and, if it has its own split, ``x_test``, ``y_test``.
    ``x`` (also ``inputs``) is (N, M_0), or (N, height, width[, channels]) images. ``y`` (also
    ``targets``, ``labels``) is (N,) integers for classes, or (N,) or (N, C) floats for regression
    targets used as they are. Object arrays (pickle) are refused.

    Raises
    ------
    DataError
        If the file is absent or damaged, or a key is missing, ambiguous, or of the wrong kind.
    """
    path = Path(request.name).expanduser()
    arrays = _read(path)
    split = [(_pick(arrays, _INPUT_KEYS, path), _pick(arrays, _TARGET_KEYS, path))]
    if any(key in arrays for key in (*_TEST_INPUT_KEYS, *_TEST_TARGET_KEYS)):
        split.append(
            (_pick(arrays, _TEST_INPUT_KEYS, path), _pick(arrays, _TEST_TARGET_KEYS, path))
        )
    shapes = [_input_shape(inputs, path) for inputs, _ in split]
    if shapes[0] != shapes[-1]:
        raise DataError(
            f"{path} has training inputs of shape {shapes[0]} but test inputs of {shapes[-1]}; "
            "make them agree"
        )
    kinds = {_is_labels(targets, path) for _, targets in split}
    if len(kinds) > 1:
        raise DataError(f"{path} has labels in one of y, y_test and floats in the other; use one")
    classes = np.unique(np.concatenate([t for _, t in split])) if kinds == {True} else None
    pools = [_rows(inputs, targets, classes) for inputs, targets in split]
    return RawData(
        train=pools[0],
        test=pools[1] if len(pools) > 1 else None,
        input_shape=shapes[0],
        origin=os.fspath(path),
        class_names=() if classes is None else tuple(str(int(k)) for k in classes),
        files=[os.fspath(path)],
    )


def npz_input_dim(path: Path) -> int:
    """M_0 of the file's inputs; only their header is read.

    Raises
    ------
    DataError
        As `load_npz`.
    """
    return prod(_input_shape(_pick(_read(path, _INPUT_KEYS), _INPUT_KEYS, path), path))


def npz_output_dim(
    path: Path, classes: Sequence[object] | None, targets: str, output_dim: int | None
) -> int:
    """C of the file's targets, coded as `ngd_theory.data.load` would; its inputs are not read.

    Raises
    ------
    DataError
        As `load_npz`, or for classes that are not there.
    """
    arrays = _read(path, _INPUT_KEYS + _TEST_INPUT_KEYS)
    found = [_pick(arrays, _TARGET_KEYS, path)]
    found += [arrays[key] for key in _TEST_TARGET_KEYS if key in arrays]
    if not _is_labels(found[0], path):
        return int(prod(found[0].shape[1:]))
    names = tuple(str(int(k)) for k in np.unique(np.concatenate(found)))
    chosen = resolve_classes(names, classes, os.fspath(path))
    return encode_labels(np.zeros(1, int), len(chosen), targets, output_dim).shape[1]


def _read(path: Path, shapes_only: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Arrays of the file by key; those in ``shapes_only`` have only shape and type, and take no memory."""
    # Not Path.is_file, which raises for a name that is too long.
    if not os.path.isfile(path):
        raise DataError(f"{path} is not a file; check the path")
    try:
        # NumPy leaves a file it opened itself open when the archive is damaged.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.ndarray):
                found = {
                    key: _shape_of(archive, key) if key in shapes_only else archive[key]
                    for key in archive.files
                }
                # For a member that is not an array, NumPy gives its bytes.
                return {k: array for k, array in found.items() if isinstance(array, np.ndarray)}
    except MemoryError as error:
        raise DataError(
            f"{path} is damaged, or its arrays do not fit into memory: {error}"
        ) from error
    # A damaged file can raise any error: other formats, compressions, encryption, invalid headers.
    except Exception as error:
        if "Object arrays" in str(error):
            problem = "holds object arrays (pickle); save plain numeric arrays"
        else:
            problem = "is not a readable .npz file; save it again with np.savez"
        raise DataError(f"{path} {problem}") from error
    raise DataError(f"{path} is a single .npy array; save it with np.savez(path, x=..., y=...)")


def _shape_of(archive: NpzFile, key: str) -> np.ndarray:
    """Zeros of the shape and type of an array; all share one number in memory."""
    assert archive.zip is not None  # it is open
    with archive.zip.open(f"{key}.npy") as member:
        first = np.lib.format.read_magic(member) == (1, 0)
        header = np.lib.format
        shape, _, dtype = (
            header.read_array_header_1_0(member) if first else header.read_array_header_2_0(member)
        )
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    return np.broadcast_to(np.zeros((), dtype), shape)


def _pick(arrays: dict[str, np.ndarray], keys: tuple[str, ...], path: Path) -> np.ndarray:
    present = [key for key in keys if key in arrays]
    if len(present) > 1:
        raise DataError(f"{path} has both {' and '.join(present)}; keep one of them")
    if present:
        return arrays[present[0]]
    found = ", ".join(arrays) or "nothing"
    raise DataError(f"{path} has no array {' or '.join(keys)} (found {found}); add it")


def _input_shape(x: np.ndarray, path: Path) -> tuple[int, ...]:
    if x.dtype.kind not in "fiub":
        raise DataError(f"{path} has x of type {x.dtype}; save real numbers")
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise DataError(
            f"{path} has x of shape {x.shape}; give (N, M_0), (N, height, width) or (N, height, "
            "width, channels), none of them 0"
        )
    return (*x.shape[1:], 1) if x.ndim == 3 else x.shape[1:]


def _is_labels(y: np.ndarray, path: Path) -> bool:
    if y.dtype.kind in "iub" and y.ndim == 1:
        return True
    if y.dtype.kind == "f" and y.ndim in (1, 2):
        return False
    raise DataError(
        f"{path} has y of type {y.dtype} and shape {y.shape}; give (N,) integers for classes, or "
        "(N,) or (N, C) floats for regression"
    )


def _rows(x: np.ndarray, y: np.ndarray, classes: np.ndarray | None) -> Rows:
    inputs = x.reshape(len(x), int(np.prod(x.shape[1:])))
    # Extended floats that are too large become infinite, and are refused as such.
    with np.errstate(over="ignore"):
        if inputs.dtype.itemsize > 8:
            inputs = inputs.astype(np.float64)
        if classes is None:
            return Rows(inputs, y.reshape(len(y), -1).astype(np.float64))
    return Rows(inputs, np.searchsorted(classes, y))
