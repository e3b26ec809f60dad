"""Run a study: measure every cell that is not finished, and store it."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ngd_theory.arguments import checked
from ngd_theory.files import write_json
from ngd_theory.sweeps.cells import HashedCell, grouped_by_shape
from ngd_theory.sweeps.executors import Failure, Measure, Outcome, executor
from ngd_theory.sweeps.kinds import KINDS, AnyStudy, evaluate, read
from ngd_theory.sweeps.kinds import measure as measure_cell
from ngd_theory.sweeps.store import SetAside, Store, load
from ngd_theory.sweeps.verdicts import StudyVerdict


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes
    ----------
    total, done, reused, failed : int
        Cells of the study; finished ones, of which found finished at the start; failed in this run.
    cell : HashedCell or None
        The first that is not done, being measured or about to be; None at the end.
    """

    total: int
    done: int
    reused: int
    failed: int
    cell: HashedCell | None


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes
    ----------
    total, computed, reused : int
        Cells.
    failures : dict of str to str
        Error of every cell that failed, by id.
    faults : int
        How many of them are faults of this package (`ngd_theory.errors.is_foreseen`).
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
    faults: int = 0

    @property
    def holds(self) -> bool:
        """Whether no cell failed and every claim came out as expected."""
        return not self.failures and all(verdict.as_expected for verdict in self.verdicts)


@checked
def run(
    study: AnyStudy | str | Path,
    out: str | Path,
    progress: Callable[[Progress], None] | None = None,
    measure: Measure = measure_cell,
    scheduler: str | None = None,
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
        Told the state at the start and after every cell.
    measure : callable, optional
        Gives a cell's rows.
    scheduler : str, optional
        ``local:N``: N worker processes here (a script needs its ``if __name__ == "__main__"``);
        ``tcp://HOST:PORT``: a running Dask scheduler. Left out, this process measures.

    Returns
    -------
    Summary

    Raises
    ------
    InputError
        For a bad study or scheduler, a folder of another study, or one that another run holds.
    MissingDependencyError
        For a scheduler without the package `distributed`.
    """
    start = time.perf_counter()
    study = read(study) if isinstance(study, str | Path) else study
    cells = study.cells()
    tell = progress or (lambda state: None)
    with executor(scheduler) as measured:
        store = Store(Path(out), KINDS[study.kind])
        with store.lock():
            store.record(study, cells)
            finished, aside = store.finished(cells)
            failures: dict[str, str] = {}
            faults, done = 0, len(finished)
            reused = done
            left = grouped_by_shape([cell for cell in cells if cell.id not in finished])
            waiting = {cell.id: cell for cell in left}

            def report() -> None:
                first = next(iter(waiting.values()), None)
                tell(Progress(len(cells), done, reused, len(failures), first))

            report()
            for cell, outcome in measured(measure, left):
                failure = _keep(store, cell, outcome)
                if failure is None:
                    done += 1
                else:
                    failures[cell.id] = failure.error
                    faults += not failure.foreseen
                del waiting[cell.id]
                report()
            verdicts = evaluate(study, load(out)) if study.claims else ()
            write_json(Path(out) / "verdicts.json", [_as_json(v) for v in verdicts])
    seconds = time.perf_counter() - start
    computed = done - reused
    return Summary(len(cells), computed, reused, failures, tuple(aside), verdicts, seconds, faults)


def _keep(store: Store, cell: HashedCell, outcome: Outcome) -> Failure | None:
    """Store a cell's rows, or why there are none, which is returned."""
    if not isinstance(outcome, Failure):
        try:
            store.write(cell, outcome)
            return None
        except Exception as error:
            outcome = Failure.of(error)
    store.write_failure(cell, outcome)
    return outcome


def _as_json(verdict: StudyVerdict) -> dict[str, Any]:
    values = asdict(verdict)
    values["outcome"] = str(verdict.outcome)
    if verdict.estimate is not None:
        # JSON has no infinity.
        numbers = asdict(verdict.estimate)
        finite = {k: v if abs(v) < float("inf") else str(v) for k, v in numbers.items()}
        values["estimate"] = finite
    return {**values, "as_expected": verdict.as_expected}
