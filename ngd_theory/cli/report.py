"""``ngd-theory report``."""

from pathlib import Path
from typing import Annotated

import typer

from ngd_theory.cli.status import Exit, fail
from ngd_theory.errors import NGDTheoryError


def report(
    results: Annotated[Path, typer.Argument(help="Results folder of ngd-theory run.")],
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Draw a sweep: figures, table.csv, report.html.

    They go into its folder; the sweep may be unfinished.

    Exit status 0, whatever the claims come to; 2: the folder holds no sweep.
    """
    from ngd_theory.report.sweep import write_report

    try:
        paths = write_report(results)
    except (NGDTheoryError, OSError) as error:
        fail(error, debug)
    for path in paths:
        print(path)
    raise typer.Exit(Exit.HOLDS)
