"""Executors measure the cells of a run: they take cells and yield each with its rows or its failure."""

import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from ngd_theory.errors import is_foreseen
from ngd_theory.sweeps.cells import Cell


@dataclass(frozen=True)
class Failure:
    """Why a cell has no rows.

    It is text, not the exception: another process may raise a class that this process does not know.

    Attributes
    ----------
    error, traceback : str
    foreseen : bool
        See `ngd_theory.errors.is_foreseen`.
    """

    error: str
    traceback: str
    foreseen: bool = True

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Return an exception as a failure."""
        text = f"{type(error).__name__}: {error}"
        return cls(text, "".join(traceback.format_exception(error)), is_foreseen(error))


Rows: TypeAlias = list[dict[str, Any]]
Measure: TypeAlias = Callable[[Cell], Rows]
Measured: TypeAlias = Rows | Failure
#: Yields every cell with its outcome, in the order in which they are done.
Executor: TypeAlias = Callable[[Measure, Iterable[Cell]], Iterator[tuple[Cell, Measured]]]


def in_process(measure: Measure, cells: Iterable[Cell]) -> Iterator[tuple[Cell, Measured]]:
    """Measure one cell after the other in this process."""
    for cell in cells:
        yield cell, attempt(measure, cell)


def attempt(measure: Measure, cell: Cell) -> Measured:
    """Rows of a cell, or why there are none."""
    try:
        return measure(cell)
    except Exception as error:
        return Failure.of(error)
