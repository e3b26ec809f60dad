"""``ngd-theory report``."""

from pathlib import Path
from typing import Annotated

import typer

from ngd_theory.cli.status import Debug, Exit, Imports, guarded, named_path


@guarded
def report(
    results: Annotated[
        Path,
        typer.Argument(parser=named_path, help="Results folder of ngd-theory run."),
    ],
    imports: Imports = None,
    debug: Debug = False,
) -> int:
    """Draw a sweep: figures, table.csv, report.html.

    They go into its folder; the sweep may be unfinished.

    Exit status 0, whatever the claims come to; 2: the folder holds no sweep.
    """
    from ngd_theory.report.sweep import write_report

    for path in write_report(results):
        print(path)
    return Exit.HOLDS
