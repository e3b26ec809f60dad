"""Try every bad input, and count what comes of it: ``python tests/fuzz/run.py [--processes] [SURFACE ...]``.

    clear        an error of `ngd_theory.errors` (or, from an assertion, an `AssertionError`) in few lines, with the
                 word that it owes; of a command exit status 2 or 3, one line of ours or of the parser, and no traceback
    type error   Python's own, for an argument that is missing, unknown or one too many
    unclear      an error of ours that is long, or lacks its word
    traceback    any other exception, warnings included; of a command a traceback or any other exit status above 1
    silent       an answer of finite numbers, or of none; of a command, status 0 or 1
    NaN          an answer with a NaN or infinity
    hang         no answer in `LIMIT` seconds

The exit status is 0 if all are clear or type errors. Inputs run in a process of their own, as users meet them: without
the checks of shapes and types that tests/conftest.py installs. ``--processes`` runs some of the commands as processes
too; ``--sound`` runs what the bad inputs are made from instead, all of which must be silent.
"""

import argparse
import contextlib
import io
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
#: Where bad_inputs.py is.
HERE = Path(os.environ.get("FUZZ_HERE", Path(__file__).parent))
CLASSES = ("clear", "type error", "unclear", "traceback", "silent", "NaN", "hang")
GOOD = CLASSES[:2]
#: Seconds for one input; those that compile something take about one.
LIMIT = float(os.environ.get("FUZZ_LIMIT", "30"))
#: Most lines and characters of a clear error, and of what a command says on standard error.
LINES, CHARACTERS = 1, 1200
COMMAND_LINES = 8
#: One in so many commands is run as a process too.
EVERY = 4
PYTHONS_OWN = re.compile(
    r"missing \d+ required|unexpected keyword argument|takes .*positional argument|multiple values"
)


class Outcome(NamedTuple):
    """What came of one input."""

    surface: str
    label: str
    kind: str
    detail: str


class Late(BaseException):
    """The time of an input is over."""


# --- in the process of the inputs ------------------------------------------------------------------


def answered(bad) -> tuple[str, str]:
    """Class and detail of an input given to Python."""
    from ngd_theory.errors import NGDTheoryError

    allowed = (NGDTheoryError, AssertionError) if bad.may_fail else (NGDTheoryError,)
    try:
        answer = bad.call()
    except allowed as error:
        lines = str(error).splitlines()
        # A failed assertion shows its numbers below.
        short = len(lines) <= (LINES if isinstance(error, NGDTheoryError) else 6)
        told = short and 0 < len(str(error)) <= CHARACTERS and bad.word in str(error)
        return ("clear" if told else "unclear"), str(error)
    except Exception as error:
        own = isinstance(error, TypeError) and PYTHONS_OWN.search(str(error))
        return ("type error" if own else "traceback"), f"{type(error).__name__}: {error}"
    return ("silent" if finite(answer) else "NaN"), str(type(answer))


