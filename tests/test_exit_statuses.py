"""Every command: which status an error or a verdict comes to, and that one line says why."""

import errno
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ngd_theory import environment, experiment, references, report, sweeps
from ngd_theory.cli import app
from ngd_theory.cli.status import Exit
from ngd_theory.errors import InputError, SingularKernelError
from ngd_theory.sweeps import Outcome, StudyVerdict, Summary

STUDY = Path(__file__).parents[1] / "studies" / "smoke.toml"
#: What each command spends its time in, and how it is called.
COMMANDS = {
    "verify": (
        experiment,
        "verify",
        ["--dataset", "gaussian", "--width", "16", "--num-train", "4"],
    ),
    "run": (sweeps, "run", [str(STUDY)]),
    "report": (report, "sweep.write_report", ["somewhere"]),
    "list": (sweeps, "list_studies", ["studies"]),
    "cite": (references, "known", []),
    "doctor": (environment, "environment", []),
}


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """Run a command whose work raises an error."""

    def run(command, error, *more):
        monkeypatch.chdir(tmp_path)
        module, name, arguments = COMMANDS[command]

        def breaks(*arguments, **options):
            raise error

        if "." in name:
            monkeypatch.setattr(f"ngd_theory.report.{name}", breaks)
        else:
            monkeypatch.setattr(module, name, breaks)
        return CliRunner().invoke(app, [command, *arguments, *more])

    return run


FORESEEN = [
    InputError("width is wrong"),
    SingularKernelError("layer 2"),
    OSError(errno.ENOSPC, "No space left on device"),
    PermissionError(errno.EACCES, "Permission denied"),
    MemoryError("80 GiB"),
    RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 720000000000 bytes.\nmore\nlines"),
]
UNFORESEEN = [
    RuntimeError("INTERNAL: MLIR\n  module @jit"),
    ValueError("a bug"),
    RecursionError("maximum recursion depth exceeded"),
    OverflowError("int too large"),
    ZeroDivisionError("division by zero"),
    AssertionError(),
]


def last_line(result):
    lines = result.stderr.rstrip().splitlines()
    assert sum(line.startswith("ngd-theory: ") for line in lines) == 1
    assert lines[-1].startswith("ngd-theory: ")
    return lines[-1]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("error", FORESEEN, ids=lambda e: type(e).__name__ + str(e)[:8])
def test_what_was_asked_for_and_the_machine_give_status_2(broken, command, error):
    result = broken(command, error)
    assert result.exit_code == 2
    assert str(error).splitlines()[0] in last_line(result)
    assert "Traceback" not in result.output and "report it" not in result.output


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda e: type(e).__name__)
def test_a_fault_of_ours_gives_status_4_one_line_and_a_file_with_the_traceback(
    broken, command, error
):
    result = broken(command, error)
    assert result.exit_code == 4
    line = last_line(result)
    assert type(error).__name__ in line and "report it" in line and "@jit" not in line
    assert "Traceback" not in result.output
    file = Path(line.rsplit(" ", 1)[1])
    text = file.read_text(encoding="utf-8")
    assert text.startswith("Traceback") and "breaks" in text
    file.unlink()


@pytest.mark.parametrize("command", COMMANDS)
def test_debug_shows_the_traceback(broken, command):
    result = broken(command, ValueError("a bug"), "--debug")
    assert result.exit_code == 4
    assert "Traceback" in result.stderr and "breaks" in result.stderr
    assert last_line(result).endswith("the traceback above")


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_gives_status_130(broken, command):
    result = broken(command, KeyboardInterrupt())
    assert result.exit_code == 130
    assert "interrupted" in last_line(result)


@pytest.mark.parametrize("command", ["list"])
def test_a_reader_that_is_gone_gives_the_status_of_its_signal(command):
    """As in ``| head``: rich alone would exit with the status of a claim that fails."""
    module, name, arguments = COMMANDS[command]
    code = (
        f"import sys, {module.__name__} as m\n"
        "def breaks(*a, **o): raise BrokenPipeError\n"
        f"setattr(m, {name!r}, breaks)\n"
        "from ngd_theory.cli import app_main\n"
        f"sys.argv = ['ngd-theory', {command!r}, *{arguments!r}]\napp_main()\n"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=False)
    assert done.returncode == 141
    assert done.stderr == b""


