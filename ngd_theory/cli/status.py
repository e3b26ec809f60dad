"""Exit statuses, and the one place where a subcommand's errors become them."""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from enum import IntEnum
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ngd_theory import extensions
from ngd_theory.errors import NGDTheoryError, is_exhausted

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
NoCache = Annotated[
    bool,
    typer.Option("--no-cache", help="Keep no compiled programs, take none."),
]

Imports = Annotated[
    list[str] | None,
    typer.Option("--import", metavar="MODULE", help="Import a module of yours first."),
]


def named_path(text: str | Path) -> Path:
    """A path of the command line, or its default.

    An empty text is refused; `Path` would read it as the current folder.
    """
    if not str(text).strip():
        raise typer.BadParameter("it is empty; give a name")
    return Path(text)


class Exit(IntEnum):
    """Exit status of a subcommand."""

    HOLDS = 0
    #: A claim fails, or does not come out as expected; with ``--strict`` also one that was not judged.
    FAILS = 1
    #: What was asked for cannot be run: settings, files, memory.
    BAD_INPUT = 2
    #: There are claims, and none of them could be judged.
    NOT_JUDGED = 3
    #: An error that nobody foresaw.
    OUR_FAULT = 4
    #: By Ctrl-C: 128 and the signal's number.
    INTERRUPTED = 130
    #: The reader of the output is gone, as in ``| head``: 128 and the signal's number.
    BROKEN_PIPE = 141


def verdict_status(fails: bool, judged: bool, open: bool, strict: bool) -> Exit:
    """What verdicts come to.

    Parameters
    ----------
    fails : bool
        Whether one contradicts what was expected.
    judged : bool
        Whether one was judged at all.
    open : bool
        Whether one was not.
    strict : bool
        Whether an open one counts as one that fails.
    """
    if fails or (strict and open):
        return Exit.FAILS
    return Exit.HOLDS if judged or not open else Exit.NOT_JUDGED


def guarded(command: Callable[..., int]) -> Callable[..., None]:
    """Decorator: exit with the status that a subcommand returns, or with that of its error.

    An error that was foreseen is one line on standard error. The traceback comes with the option ``debug``; that of
    an unforeseen one is in a file otherwise. The modules of the option ``imports`` are imported first.
    """

    @wraps(command)
    def run(*args, debug: bool = False, imports: list[str] | None = None, **options) -> None:
        try:
            extensions.load(imports or ())
            status = command(*args, **options)
        except typer.Exit:
            raise
        except BrokenPipeError:
            # Python would fail once more when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = Exit.BROKEN_PIPE
        except KeyboardInterrupt as stop:
            _say("; ".join(("interrupted", *map(str, stop.args))))
            status = Exit.INTERRUPTED
        except Exception as error:
            status = told(error, debug)
        raise typer.Exit(status)

    return run


def told(error: Exception, debug: bool = False) -> Exit:
    """Say what an error that is being handled comes to, and return its status."""
    if debug:
        traceback.print_exc()
    status, text = _explained(error, debug)
    _say(text)
    return status


class Output(Console):
    """Standard output: as wide as the terminal, or ``width`` where there is none."""

    def __init__(self, width: int):
        super().__init__(width=None if Console().is_terminal else width, highlight=False)

    def on_broken_pipe(self) -> None:
        """Leave it to `guarded`: rich would exit with the status of a failed claim."""
        raise BrokenPipeError


def _explained(error: Exception, debug: bool) -> tuple[Exit, str]:
    """The status of an error and what to say of it."""
    if isinstance(error, NGDTheoryError):
        return Exit.BAD_INPUT, str(error)
    if is_exhausted(error):
        return Exit.BAD_INPUT, f"out of memory ({_first_line(error)}); lower --width or --num-train"
    if isinstance(error, OSError):
        return Exit.BAD_INPUT, f"{error}; free the path or the space, or choose another --out"
    where = "above" if debug else f"in {_written_traceback()}"
    return Exit.OUR_FAULT, (
        f"a fault of ngd-theory, not of the theory: {type(error).__name__}: {_first_line(error)}. "
        f"Please report it to the authors, with the command and the traceback {where}"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no message"


def _written_traceback() -> str:
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="ngd-theory-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(traceback.format_exc())
        return file.name
    except OSError:
        return "that --debug shows"


def _say(text: str) -> None:
    print(f"ngd-theory: {text}", file=sys.stderr)
