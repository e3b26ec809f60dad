"""Exit statuses, and how a subcommand ends in bad input."""

import sys
import traceback
from enum import IntEnum
from typing import NoReturn

import typer


class Exit(IntEnum):
    """Exit status of a subcommand."""

    HOLDS = 0
    #: A claim fails, or does not come out as expected, or a cell failed.
    FAILS = 1
    BAD_INPUT = 2
    #: By Ctrl-C: 128 and the signal's number.
    INTERRUPTED = 130


def fail(error: Exception | str, debug: bool) -> NoReturn:
    """Print one line, with ``debug`` the traceback too, and exit with `Exit.BAD_INPUT`."""
    if debug:
        traceback.print_exc()
    print(f"ngd-theory: {error}", file=sys.stderr)
    raise typer.Exit(Exit.BAD_INPUT)
