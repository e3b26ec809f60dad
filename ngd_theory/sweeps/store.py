"""A results folder: one Parquet file for each finished cell, written whole or not at all.

manifest.json        study, cell ids with the digests of their data, and the environment of every run
cells/ID.parquet     the cell's rows; its configuration is in the file's metadata
failures/ID.json     the error of a cell that failed, until it succeeds
verdicts.json        the claims, after the last cell; none while a run is on
set-aside/           files that were damaged or foreign
lock                 held while a run is on
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError, MissingDependencyError, choose
from ngd_theory.experiment.columns import Column
from ngd_theory.files import PART, set_aside, write_json, written
from ngd_theory.sweeps.base import AnyStudy, StudyVerdict
from ngd_theory.sweeps.cells import Cell, canonical, config_row
from ngd_theory.sweeps.executors import Failure
from ngd_theory.sweeps.kinds import KINDS
from ngd_theory.sweeps.lock import locked
from ngd_theory.sweeps.manifest import read_manifest, record

_KEY = b"ngd_theory"
#: Files that a thread of `load` reads before it hands them over.
_TURN = 250
_MANIFEST, _LOCK, _CELLS, _FAILURES = "manifest.json", "lock", "cells", "failures"
_VERDICTS = "verdicts.json"


class DamagedFileError(InputError):
    """A file in the results folder is not a whole cell of it."""


@dataclass(frozen=True)
class SetAside:
    """A file that was moved out of the way, and why."""

    path: Path
    why: str


class Store:
    """A results folder that is being written.

    Parameters
    ----------
    folder : Path
        Made if it is missing.
    columns : dict of str to Column
        Columns of the study's kind, which the files have.

    Raises
    ------
    InputError
        If it holds other files.
    """

    def __init__(self, folder: Path, columns: Mapping[str, Column]):
        self.folder = folder
        self._schema = schema(columns)
        if folder.is_dir() and not (folder / _MANIFEST).exists():
            foreign = sorted(p.name for p in folder.iterdir() if not _is_ours(p))
            if foreign:
                raise InputError(
                    f"{folder} holds {foreign[0]} but no {_MANIFEST}, so it is no results folder: choose "
                    "another --out"
                )
        try:
            for path in (folder, folder / _CELLS, folder / _FAILURES):
                path.mkdir(parents=True, exist_ok=True)
        # ValueError: a NUL in the name.
        except (OSError, ValueError) as error:
            raise InputError(f"cannot make {folder}: {error}; choose another --out") from None

    def lock(self) -> AbstractContextManager[None]:
        """Hold the folder; see `locked`."""
        return locked(self.folder / _LOCK)

    def record(self, study: AnyStudy, cells: Sequence[Cell]) -> None:
        """Add this run to the manifest (`ngd_theory.sweeps.manifest.record`) and remove earlier verdicts."""
        record(self.folder / _MANIFEST, study, cells)
        (self.folder / _VERDICTS).unlink(missing_ok=True)

    def write_verdicts(self, verdicts: Iterable[StudyVerdict]) -> None:
        """Write ``verdicts.json``."""
        write_json(self.folder / _VERDICTS, [_as_json(v) for v in verdicts])

    def finished(self, cells: Iterable[Cell]) -> tuple[set[str], list[SetAside]]:
        """Ids of the cells with a whole file here; every other file in ``cells/`` is set aside.

        Every file is read to its end and its checksums compared.
        """
        wanted = {cell.id for cell in cells}
        found, aside = set(), []
        for path in sorted((self.folder / _CELLS).iterdir()):
            if path.name.startswith(".") and path.name.endswith(PART):
                path.unlink()  # ours, of a run that was killed
                continue
            try:
                _read(path, self._schema)
                if path.stem not in wanted:
                    raise DamagedFileError("it belongs to no cell of this study")
                found.add(path.stem)
            except DamagedFileError as error:
                moved = set_aside(path, self.folder / "set-aside")
                aside.append(SetAside(moved, str(error)))
        return found, aside

    def write(self, cell: Cell, rows: list[dict[str, Any]]) -> None:
        """Write a finished cell's rows and forget its earlier failure."""
        arrow = pyarrow()
        config = canonical({"id": cell.id, "config": cell.config}).encode()
        table = arrow.Table.from_pylist(rows, schema=self._schema.with_metadata({_KEY: config}))
        with written(self._path(cell.id)) as temporary:
            # A cell has few rows: dictionaries, statistics and compression would only make the file larger.
            arrow.parquet.write_table(
                table,
                temporary,
                compression="none",
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
            )
        self._failure(cell.id).unlink(missing_ok=True)

    def write_failure(self, cell: Cell, failure: Failure) -> None:
        """Record why a cell has no rows."""
        write_json(
            self._failure(cell.id), {"id": cell.id, **asdict(failure), "config": cell.config}
        )

    def _path(self, id: str) -> Path:
        return self.folder / _CELLS / f"{id}.parquet"

    def _failure(self, id: str) -> Path:
        return self.folder / _FAILURES / f"{id}.json"


