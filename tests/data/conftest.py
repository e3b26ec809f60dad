"""Writers of tiny data files in the original formats, and a clean environment."""

import gzip
import struct

import numpy as np
import pytest

RECORD_BYTES = 3073


def idx_bytes(array):
    array = np.asarray(array, dtype=np.uint8)
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    monkeypatch.delenv("NGD_THEORY_DATA", raising=False)


@pytest.fixture
def write_idx():
    """Write the four IDX files; image i is filled with values that reveal i and its label."""

    def write(folder, *, num_train=40, num_test=20, compress=False, dot=False):
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {}
        for prefix, num_rows, seed in (("train", num_train, 0), ("t10k", num_test, 1)):
            labels = np.arange(num_rows) % 10
            images = np.random.default_rng(seed).integers(0, 256, (num_rows, 4, 3))
            images[:, 0, 0] = labels
            arrays[prefix] = images, labels
            for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
                name = f"{prefix}-{kind}-ubyte"
                name = name.replace("-idx", ".idx") if dot else name
                content = idx_bytes(array)
                if compress:
                    (folder / f"{name}.gz").write_bytes(gzip.compress(content))
                else:
                    (folder / name).write_bytes(content)
        return arrays

    return write


@pytest.fixture
def write_cifar():
    """Write the six binary batches, ``num_rows`` records each; return all records."""

    def write(folder, num_rows=20):
        folder.mkdir(parents=True, exist_ok=True)
        names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
        batches = []
        for seed, name in enumerate(names):
            records = np.random.default_rng(seed).integers(
                0, 256, (num_rows, RECORD_BYTES), dtype=np.uint8
            )
            records[:, 0] = np.arange(num_rows) % 10
            (folder / name).write_bytes(records.tobytes())
            batches.append(records)
        return batches

    return write


@pytest.fixture
def write_npz(tmp_path):
    def write(**arrays):
        path = tmp_path / "own.npz"
        np.savez(path, **arrays)
        return path

    return write
