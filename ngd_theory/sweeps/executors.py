"""Where the cells of a run are measured: in this process, or by the workers of a Dask cluster."""

import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

from ngd_theory.errors import InputError, is_foreseen
from ngd_theory.sweeps.cells import Cell


@dataclass(frozen=True)
class Failure:
    """Why a cell has no rows.

    Text, not the exception: it comes from another process, which may know classes that this one does not.

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
        """Return the failure that an exception is."""
        text = f"{type(error).__name__}: {error}"
        return cls(text, "".join(traceback.format_exception(error)), is_foreseen(error))


Rows: TypeAlias = list[dict[str, Any]]
Measure: TypeAlias = Callable[[Cell], Rows]
Measured: TypeAlias = Rows | Failure
#: Yields every cell with its outcome, in the order in which they are done.
Executor: TypeAlias = Callable[[Measure, Iterable[Cell]], Iterator[tuple[Cell, Measured]]]

_LOCAL = re.compile(r"local:([1-9]\d{0,2})")
_TCP = re.compile(r"tcp://([^\s:/]+|\[[\da-fA-F:.]+\]):(\d{1,5})")


def executor(scheduler: str | None) -> AbstractContextManager[Executor]:
    """The executor of a ``--scheduler`` value; its workers are there until the block ends.

    Parameters
    ----------
    scheduler : str or None
        ``local:N``, ``tcp://HOST:PORT`` of a running Dask scheduler, or None for this process.

    Raises
    ------
    InputError
        For any other value, and on entry for a cluster that cannot be reached.
    MissingDependencyError
        Without the package `distributed`.
    """
    if scheduler is None:
        return nullcontext(in_process)
    local, tcp = _LOCAL.fullmatch(scheduler), _TCP.fullmatch(scheduler)
    if local or (tcp and 0 < int(tcp[2]) < 2**16):
        from ngd_theory.sweeps import cluster

        return cluster.local(int(local[1])) if local else cluster.existing(scheduler)
    raise InputError(
        f"unknown scheduler {scheduler!r}: give local:N (N worker processes here, 1 to 999), or "
        "tcp://HOST:PORT (a running Dask scheduler)"
    )


def workers_here(scheduler: str | None) -> int:
    """Cells that are measured on this machine at once; 0 where a cluster that runs already measures them."""
    if scheduler is None:
        return 1
    local = _LOCAL.fullmatch(scheduler)
    return int(local[1]) if local else 0


def in_process(measure: Measure, cells: Iterable[Cell]) -> Iterator[tuple[Cell, Measured]]:
    """Measure one cell after the other, here."""
    for cell in cells:
        yield cell, attempt(measure, cell)


def attempt(measure: Measure, cell: Cell) -> Measured:
    """Rows of a cell, or why there are none."""
    try:
        return measure(cell)
    except Exception as error:
        return Failure.of(error)
