"""Data files that are wrong."""

import io
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
from bad_inputs import NPZ, Bad

ROWS, COLUMNS = 12, 3
X = np.random.default_rng(0).normal(size=(ROWS, COLUMNS))
Y = np.arange(ROWS) % 3
T = np.linspace(-1.0, 1.0, ROWS)


def _with(array, index, value):
    changed = np.array(array)
    changed[index] = value
    return changed


#: What is wrong -> the arrays of the file.
ARRAYS = {
    "nothing in it": {},
    "no inputs": {"y": Y},
    "no targets": {"x": X},
    "names of its own": {"data": X, "target": Y},
    "two inputs": {"x": X, "inputs": X, "y": Y},
    "two targets": {"x": X, "y": Y, "labels": Y},
    "test inputs without targets": {"x": X, "y": Y, "x_test": X},
    "test targets without inputs": {"x": X, "y": Y, "y_test": Y},
    "one target too few": {"x": X, "y": Y[1:]},
    "one test target too many": {"x": X, "y": Y, "x_test": X[1:] + 1, "y_test": Y},
    "no rows": {"x": X[:0], "y": Y[:0]},
    "no columns": {"x": X[:, :0], "y": Y},
    "targets without columns": {"x": X, "y": np.zeros((ROWS, 0))},
    "inputs that are one number": {"x": np.array(1.0), "y": Y},
    "inputs that are a vector": {"x": X[:, 0], "y": Y},
    "inputs of five axes": {"x": X[:, :, None, None, None], "y": Y},
    "targets of three axes": {"x": X, "y": T[:, None, None]},
    "targets that are one number": {"x": X, "y": np.array(1)},
    "a NaN in the inputs": {"x": _with(X, (3, 1), np.nan), "y": Y},
    "an infinity in the inputs": {"x": _with(X, (0, 0), np.inf), "y": Y},
    "a NaN in the test inputs": {
        **{"x": X, "y": Y, "x_test": _with(X + 1, (3, 1), np.nan), "y_test": Y}
    },
    "a NaN in the targets": {"x": X, "y": _with(T, 4, np.nan)},
    "an infinity in the targets": {"x": X, "y": _with(T, 4, -np.inf)},
    "objects in the inputs": {"x": X.astype(object), "y": Y},
    "objects in the targets": {"x": X, "y": Y.astype(object)},
    "objects of several lengths": {"x": np.array([[1], [1, 2]], object), "y": Y[:2]},
    "texts in the inputs": {"x": X.astype(str), "y": Y},
    "texts as labels": {"x": X, "y": np.array(["a", "b", "c"])[Y]},
    "bytes as labels": {"x": X, "y": np.array([b"a", b"b", b"c"])[Y]},
    "complex inputs": {"x": X + 1j, "y": Y},
    "complex targets": {"x": X, "y": T + 1j},
    "dates as inputs": {"x": np.zeros((ROWS, 3), "datetime64[s]"), "y": Y},
    "dates as targets": {"x": X, "y": np.zeros(ROWS, "datetime64[D]")},
    "records as inputs": {"x": np.zeros((ROWS, 3), [("a", float)]), "y": Y},
    "one class": {"x": X, "y": np.zeros(ROWS, int)},
    "a class of every row": {"x": X, "y": np.arange(ROWS)},
    "labels in two columns": {"x": X, "y": np.stack([Y, Y], 1)},
    "labels here and floats there": {"x": X, "y": Y, "x_test": X + 1, "y_test": T},
    "a test set of other columns": {"x": X, "y": Y, "x_test": X[:, :2] + 1, "y_test": Y},
    "test targets of other columns": {
        **{"x": X, "y": T, "x_test": X + 1, "y_test": np.stack([T, T], 1)}
    },
    "too few rows": {"x": X[:2], "y": Y[:2]},
    "rows that are equal": {"x": np.ones((ROWS, 3)), "y": Y},
    "rows in units that differ too much": {
        **{"x": 1e-300 * X, "y": T, "x_test": 1e300 * (X + 1), "y_test": T}
    },
    "rows that are zero": {"x": np.zeros((ROWS, 3)), "y": T},
    "extended floats beyond range": {"x": np.full((ROWS, 3), np.longdouble("1e400")), "y": Y},
}
#: What is wrong with how a good file is read -> options.
OPTIONS = {
    "one-hot targets of floats": ({"x": X, "y": T}, {"targets": "one-hot"}),
    "classes of floats": ({"x": X, "y": T}, {"classes": [0, 1]}),
    "a class that is not there": ({"x": X, "y": Y}, {"classes": [0, 7]}),
    "outputs that do not fit labels": ({"x": X, "y": Y}, {"output_dim": 2}),
    "outputs that do not fit targets": ({"x": X, "y": T}, {"output_dim": 2}),
    "more components than columns": ({"x": X, "y": Y}, {"input_dim": 4}),
    "Forster of too few rows": ({"x": X, "y": Y}, {"forster": True, "num_train": 2}),
    "test rows that are training rows": (
        *({"x": X, "y": Y, "x_test": X, "y_test": Y}, {"num_train": ROWS, "num_test": ROWS}),
    ),
    "more rows than it has": ({"x": X, "y": Y}, {"num_train": ROWS, "num_test": 1}),
}


