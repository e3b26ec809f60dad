"""Run a study: every cell that is not finished, one after the other."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ngd_theory.files import write_json
from ngd_theory.sweeps.cells import Cell, grouped_by_shape
from ngd_theory.sweeps.measure import measure_cell
from ngd_theory.sweeps.store import SetAside, Store, load
from ngd_theory.sweeps.study import Study, read
from ngd_theory.sweeps.verdicts import StudyVerdict, evaluate


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes
    ----------
    total, done, reused, failed : int
        Cells of the study; finished ones, of which found finished at the start; failed in this run.
    cell : Cell or None
        The one about to be measured; None at the end.
    """

    total: int
    done: int
    reused: int
    failed: int
    cell: Cell | None


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes
    ----------
    total, computed, reused : int
        Cells.
    failures : dict of str to str
        Error of every cell that failed, by id.
    set_aside : tuple of SetAside
        Damaged and foreign files that were found.
    verdicts : tuple of StudyVerdict
    seconds : float
    """

    total: int
    computed: int
    reused: int
    failures: dict[str, str]
    set_aside: tuple[SetAside, ...]
    verdicts: tuple[StudyVerdict, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether no cell failed and every claim came out as expected."""
        return not self.failures and all(verdict.as_expected for verdict in self.verdicts)


def run(
    study: Study | str | Path,
    out: str | Path,
    progress: Callable[[Progress], None] | None = None,
    measure: Callable[[Cell], list[dict[str, Any]]] = measure_cell,
) -> Summary:
    """Measure every unfinished cell of a study and judge its claims.

    Cells are independent and each is stored as soon as it is done: run the same call again after an
    interruption, however hard, and it goes on. Cells that failed are tried again. Cells of one shape come
    one after the other, so that each program is compiled once.

    Parameters
    ----------
    study : Study or path of its file
    out : path
        Results folder.
    progress : callable, optional
        Told the state before every cell and at the end.
    measure : callable, optional
        Gives a cell's rows.

    Returns
    -------
    Summary

    Raises
    ------
    InputError
        For a bad study, a folder of another study, or one that another run holds.
    """
    start = time.perf_counter()
    study = study if isinstance(study, Study) else read(study)
    cells = study.cells()
    tell = progress or (lambda state: None)
    store = Store(Path(out))
    with store.lock():
        store.record(study, cells)
        finished, aside = store.finished(cells)
        failures: dict[str, str] = {}
        done = reused = len(finished)
        for cell in grouped_by_shape([c for c in cells if c.id not in finished]):
            tell(Progress(len(cells), done, reused, len(failures), cell))
            try:
                store.write(cell, measure(cell))
                done += 1
            except Exception as error:
                store.write_failure(cell, error)
                failures[cell.id] = f"{type(error).__name__}: {error}"
        tell(Progress(len(cells), done, reused, len(failures), None))
        verdicts = evaluate(study, load(out)) if study.claims else ()
        write_json(Path(out) / "verdicts.json", [_as_json(v) for v in verdicts])
    seconds = time.perf_counter() - start
    return Summary(len(cells), done - reused, reused, failures, tuple(aside), verdicts, seconds)


def _as_json(verdict: StudyVerdict) -> dict[str, Any]:
    values = asdict(verdict)
    values["outcome"] = str(verdict.outcome)
    if verdict.estimate is not None:
        # JSON has no infinity.
        numbers = asdict(verdict.estimate)
        finite = {k: v if abs(v) < float("inf") else str(v) for k, v in numbers.items()}
        values["estimate"] = finite
    return {**values, "as_expected": verdict.as_expected}
