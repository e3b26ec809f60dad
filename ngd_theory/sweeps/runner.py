"""Run a study: measure every cell that is not finished, and store it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ngd_theory.arguments import checked
from ngd_theory.experiment.claim import Outcome
from ngd_theory.sweeps.base import AnyStudy, StudyVerdict, evaluate
from ngd_theory.sweeps.cells import Cell, grouped_by_shape, with_data
from ngd_theory.sweeps.executors import Failure, Measure, Measured, Rows
from ngd_theory.sweeps.kinds import read
from ngd_theory.sweeps.schedulers import executor
from ngd_theory.sweeps.store import SetAside, Store, load


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes
    ----------
    total, done, reused, failed : int
        Numbers of cells: in the study, finished, already finished at the start, failed in this run.
    cell : Cell or None
        The first cell that is not done; None at the end.
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
        """Whether no cell failed and the claims came out as expected.

        Claims that do not apply are left out. If there are claims, one at least must apply, and none be inconclusive.
        """
        applied = [v for v in self.verdicts if v.outcome is not Outcome.NOT_APPLICABLE]
        shown = bool(applied) or not self.verdicts
        return not self.failures and shown and all(v.as_expected for v in applied)


def measure_cell(cell: Cell) -> Rows:
    """A cell's rows."""
    return cell.measure()


@checked
def run(
    study: AnyStudy | str | Path,
    out: str | Path,
    progress: Callable[[Progress], None] | None = None,
    measure: Measure = measure_cell,
    scheduler: str | None = None,
) -> Summary:
    """Measure every unfinished cell of a study and judge its claims.

    Cells are independent, and each is stored as soon as it is done. After an interruption of any kind, the same call
    goes on. Cells that failed are tried again. Cells of one shape are run together, so that each program is compiled
    once. Among these, cells of one network are run together: positive dampings and step scales share one linearisation.

    Parameters
    ----------
    study : AnyStudy or path of its file
    out : path
        Results folder.
    progress : callable, optional
        Called with the state at the start and after every cell.
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
        For a bad study or scheduler, data that are not there, a folder of another study or of other data, or one that
        another run holds.
    MissingDependencyError
        For a scheduler without the package `distributed`.
    """
    start = time.perf_counter()
    study = read(study) if isinstance(study, str | Path) else study
    cells = with_data(study.cells())
    tell = progress or (lambda state: None)
    with executor(scheduler) as measured:
        store = Store(Path(out), study.columns)
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
            try:
                for cell, outcome in measured(measure, left):
                    failure = _keep(store, cell, outcome)
                    if failure is None:
                        done += 1
                    else:
                        failures[cell.id] = failure.error
                        faults += not failure.foreseen
                    del waiting[cell.id]
                    report()
            finally:
                for kind in {type(cell) for cell in cells}:
                    kind.kept.clear()
            verdicts = evaluate(study, load(out), failures) if study.claims else ()
            store.write_verdicts(verdicts)
    seconds = time.perf_counter() - start
    computed = done - reused
    return Summary(len(cells), computed, reused, failures, tuple(aside), verdicts, seconds, faults)


def _keep(store: Store, cell: Cell, outcome: Measured) -> Failure | None:
    """Store a cell's rows, or else store and return its failure."""
    if not isinstance(outcome, Failure):
        try:
            store.write(cell, outcome)
            return None
        except Exception as error:
            outcome = Failure.of(error)
    store.write_failure(cell, outcome)
    return outcome
