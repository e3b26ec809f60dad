"""Bad inputs end in words: not in a traceback, an answer, a NaN or silence (tests/fuzz/run.py)."""

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("fuzz_run", Path(__file__).with_name("run.py"))
assert SPEC is not None and SPEC.loader is not None
run = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(run)

#: Surface -> fewest inputs; those of one line run in one process.
SURFACES = (
    {"Python": 1500},
    {"optimiser": 300, "assertions": 120, "TOML": 120, ".npz": 60, "command line": 150},
)


#: Without --whole one input in so many, of every surface.
EVERY = 11


def test_bad_inputs_end_in_words(pytestconfig):
    every = 1 if pytestconfig.getoption("--whole") else EVERY
    with ThreadPoolExecutor() as pool:
        parts = pool.map(lambda part: list(run.outcomes(list(part), every=every)), SURFACES)
        found = [one for part in parts for one in part]
    counts = Counter(one.surface for one in found)
    for surface, fewest in (pair for part in SURFACES for pair in part.items()):
        assert counts[surface] >= fewest // every, surface
    offenders = [
        f"{one.surface}, {one.kind}: {one.label}: {one.detail}"
        for one in found
        if one.kind not in run.GOOD
    ]
    assert not offenders, "\n".join(offenders)


@pytest.mark.slow
def test_what_they_are_made_from_is_sound():
    """Or a bad input may be refused for another reason than what is bad in it."""
    here = list(run.outcomes(sound=True))
    assert len(here) > 60
    offenders = [f"{one.kind}: {one.label}: {one.detail}" for one in here if one.kind != "silent"]
    assert not offenders, "\n".join(offenders)


@pytest.mark.slow
def test_commands_as_processes_end_in_words():
    here = list(run.processes(every=40))
    assert len(here) >= 5
    offenders = [
        f"{one.kind}: {one.label}: {one.detail}" for one in here if one.kind not in run.GOOD
    ]
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8:strict"])
def test_a_terminal_that_cannot_show_a_text_is_no_fault(tmp_path, encoding):
    """Greek letters of our tables, and names of files that are no UTF-8."""
    study = 'title = "\u03c1 and \u03b1"\nstatement = "s"\nkind = "structure"\n'
    (tmp_path / os.fsdecode(b"of\xff")).with_suffix(".toml").write_text(study, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "ngd_theory.cli", "list", str(tmp_path)],
        env={**run.environment(), "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"of\\udcff (1 cells): ")


# --- the classes, or nothing above could fail -------------------------------------------------------


def _script(tmp_path, body):
    (tmp_path / "bad_inputs.py").write_text(
        "from types import SimpleNamespace\n"
        "import numpy as np, time, os\n"
        "from ngd_theory.errors import InputError\n"
        "def fail(error):\n    raise error\n"
        "def bad(label, call, **more):\n"
        "    more = {'argv': (), 'word': '', 'may_fail': False, **more}\n"
        "    return SimpleNamespace(surface='s', label=label, call=call, **more)\n"
        f"def all_inputs(*_):\n    return [{body}]\n"
    )


def test_every_class_is_told_from_the_others(tmp_path, monkeypatch):
    _script(
        tmp_path,
        """
        bad("clear", lambda: fail(InputError("width is 0"))),
        bad("type error", lambda: (lambda a: 0)()),
        bad("unclear", lambda: fail(InputError("width is 0")), word="depth"),
        bad("unclear", lambda: fail(InputError("two\\nlines"))),
        bad("unclear", lambda: fail(InputError(""))),
        bad("traceback", lambda: fail(TypeError("'<' not supported"))),
        bad("traceback", lambda: fail(AssertionError("no"))),
        bad("clear", lambda: fail(AssertionError("no")), may_fail=True),
        bad("traceback", lambda: np.asarray(1e300) * 1e300),
        bad("silent", lambda: np.ones(3)),
        bad("silent", lambda: None),
        bad("NaN", lambda: {"a": [1.0, np.array([np.nan])]}),
        bad("NaN", lambda: float("inf")),
        bad("hang", lambda: time.sleep(60)),
        bad("hang", lambda: os._exit(3)),
        bad("clear", str, argv=("verify", "--width", "0")),
        bad("clear", str, argv=("verify", "--widht", "0")),
        bad("unclear", str, argv=("verify", "--width", "0"), word="depth"),
        bad("silent", str, argv=("--version",)),
        """,
    )
    monkeypatch.setenv("FUZZ_HERE", str(tmp_path))
    # Twice this is the limit of a command, which takes 2 s to start on an idle machine.
    monkeypatch.setenv("FUZZ_LIMIT", "6")
    here = list(run.outcomes())
    assert [one.kind for one in here] == [one.label for one in here]
    assert len(here) == 19


@pytest.mark.parametrize(
    ("status", "out", "err", "kind"),
    [
        (2, "", "ngd-theory: width is 0\n", "clear"),
        (3, "1 NOT APPLICABLE\n", "ngd-theory: none could be judged\n", "clear"),
        (2, "", "Usage: ngd-theory verify\n\nError: No such option: --widht\n", "clear"),
        (2, "", "", "unclear"),
        (2, "", "ngd-theory: a\nngd-theory: b\n", "unclear"),
        (2, "", "\n".join("abcdefghi") + "\nngd-theory: b\n", "unclear"),
        (2, "", "Traceback (most recent call last):\nngd-theory: b\n", "traceback"),
        (4, "", "ngd-theory: a fault of ngd-theory\n", "traceback"),
        (-9, "", "", "traceback"),
        (0, "alpha nan\n", "", "NaN"),
        (1, "1 FAIL\n", "", "silent"),
    ],
)
def test_what_a_command_says_is_judged(status, out, err, kind):
    class Command:
        argv = ("verify",)
        word = ""

    assert run.judged(Command, status, out, err)[0] == kind
