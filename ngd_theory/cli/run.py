"""``ngd-theory run`` and ``ngd-theory list``."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from ngd_theory.cli.memory import largest_cell
from ngd_theory.cli.status import (
    Debug,
    Exit,
    Imports,
    NoCache,
    Output,
    guarded,
    named_path,
    verdict_status,
)
from ngd_theory.errors import InputError

#: Seconds between two plain progress lines.
_PACE = 5.0


@guarded
def run(
    study: Annotated[
        Path,
        typer.Argument(parser=named_path, help="A study, such as studies/smoke.toml."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            parser=named_path, metavar="FOLDER", help="Results folder; results/NAME when left out."
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="local:N for N worker processes, tcp://HOST:PORT for a running Dask cluster; "
            "this process when left out."
        ),
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(help="Refuse a run that needs more memory, such as 8G."),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="INCONCLUSIVE and NOT APPLICABLE count as failures."),
    ] = False,
    no_cache: NoCache = False,
    imports: Imports = None,
    debug: Debug = False,
) -> int:
    """Run a study, or go on where it stopped.

    Exit status 0: every judged claim came out as expected; 1: one did not; 2: bad input, or a cell that cannot run;
    3: no claim could be judged; 4: our fault; 130: Ctrl-C.
    """
    folder = out or Path("results") / study.stem
    try:
        return _run(study, folder, scheduler, memory_limit, strict, no_cache)
    except KeyboardInterrupt:
        kept = [f"what is finished is in {folder}/"] if folder.is_dir() else []
        raise KeyboardInterrupt(*kept, "the same command goes on") from None


@guarded
def list_(
    folder: Annotated[Path, typer.Argument(parser=named_path, help="Folder of studies.")] = Path(
        "studies"
    ),
    imports: Imports = None,
    debug: Debug = False,
) -> int:
    """List the studies of a folder with one line each.

    Exit status 0; 2: one of the files is broken, or there is none.
    """
    from ngd_theory import sweeps

    studies = sweeps.list_studies(folder)
    if not studies:
        raise InputError(f"{folder} has no study: there is no file *.toml in it")
    for one in studies:
        print(one.line)
    return Exit.BAD_INPUT if any(one.error for one in studies) else Exit.HOLDS


def _run(
    path: Path,
    out: Path,
    scheduler: str | None,
    memory_limit: str | None,
    strict: bool,
    no_cache: bool,
) -> int:
    import jax

    from ngd_theory import compilation_cache, sweeps
    from ngd_theory.sweeps.schedulers import workers_here
    from ngd_theory.threads import limit_blas_threads

    study = sweeps.read(path)
    largest, times = largest_cell(study.cells()), workers_here(scheduler)
    if largest is not None and times:
        largest.require(memory_limit, times)
    limit_blas_threads()
    compilation_cache.turn_off() if no_cache else compilation_cache.turn_on()
    jax.config.update("jax_enable_x64", study.precision == "float64")
    with _shown(Console(stderr=True)) as progress:
        summary = sweeps.run(study, out, progress, scheduler=scheduler)
    for aside in summary.set_aside:
        print(f"set aside and recomputed: {aside.path}: {aside.why}", file=sys.stderr)
    for id, error in summary.failures.items():
        print(f"failed: cell {id[:12]}: {error}", file=sys.stderr)
    wide = Output(160)
    if summary.verdicts:
        wide.print(_table(summary.verdicts))
    wide.print(
        f"{summary.total} cells: {summary.computed} computed, {summary.reused} reused, "
        f"{len(summary.failures)} failed in {summary.seconds:.1f} s. Results in {escape(str(out))}/",
        soft_wrap=True,
    )
    judged = [v for v in summary.verdicts if v.outcome.decided]
    status = verdict_status(
        fails=not all(v.as_expected for v in judged),
        judged=bool(judged),
        open=len(judged) < len(summary.verdicts),
        strict=strict,
    )
    if status is not Exit.FAILS and summary.failures:
        return Exit.OUR_FAULT if summary.faults else Exit.BAD_INPUT
    return status


def _table(verdicts) -> Table:
    table = Table("statement", "measured", "approximation", "estimate", "rule", "verdict")
    last = None
    for v in verdicts:
        outcome = str(v.outcome) + (" (expected)" if v.outcome == v.expect == "FAIL" else "")
        if not v.outcome.decided:
            outcome += f": {v.why}"
        elif not v.as_expected:
            outcome += f", not {v.expect}"
        statement = "" if v.statement == last else v.statement
        estimate = "" if v.estimate is None else str(v.estimate)
        cells = (statement, v.statistic, v.approximation, estimate, v.rule, outcome)
        table.add_row(*(escape(cell) for cell in cells))
        last = v.statement
    return table


@contextmanager
def _shown(console: Console) -> Iterator[Callable]:
    """Yield a progress callback: a live bar on a terminal, a line every `_PACE` seconds elsewhere."""
    if not console.is_terminal:
        yield _plain_lines()
        return
    columns = (
        *(BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")),
        *(TimeRemainingColumn(), TextColumn("{task.description}")),
    )
    start = time.perf_counter()
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None, rate="")

        def tell(state) -> None:
            bar.update(
                task,
                total=state.total,
                completed=state.done + state.failed,
                description=escape(_description(state)),
                rate=_rate(state, start),
            )

        yield tell


def _plain_lines() -> Callable:
    start, last = time.perf_counter(), -_PACE

    def tell(state) -> None:
        nonlocal last
        now = time.perf_counter() - start
        if now - last >= _PACE or state.cell is None:
            last = now
            text = f"{state.done + state.failed}/{state.total} {_rate(state, start)} {_eta(state, now)}"
            print(" ".join(f"{text} {_description(state)}".split()), file=sys.stderr, flush=True)

    return tell


def _description(state) -> str:
    failed = f"{state.failed} failed; " if state.failed else ""
    if state.cell is None:
        return f"{failed}judging the claims"
    return f"{failed}{state.cell.description}"


def _rate(state, start: float) -> str:
    made = state.done - state.reused + state.failed
    return f"{made / max(time.perf_counter() - start, 1e-9):.2g} cells/s" if made else ""


def _eta(state, seconds: float) -> str:
    made = state.done - state.reused + state.failed
    left = state.total - state.done - state.failed
    return f"{seconds / made * left:.0f} s left;" if made and left else ""