def test_what_breaks_before_a_command_runs_is_no_failed_claim(monkeypatch, capsys):
    from ngd_theory.cli import app as _  # noqa: F401 - the module, not the object of its name
    from ngd_theory.cli.app import app_main

    def breaks(**options):
        raise ValueError("a bug")

    monkeypatch.setattr(sys.modules["ngd_theory.cli.app"], "app", breaks)
    with pytest.raises(SystemExit) as stop:
        app_main()
    assert stop.value.code == 4
    assert "report it" in capsys.readouterr().err


# --- verdicts ------------------------------------------------------------------------------------

PASS, FAIL, OPEN = Outcome.PASS, Outcome.FAIL, Outcome.NOT_APPLICABLE


@pytest.fixture(scope="module")
def found():
    settings = {"dataset": "gaussian", "input_dim": 24, "num_train": 12, "num_test": 0}
    settings |= {"width": 256, "steps": 3, "approximations": ("exact",)}
    return experiment.verify(experiment.parse(settings))


@pytest.mark.parametrize(
    ("outcomes", "plain", "strict"),
    [
        ([PASS], 0, 0),
        ([PASS, OPEN], 0, 1),
        ([PASS, FAIL], 1, 1),
        ([FAIL, OPEN], 1, 1),
        ([OPEN, OPEN], 3, 1),
        ([], 0, 0),
    ],
)
def test_statuses_of_verify(monkeypatch, tmp_path, found, outcomes, plain, strict):
    verdicts = tuple(replace(found.verdicts[0], outcome=outcome) for outcome in outcomes)
    answer = replace(found, verdicts=verdicts)
    monkeypatch.setattr(experiment, "verify", lambda *arguments: answer)
    given = ["verify", "--dataset", "gaussian", "--out", str(tmp_path / "out")]
    for more, status in ([], plain), (["--strict"], strict):
        result = CliRunner().invoke(app, [*given, *more])
        assert result.exit_code == status, result.output


def verdict(outcome, expect="PASS"):
    return StudyVerdict("s", "exact", "max", "<= 1", expect, Outcome(outcome), None, "why")


@pytest.mark.parametrize(
    ("verdicts", "failures", "faults", "plain", "strict"),
    [
        ([verdict("PASS")], {}, 0, 0, 0),
        ([verdict("FAIL", "FAIL")], {}, 0, 0, 0),
        ([verdict("NOT APPLICABLE", "FAIL")], {}, 0, 3, 1),
        ([verdict("FAIL")], {}, 0, 1, 1),
        ([verdict("PASS", "FAIL")], {}, 0, 1, 1),
        ([verdict("PASS"), verdict("INCONCLUSIVE")], {}, 0, 0, 1),
        ([verdict("PASS"), verdict("NOT APPLICABLE")], {}, 0, 0, 1),
        ([verdict("INCONCLUSIVE"), verdict("NOT APPLICABLE")], {}, 0, 3, 1),
        ([], {}, 0, 0, 0),
        ([verdict("PASS")], {"a": "InputError: no"}, 0, 2, 2),
        ([verdict("PASS")], {"a": "ValueError: bug"}, 1, 4, 4),
        ([verdict("INCONCLUSIVE")], {"a": "ValueError: bug"}, 1, 4, 1),
        ([verdict("FAIL")], {"a": "ValueError: bug"}, 1, 1, 1),
    ],
)
def test_statuses_of_run(monkeypatch, tmp_path, verdicts, failures, faults, plain, strict):
    summary = Summary(3, 3, 0, failures, (), tuple(verdicts), 1.0, faults)
    monkeypatch.setattr(sweeps, "run", lambda *arguments, **options: summary)
    for more, status in ([], plain), (["--strict"], strict):
        given = ["run", str(STUDY), "--out", str(tmp_path / "out"), *more]
        assert CliRunner().invoke(app, given).exit_code == status


def test_a_cell_that_fails_says_whether_that_was_foreseen(tmp_path):
    from ngd_theory.sweeps.executors import Failure

    assert all(Failure.of(error).foreseen for error in FORESEEN)
    assert not any(Failure.of(error).foreseen for error in UNFORESEEN)


def test_every_status_is_in_the_documentation():
    page = (Path(__file__).parents[1] / "docs" / "command_line.md").read_text(encoding="utf-8")
    for status in Exit:
        assert f"| {status.value} |" in page, status
