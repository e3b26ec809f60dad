"""Exit statuses of the subcommands, and how errors become exit statuses."""

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
    typer.Option("--no-cache", help="Do not keep or use cached programs."),
]

Imports = Annotated[
    list[str] | None,
    typer.Option("--import", metavar="MODULE", help="Import your own module first."),
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
    #: A claim fails or does not come out as expected. With ``--strict``: or a claim was not judged.
    FAILS = 1
    #: The run is impossible: wrong settings, bad files or too little memory.
    BAD_INPUT = 2
    #: There are claims, and none of them could be judged.
    NOT_JUDGED = 3
    #: An error that nobody foresaw.
    OUR_FAULT = 4
    #: Stopped by Ctrl-C: 128 plus the number of the signal.
    INTERRUPTED = 130
    #: The reader of the output is gone, as in ``| head``: 128 plus the number of the signal.
    BROKEN_PIPE = 141


def verdict_status(fails: bool, judged: bool, open: bool, strict: bool) -> Exit:
    """Exit status that follows from the verdicts.

    Parameters
    ----------
    fails : bool
        Whether a verdict contradicts what was expected.
    judged : bool
        Whether at least one claim was judged.
    open : bool
        Whether at least one claim was not judged.
    strict : bool
        Whether an open claim counts as a failed one.
    """
    if fails or (strict and open):
        return Exit.FAILS
    return Exit.HOLDS if judged or not open else Exit.NOT_JUDGED


def guarded(command: Callable[..., int]) -> Callable[..., None]:
    """Decorator: exit with the status that a subcommand returns, or with the status of its error.

    A foreseen error is printed as one line on standard error. The option ``debug`` prints the traceback too. Without
    it, the traceback of an unforeseen error is written to a file. The modules in ``imports`` are imported first.
    """

    @wraps(command)
    def run(*args, debug: bool = False, imports: list[str] | None = None, **options) -> None:
        try:
            extensions.load(imports or ())
            status = command(*args, **options)
        except typer.Exit:
            raise
        except BrokenPipeError:
            # Otherwise Python fails again when it flushes the output at exit.
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
    """Print the message of an error that is being handled, and return its exit status."""
    if debug:
        traceback.print_exc()
    status, text = _explained(error, debug)
    _say(text)
    return status


class Output(Console):
    """Standard output, as wide as the terminal, or ``width`` if there is no terminal."""

    def __init__(self, width: int):
        super().__init__(width=None if Console().is_terminal else width, highlight=False)

    def on_broken_pipe(self) -> None:
        """Leave the error to `guarded`: rich would exit with 1, the status of a failed claim."""
        raise BrokenPipeError


def _explained(error: Exception, debug: bool) -> tuple[Exit, str]:
    """Exit status and message of an error."""
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