@checked
def load(results: str | Path) -> pd.DataFrame:
    """Read all finished cells of a results folder into one tidy table.

    Parameters
    ----------
    results : path

    Returns
    -------
    pandas.DataFrame
        One row for each cell, approximation and step, in the order of the study's grid: ``cell`` (its id), the
        settings and the measured columns of its kind of study (`ngd_theory.experiment.columns` for "theory").

    Raises
    ------
    InputError
        If the folder holds no sweep.
    DamagedFileError
        If a file is not whole; the message names it. Run the study again to set it aside and recompute it.
    """
    folder = Path(results)
    manifest = read_manifest(folder / _MANIFEST)
    kind = choose(KINDS, manifest["study"]["kind"], "kind of study")
    arrow, columns, ids = pyarrow(), schema(kind.columns), manifest["cells"]
    paths = [path for id in ids if (path := folder / _CELLS / f"{id}.parquet").exists()]

    def read(path: Path) -> tuple[Any, dict[str, Any]]:
        try:
            return _read(path, columns)
        except DamagedFileError as error:
            why = f"{path}: {error}; run the study again to recompute it"
            raise DamagedFileError(why) from None

    tables, configs, counts = [], [], []
    # Decoding a file releases the interpreter, so threads read in parallel, each many files at once.
    parts = [paths[i : i + _TURN] for i in range(0, len(paths), _TURN)]
    with ThreadPoolExecutor() as pool:
        found = chain.from_iterable(pool.map(lambda part: [read(path) for path in part], parts))
        for path, (table, config) in zip(paths, found, strict=True):
            tables.append(table)
            settings = config_row(
                {**kind.config_defaults, **config["settings"]}, kind.config_columns
            )
            configs.append({"cell": path.stem, **settings})
            counts.append(table.num_rows)
    measured = arrow.concat_tables(tables) if tables else columns.empty_table()
    left = pd.DataFrame(configs, columns=["cell", *kind.config_columns])
    left = left.iloc[np.repeat(np.arange(len(counts)), counts)].reset_index(drop=True)
    return pd.concat([left, measured.to_pandas()], axis=1)


def failures(results: str | Path) -> list[dict[str, Any]]:
    """Return the recorded errors of the cells of a results folder that failed."""
    paths = sorted((Path(results) / _FAILURES).glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def pyarrow() -> Any:
    """Import pyarrow, with its Parquet module, at first use.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError as error:
        raise MissingDependencyError(
            f"sweeps store their results with pyarrow, which cannot be imported ({error}): "
            "pip install pyarrow"
        ) from error


def schema(columns: Mapping[str, Column]) -> Any:
    """The pyarrow schema of measured columns."""
    arrow = pyarrow()
    return arrow.schema([(n, arrow.type_for_alias(c.kind)) for n, c in columns.items()])


def _as_json(verdict: StudyVerdict) -> dict[str, Any]:
    values = asdict(verdict)
    values["outcome"] = str(verdict.outcome)
    if verdict.estimate is not None:
        # JSON has neither infinity nor NaN.
        numbers = asdict(verdict.estimate)
        values["estimate"] = {k: v if abs(v) < float("inf") else str(v) for k, v in numbers.items()}
    return {**values, "as_expected": verdict.as_expected}


def _read(path: Path, expected: Any) -> tuple[Any, dict[str, Any]]:
    """Table and configuration of a cell's file. `DamagedFileError` says what is wrong with the file."""
    arrow = pyarrow()
    if path.suffix != ".parquet":
        raise DamagedFileError("it is no Parquet file")
    content = path.read_bytes()
    if not content:
        raise DamagedFileError("it is empty")
    try:
        file = arrow.parquet.ParquetFile(
            arrow.BufferReader(content), page_checksum_verification=True, pre_buffer=False
        )
        table = file.read(use_threads=False)
    except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
        raise DamagedFileError(f"it is truncated or no Parquet file ({error})") from None
    try:
        written_by = json.loads((table.schema.metadata or {})[_KEY])
        id, config = written_by["id"], written_by["config"]
    except (KeyError, ValueError, TypeError):
        raise DamagedFileError("it was not written by a sweep") from None
    if id != path.stem:
        raise DamagedFileError(f"it holds the cell {id[:12]} under another's name")
    if not table.schema.equals(expected):
        raise DamagedFileError("its columns are those of another version")
    return table.replace_schema_metadata(None), config


def _is_ours(path: Path) -> bool:
    left_over = path.name.startswith(".") and path.name.endswith(PART)
    return left_over or path.name in (_LOCK, _CELLS, _FAILURES)