def _saved(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _whole() -> dict[str, bytes]:
    """What is wrong -> the bytes of the file."""
    good = _saved(x=X, y=Y)
    # The first member's data, its checksum and the directory.
    flipped = bytearray(good)
    flipped[200] ^= 0xFF
    huge = _npy(X).replace(b"(12, 3)", b"(9" + b"9" * 17 + b",)")[: 128 + 288]
    return {
        "an empty file": b"",
        "one byte": b"P",
        "a text": b"x,y\n1,2\n",
        "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00K\x01.",
        "cut in half": good[: len(good) // 2],
        "without its end": good[:-10],
        "without its beginning": good[30:],
        "a flipped bit": bytes(flipped),
        "a single array": _npy(X),
        "a zip of texts": _archive(x=b"1, 2", y=b"3"),
        "an empty zip": _archive(),
        "arrays without a header": _archive(**{"x.npy": b"", "y.npy": b""}),
        "a header that lies": _archive(**{"x.npy": huge, "y.npy": _npy(Y)}),
        "a header without end": _archive(
            **{"x.npy": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{", "y.npy": _npy(Y)}
        ),
        "a header of code": _archive(
            **{"x.npy": _npy(X).replace(b"False", b"exit)"), "y.npy": _npy(Y)}
        ),
        "a format of the future": _archive(
            **{"x.npy": _npy(X).replace(b"NUMPY\x01", b"NUMPY\x09"), "y.npy": _npy(Y)}
        ),
    }


def inputs(folder: Path) -> list[Bad]:
    """Every file, written and loaded; and what is no file."""
    from ngd_theory import data

    def load(path, **options):
        return data.load(path, **{"num_train": 4, "num_test": 2, **options})

    (folder / "good.npz").write_bytes(_saved(x=X, y=Y))
    (folder / "floats.npz").write_bytes(_saved(x=X, y=T))
    files = {label: (_saved(**arrays), {}) for label, arrays in ARRAYS.items()}
    files |= {label: (_saved(**arrays), options) for label, (arrays, options) in OPTIONS.items()}
    files |= {label: (content, {}) for label, content in _whole().items()}
    bad = [
        Bad(NPZ, f"sound: {name}", partial(load, folder / name), sound=True)
        for name in ("good.npz", "floats.npz")
    ]
    for number, (label, (content, options)) in enumerate(files.items()):
        path = folder / f"data{number}.npz"
        path.write_bytes(content)
        bad.append(Bad(NPZ, label, partial(load, path, **options)))
    (folder / "of_data.npz").mkdir()
    paths = {
        "a folder": "of_data.npz",
        "a missing file": "none.npz",
        "a name too long": "x" * 300 + ".npz",
    }
    paths |= {"a NUL in its name": "a\0b.npz", "a link to itself": "loop.npz", "no suffix": "good"}
    (folder / "loop.npz").symlink_to("loop.npz")
    return bad + [Bad(NPZ, label, partial(load, name)) for label, name in paths.items()]
