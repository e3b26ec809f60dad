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

from ngd_theory.cli.status import Exit, fail
from ngd_theory.errors import NGDTheoryError

#: Seconds between two plain progress lines.
_PACE = 5.0


def run(
    study: Annotated[Path, typer.Argument(help="A study, such as studies/smoke.toml.")],
    out: Annotated[
        Path | None, typer.Option(help="Results folder; results/NAME when left out.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="local:N for N worker processes, tcp://HOST:PORT for a running Dask cluster; "
            "this process when left out."
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Run a study, or go on where it stopped.

    Exit status 0: every cell ran and every claim came out as expected; 1: not so; 2: bad input; 130: Ctrl-C.
    """
    folder = out or Path("results") / study.stem
    try:
        status = _run(study, folder, scheduler)
    except (NGDTheoryError, OSError) as error:
        fail(error, debug)
    except KeyboardInterrupt:
        kept = f"; what is finished is in {folder}/" if folder.is_dir() else ""
        print(f"ngd-theory: interrupted{kept}; the same command goes on", file=sys.stderr)
        status = Exit.INTERRUPTED
    raise typer.Exit(status)


def list_(
    folder: Annotated[Path, typer.Argument(help="Folder of studies.")] = Path("studies"),
) -> None:
    """List the studies of a folder with one line each."""
    from ngd_theory import sweeps

    try:
        studies = sweeps.list_studies(folder)
    except NGDTheoryError as error:
        fail(error, debug=False)
    for one in studies:
        print(one.line)
    raise typer.Exit(Exit.BAD_INPUT if any(one.error for one in studies) else Exit.HOLDS)


def _run(path: Path, out: Path, scheduler: str | None) -> int:
    import jax

    from ngd_theory import sweeps
    from ngd_theory.threads import limit_blas_threads

    study = sweeps.read(path)
    limit_blas_threads()
    jax.config.update("jax_enable_x64", study.precision == "float64")
    with _shown(Console(stderr=True)) as progress:
        summary = sweeps.run(study, out, progress, scheduler=scheduler)
    for aside in summary.set_aside:
        print(f"set aside and recomputed: {aside.path}: {aside.why}", file=sys.stderr)
    for id, error in summary.failures.items():
        print(f"failed: cell {id[:12]}: {error}", file=sys.stderr)
    console = Console()
    wide = console if console.is_terminal else Console(width=160)
    if summary.verdicts:
        wide.print(_table(summary.verdicts))
    wide.print(
        f"{summary.total} cells: {summary.computed} computed, {summary.reused} reused, "
        f"{len(summary.failures)} failed in {summary.seconds:.1f} s. Results in {escape(str(out))}/",
        soft_wrap=True,
    )
    return Exit.HOLDS if summary.holds else Exit.FAILS


def _table(verdicts) -> Table:
    from ngd_theory.sweeps import Outcome

    table = Table("statement", "measured", "approximation", "estimate", "rule", "verdict")
    last = None
    for v in verdicts:
        outcome = str(v.outcome) + (" (expected)" if v.outcome == v.expect == "FAIL" else "")
        outcome += "" if v.as_expected else f", not {v.expect}"
        if v.outcome in (Outcome.INCONCLUSIVE, Outcome.NOT_APPLICABLE):
            outcome += f": {v.why}"
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