def finite(answer: Any) -> bool:
    """Whether no number in an answer is NaN or infinite."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    leaves = [x for x in jax.tree.leaves(answer) if isinstance(x, float | np.ndarray | jax.Array)]
    numbers = [x for x in leaves if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return all(np.isfinite(np.asarray(x)).all() for x in numbers)


def commanded(bad) -> tuple[str, str]:
    """Class and detail of a command line, run here by the entry point of the program."""
    from ngd_theory.cli import app_main

    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["ngd-theory", *bad.argv]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            app_main()
        status: Any = 0
    except SystemExit as stop:
        status = stop.code
    finally:
        sys.argv = before
    return judged(bad, status, out.getvalue(), err.getvalue())


def judged(bad, status: Any, out: str, err: str) -> tuple[str, str]:
    """Class and detail of a command that has ended."""
    said = [line for line in err.splitlines() if line.strip()]
    detail = f"status {status}: {' | '.join(said[-3:])}"
    if "Traceback" in out + err or status not in (0, 1, 2, 3):
        return "traceback", detail
    if status in (0, 1):
        # With a colon it is explained below a table.
        return ("NaN" if re.search(r"\b(nan|inf)\b(?!:)", out) else "silent"), detail
    ours = [line for line in said if line.startswith("ngd-theory: ")]
    usage = bool(said) and said[-1].startswith("Error: ")
    short = len(said) <= COMMAND_LINES and all(len(line) <= CHARACTERS for line in said)
    told = (len(ours) == 1 and said[-1] == ours[0]) or (usage and not ours)
    # Studies that cannot be read are lines of the list.
    # A run of which nothing could be judged says so in its report.
    told |= status == 3 and "NOT APPLICABLE" in out and not ours
    told |= bad.argv[0] == "list" and not said and bool(out.strip())
    return ("clear" if told and short and bad.word in out + err else "unclear"), detail


def work(first: int, surfaces: Sequence[str], sound: bool, every: int) -> None:
    """Print an outcome a line, of one input in ``every``, from number ``first`` of these on."""
    sys.path.insert(0, str(HERE))
    signal.signal(signal.SIGALRM, _late)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["NGD_THEORY_CACHE"] = folder
        answers = sys.stdout
        from bad_inputs import all_inputs

        inputs = all_inputs(Path(folder), surfaces, sound)[::every]
        print(json.dumps([(bad.surface, bad.label) for bad in inputs]), file=answers, flush=True)
        for bad in inputs[first:]:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                kind, detail = _in_time(bad)
            line = Outcome(bad.surface, bad.label, kind, detail[:400])
            print(json.dumps(line), file=answers, flush=True)
        os.chdir(ROOT)


def _late(*_) -> None:
    raise Late


def _in_time(bad) -> tuple[str, str]:
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        return commanded(bad) if bad.argv else answered(bad)
    except Late:
        return "hang", f"no answer in {LIMIT:g} s"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# --- in the process that asks ------------------------------------------------------------------------


def outcomes(
    surfaces: Sequence[str] = (), sound: bool = False, every: int = 1
) -> Iterator[Outcome]:
    """What comes of one input in ``every``; a process that hangs, or dies, is followed by another behind that input."""
    done, names = 0, [None]
    while done < len(names):
        arguments = ["--from", str(done), "--every", str(every), *surfaces, *["--sound"] * sound]
        with _Worker(arguments) as worker:
            names = worker.read(first=True)
            for name in names[done:]:
                line = worker.read()
                done += 1
                if line is None:
                    yield Outcome(*name, "hang", "it killed its process, or stopped its clock")
                    break
                yield Outcome(*line)


class _Worker:
    """A process that runs inputs, and its answers."""

    def __init__(self, arguments: Sequence[str]):
        command = [sys.executable, str(Path(__file__)), *arguments]
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment()
        )
        self._answers: queue.Queue = queue.Queue()
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))
        self._answers.put(None)

    def read(self, first: bool = False) -> Any:
        """The next answer; None where there is none."""
        try:
            # In time for code that does not hear the alarm, and for imports.
            answer = self._answers.get(timeout=LIMIT + 90)
        except queue.Empty:
            answer = None
        if answer is None and first:
            self._errors.seek(0)
            raise RuntimeError(f"the inputs cannot be made:\n{self._errors.read()[-3000:]}")
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()


def environment() -> dict[str, str]:
    """Of processes: this package, and quick compilation."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "COLUMNS": "100",
    }


def processes(every: int = EVERY) -> Iterator[Outcome]:
    """What comes of one command in ``every``, as a process."""
    sys.path.insert(0, str(HERE))
    from bad_inputs import COMMAND, PROCESS, all_inputs

    with tempfile.TemporaryDirectory() as folder:
        for bad in all_inputs(Path(folder), [COMMAND])[::every]:
            try:
                done = subprocess.run(
                    [sys.executable, "-W", "error", "-m", "ngd_theory.cli", *bad.argv],
                    cwd=folder,
                    env=environment(),
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=2 * LIMIT,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                yield Outcome(PROCESS, bad.label, "hang", f"no answer in {2 * LIMIT:g} s")
                continue
            yield Outcome(
                PROCESS, bad.label, *judged(bad, done.returncode, done.stdout, done.stderr)
            )


def table(found: Sequence[Outcome]):
    """Counts by surface and class."""
    from rich.table import Table

    shown = Table("surface", "inputs", *CLASSES)
    surfaces = list(dict.fromkeys(one.surface for one in found))
    for surface in (*surfaces, "all"):
        kinds = [one.kind for one in found if surface in ("all", one.surface)]
        shown.add_row(surface, str(len(kinds)), *(str(kinds.count(kind)) for kind in CLASSES))
    return shown


def main() -> int:
    """Run, print the table and every offender."""
    from rich.console import Console
    from rich.markup import escape

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("surfaces", nargs="*", help="all when left out")
    parser.add_argument("--processes", action="store_true", help="some commands as processes too")
    parser.add_argument("--sound", action="store_true", help="what the inputs are made from")
    parser.add_argument("--all", action="store_true", help="print what is good too")
    parser.add_argument("--from", type=int, dest="first", help=argparse.SUPPRESS)
    parser.add_argument("--every", type=int, default=1, help="try one input in so many")
    given = parser.parse_args()
    if given.first is not None:
        work(given.first, given.surfaces, given.sound, given.every)
        return 0
    good = ("silent",) if given.sound else GOOD
    found = list(outcomes(given.surfaces, given.sound, given.every))
    if given.processes:
        found += processes()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table(found))
    for one in found:
        if given.all or one.kind not in good:
            text = f"{one.kind}: {one.surface}: {one.label}: {one.detail}"
            console.print(escape(text), soft_wrap=True)
    return int(any(one.kind not in good for one in found))


if __name__ == "__main__":
    sys.exit(main())
