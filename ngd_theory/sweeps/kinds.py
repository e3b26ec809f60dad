"""The kinds of study: what a file of each holds, measures and claims."""

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import pandas as pd
from pydantic import ValidationError

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError, choose
from ngd_theory.sweeps import layers, structure, table, training, verdicts
from ngd_theory.sweeps.cells import MOST_CELLS
from ngd_theory.sweeps.layers import LayersStudy
from ngd_theory.sweeps.measure import measure_cell
from ngd_theory.sweeps.structure import StructureStudy
from ngd_theory.sweeps.study import Study
from ngd_theory.sweeps.table import Column
from ngd_theory.sweeps.training import TrainingStudy
from ngd_theory.sweeps.validation import error_lines
from ngd_theory.sweeps.verdicts import StudyVerdict

AnyStudy: TypeAlias = Study | TrainingStudy | StructureStudy | LayersStudy


@dataclass(frozen=True)
class Kind:
    """A kind of study.

    Attributes
    ----------
    study : pydantic model
        With ``kind``, ``title``, ``statement``, ``claims``, ``precision``, ``num_cells`` and
        ``cells()``.
    columns : dict of str to Column
        What a cell's rows hold.
    config_columns : tuple of str
        Settings that are columns too.
    config_row : ``settings (JSON) -> dict``
        Their values.
    measure : ``cell -> rows``
    evaluate : ``(study, frame) -> verdicts``
    """

    study: type[AnyStudy]
    columns: Mapping[str, Column]
    config_columns: tuple[str, ...]
    config_row: Callable[[dict[str, Any]], dict[str, Any]]
    measure: Callable[[Any], list[dict[str, Any]]]
    evaluate: Callable[[Any, pd.DataFrame], tuple[StudyVerdict, ...]]


#: Longest study file that is read.
MOST_BYTES = 4_000_000
_NESTED = "tables or lists are nested too deep; a study has three levels at most"

#: By the ``kind`` of the file; a new kind is one module and one entry.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "theory": Kind(
            Study,
            table.COLUMNS,
            table.CONFIG_COLUMNS,
            table.config_row,
            measure_cell,
            verdicts.evaluate,
        ),
        "training": Kind(
            TrainingStudy,
            training.COLUMNS,
            training.CONFIG_COLUMNS,
            training.config_row,
            training.measure_cell,
            training.evaluate,
        ),
        "structure": Kind(
            StructureStudy,
            structure.COLUMNS,
            structure.CONFIG_COLUMNS,
            structure.config_row,
            structure.measure_cell,
            structure.evaluate,
        ),
        "layers": Kind(
            LayersStudy,
            layers.COLUMNS,
            layers.CONFIG_COLUMNS,
            layers.config_row,
            layers.measure_cell,
            layers.evaluate,
        ),
    }
)


def measure(cell: Any) -> list[dict[str, Any]]:
    """Rows of a cell of any kind."""
    return KINDS[cell.kind].measure(cell)


def evaluate(study: AnyStudy, frame: pd.DataFrame) -> tuple[StudyVerdict, ...]:
    """Judge every claim of a study on its table.

    Parameters
    ----------
    study : a study of any kind
    frame : pandas.DataFrame
        As `load` returns it.
    """
    return KINDS[study.kind].evaluate(study, frame)


@checked
def read(path: str | Path) -> AnyStudy:
    """Read and check a study file; every grid point is validated.

    Raises
    ------
    InputError
        One line that names the file, each wrong key and value, and what is allowed.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(
                f"{path}: has more than {MOST_BYTES:,} bytes; no study of at most {MOST_CELLS:,} cells needs as many"
            )
        text = path.read_text(encoding="utf-8")
    # ValueError: no UTF-8, or a NUL in the name.
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    try:
        values = tomllib.loads(text)
    # Not only TOMLDecodeError: a number may have more digits than Python reads.
    except ValueError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: {_NESTED}") from None
    try:
        return parse(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def parse(values: dict[str, Any]) -> AnyStudy:
    """Check a study given as a dictionary.

    Raises
    ------
    InputError
        As `read`, without the file's name.
    """
    kind = choose(KINDS, values.get("kind", "theory"), "kind of study")
    try:
        # Through JSON, whose strict mode takes lists for tuples but no "64" for 64.
        return kind.study.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise InputError("; ".join(error_lines(error, kind.study))) from None
    except RecursionError:
        raise InputError(_NESTED) from None
