"""The command line: exit statuses, messages, files; nothing half done."""

import inspect
import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import ngd_theory
from ngd_theory import environment, experiment, report, sweeps
from ngd_theory.cli import app
from ngd_theory.cli.app import EXAMPLES
from ngd_theory.cli.memory import MemoryPlan, gigabytes, largest_cell
from ngd_theory.errors import InputError, SingularKernelError
from ngd_theory.experiment import Outcome

ROOT = Path(__file__).resolve().parents[1]
#: The shapes of ``tests/experiment/conftest.py``, whose compiled programs serve again.
SMALL = (
    "--dataset gaussian --input-dim 24 --num-train 12 --num-test 8 --width 256 --steps 3".split()
)
FILES = {"result.json", "dynamics.png", "isotropy.png", "lazy.png"}


@pytest.fixture(autouse=True)
def same_precision_afterwards():
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def verify(tmp_path):
    """Run ``ngd-theory verify`` here, with results under ``tmp_path/out``."""

    def run(*arguments, small=True, approximations="exact"):
        given = [*(SMALL if small else ()), *arguments]
        if approximations and "--approximations" not in given:
            given += ["--approximations", approximations]
        if "--out" not in given:
            given += ["--out", str(tmp_path / "out")]
        return CliRunner().invoke(app, ["verify", *given])

    return run


@pytest.fixture(scope="module")
def found():
    """A report, to be answered with."""
    settings = {"dataset": "gaussian", "input_dim": 24, "num_train": 12, "num_test": 0}
    settings |= {"width": 256, "steps": 3, "approximations": ("exact",)}
    return experiment.verify(experiment.parse(settings))


@pytest.fixture
def canned(monkeypatch, found):
    """Answer ``experiment.verify`` with a report: these tests are of what is done with it."""

    def answer(changed=found):
        monkeypatch.setattr(experiment, "verify", lambda *arguments: changed)
        return found

    answer()
    return answer


def refused(result, *words, out=None):
    """Check status 2, one line that says these words, no traceback, nothing written."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith("ngd-theory: ")]
    assert len(lines) == 1 and result.stderr.rstrip().endswith(lines[0])
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in result.output
    if out is not None:
        assert not out.exists()
    return True


# --- a whole run ---------------------------------------------------------------------------------


def test_a_run_of_the_program_writes_its_files_and_holds(tmp_path):
    out = tmp_path / "new" / "folder"
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-m", "ngd_theory.cli", "verify", *SMALL),
            *("--approximations", "identity,exact", "--out", str(out)),
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "80",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # most of the time is compilation
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(os.listdir(out)) == FILES
    assert os.listdir(tmp_path) == ["new"]
    result = json.loads((out / "result.json").read_text())
    assert result["holds"] is True
    assert result["environment"]["float"] == "float64"
    assert "PASS" in done.stdout and "0 FAIL" in done.stdout
    for name in ("identity", "exact"):
        assert name in done.stdout and name in done.stderr  # table and progress


@pytest.mark.slow
def test_float32_is_honoured(verify, tmp_path):
    few = ("--num-test", "0", "--steps", "1", "--approximations", "identity")
    result = verify("--precision", "float32", *few)
    assert result.exit_code in (0, 1), result.output
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert found["environment"]["float"] == "float32"


# --- exit statuses -------------------------------------------------------------------------------


def test_status_0_when_every_applicable_claim_holds(canned, verify, tmp_path):
    found = canned()
    canned(replace(found, verdicts=tuple(v for v in found.verdicts if v.outcome != Outcome.FAIL)))
    result = verify()
    assert result.exit_code == 0
    assert set(os.listdir(tmp_path / "out")) == FILES


def test_status_1_when_one_fails_and_the_results_are_still_written(canned, verify, tmp_path):
    found = canned()
    failed = replace(found.verdicts[0], outcome=Outcome.FAIL)
    canned(replace(found, verdicts=(failed, *found.verdicts[1:])))
    result = verify()
    assert result.exit_code == 1
    assert "1 FAIL" in result.stdout
    assert json.loads((tmp_path / "out" / "result.json").read_text())["holds"] is False
    assert set(os.listdir(tmp_path / "out")) == FILES


def test_a_contradicted_claim_gives_status_1(verify, monkeypatch, tmp_path):
    """The whole way: a theory with a wrong constant, on a real run."""
    monkeypatch.setattr(ngd_theory.fisher.Exact, "isotropy_constant", lambda *arguments: 1.25)
    result = verify("--num-test", "0")
    assert result.exit_code == 1
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert "constant" in {c["claim"] for c in found["claims"] if c["status"] == "FAIL"}


BAD = [
    (["--width", "0"], ["--width 0", "greater than or equal to 1"]),
    (["--depth", "0"], ["--depth 0"]),
    (["--num-train", "0"], ["--num-train 0"]),
    (["--num-test", "-1"], ["--num-test -1"]),
    (["--steps", "0"], ["--steps 0"]),
    (["--damping", "-1e-8"], ["--damping -1e-08"]),
    (["--damping", "nan"], ["--damping nan", "finite"]),
    (["--damping", "inf"], ["--damping inf", "finite"]),
    (["--step-scale", "0"], ["--step-scale 0"]),
    (["--step-scale", "nan"], ["--step-scale nan", "finite"]),
    (["--weight-std", "-1"], ["--weight-std -1"]),
    (["--weight-std", "nan"], ["--weight-std nan"]),
    (["--bias-std", "nan"], ["--bias-std nan"]),
    (["--seed", "-1"], ["--seed -1"]),
    (["--activation", "swish"], ["swish", "relu, tanh, erf, gelu, identity"]),
    (["--approximations", "kfak"], ["kfak", "identity, exact", "kfac"]),
    (["--approximations", "exact,exact"], ["twice"]),
    (["--loss", "l1"], ["--loss l1", "mse", "cross-entropy"]),
    (["--precision", "float16"], ["--precision float16", "float32", "float64"]),
    (["--dataset", "emnist"], ["emnist", "mnist", "PATH.npz"]),
    (["--dataset", "openml:"], ["openml"]),
    (["--dataset", "missing.npz"], ["missing.npz", "not a file"]),
    (["--classes", "0,1"], ["leave classes out"]),
    (["--loss", "cross-entropy", "--approximations", "kfac"], ["kfac", "identity, exact"]),
    (["--forster"], ["Forster"]),
]


@pytest.mark.parametrize("arguments, words", BAD, ids=lambda x: " ".join(x))
def test_bad_input_gives_status_2_and_one_line(verify, tmp_path, arguments, words):
    result = verify(*arguments)
    assert refused(result, *words, out=tmp_path / "out")


def test_an_empty_class_is_named_with_those_there_are(verify, tmp_path):
    path = tmp_path / "three.npz"
    np.savez(path, x=np.eye(9), y=np.arange(9) % 3)
    given = ["--dataset", str(path), "--num-train", "4", "--num-test", "2"]
    result = verify(*given, "--classes", "0,7", small=False)
    assert refused(result, "no class '7'", "0, 1, 2", out=tmp_path / "out")


def damaged(kind, path):
    x, y = np.random.default_rng(0).normal(size=(12, 4)), np.arange(12) / 12
    if kind == "truncated":
        np.savez(path, x=x, y=y)
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("x,y\n1,2\n")
    elif kind == "pickle":
        np.savez(path, x=np.array([{}] * 12), y=y)
    elif kind == "no y":
        np.savez(path, x=x)
    elif kind == "lengths":
        np.savez(path, x=x, y=y[:-1])
    elif kind == "NaN input":
        np.savez(path, x=np.where(x == x[3, 2], np.nan, x), y=y)
    elif kind == "NaN target":
        np.savez(path, x=x, y=np.full(12, np.nan))
    elif kind == "complex":
        np.savez(path, x=x + 1j, y=y)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("truncated", "save it again"),
        ("empty", "save it again"),
        ("text", "save it again"),
        ("pickle", "pickle"),
        ("no y", "no array y"),
        ("lengths", "rows"),
        ("NaN input", "NaN"),
        ("NaN target", "NaN"),
        ("complex", "real numbers"),
    ],
)
def test_a_damaged_file_gives_status_2_and_names_it(verify, tmp_path, kind, words):
    path = tmp_path / "mine.npz"
    damaged(kind, path)
    given = ["--dataset", str(path), "--num-train", "6", "--num-test", "2", "--width", "16"]
    result = verify(*given, small=False)
    assert refused(result, words, "mine.npz", out=tmp_path / "out")


def test_more_rows_than_there_are_is_refused(verify, tmp_path):
    path = tmp_path / "few.npz"
    np.savez(path, x=np.eye(5), y=np.arange(5) / 5)
    result = verify("--dataset", str(path), "--num-train", "6", small=False)
    assert refused(result, "only 5", "ask for at most 5", out=tmp_path / "out")


@pytest.mark.parametrize("below", ["", "/folder"])
def test_results_where_a_file_is_are_refused_before_the_work(verify, tmp_path, monkeypatch, below):
    file = tmp_path / "file"
    file.write_text("mine")
    monkeypatch.setattr(experiment, "verify", lambda *arguments: pytest.fail("it was run"))
    result = verify("--out", f"{file}{below}")
    assert refused(result, "is a file", "--out")
    assert file.read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(verify, monkeypatch):
    monkeypatch.setattr(experiment, "verify", lambda *arguments: pytest.fail("it was run"))
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    assert refused(verify(), "no permission")


def test_a_folder_that_only_the_system_refuses_is_found_before_the_work(verify, monkeypatch):
    def mkdir(*arguments, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(experiment, "verify", lambda *arguments: pytest.fail("it was run"))
    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert refused(verify(), "Read-only file system", "--out")


def test_a_full_disk_is_one_line_and_leaves_no_part(canned, verify, tmp_path, monkeypatch):
    def full(found, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "draw_dynamics", full)
    assert refused(verify(), "No space left on device", "--out")
    assert not [name for name in os.listdir(tmp_path / "out") if name.endswith(".part")]


def test_a_singular_kernel_is_one_line(verify, monkeypatch, tmp_path):
    def breaks(*arguments):
        raise SingularKernelError("layer 2: raise the damping")

    monkeypatch.setattr(experiment, "verify", breaks)
    assert refused(verify(), "layer 2: raise the damping", out=tmp_path / "out")


def test_too_little_memory_is_one_line(verify, monkeypatch, tmp_path):
    def breaks(*arguments):
        raise MemoryError("Unable to allocate 80 GiB")

    monkeypatch.setattr(experiment, "verify", breaks)
    assert refused(verify(), "80 GiB", "--width", out=tmp_path / "out")


def test_debug_shows_the_traceback_and_the_line(verify):
    result = verify("--width", "0", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.output and "InputError" in result.output
    assert result.stderr.rstrip().splitlines()[-1].startswith("ngd-theory: --width 0")


@pytest.mark.parametrize("arguments", [["--width", "wide"], ["--wdith", "3"], ["surplus"]])
def test_what_cannot_be_parsed_gives_status_2(verify, arguments):
    result = verify(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_an_unknown_command_gives_status_2():
    assert CliRunner().invoke(app, ["verfiy"]).exit_code == 2


# --- the program itself --------------------------------------------------------------------------


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output.strip() == ngd_theory.__version__


def test_help_explains_the_exit_statuses():
    result = CliRunner().invoke(app, ["verify", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "Exit status 0" in result.output


def helped(name):
    given = [name, "--help"] if name else ["--help"]
    result = CliRunner().invoke(app, given, env={"COLUMNS": "80"})
    assert result.exit_code == 0
    return result.output.splitlines()


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_help_fits_a_screen_and_ends_in_its_examples(name):
    lines = helped(name)
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 80
    examples = [line.strip() for line in lines[lines.index("  Examples:") + 1 :]]
    assert examples == inspect.cleandoc(EXAMPLES[name]).splitlines()
    assert len(examples) >= 1
    assert all(line.startswith(f"ngd-theory {name}".strip()) for line in examples)


def test_no_summary_of_a_command_is_cut_off():
    lines = helped("")
    shown = lines[lines.index("Commands:") + 1 : lines.index("  Examples:") - 1]
    assert len(shown) == len(EXAMPLES) - 1
    assert all(line.endswith(".") and not line.endswith("...") for line in shown)


def test_shells_can_complete():
    assert any("--install-completion" in line for line in helped(""))


def test_importing_the_package_imports_nothing_that_only_a_part_of_it_needs():
    """Figures, tables, clusters, data sets and the bridge are imported when first used."""
    code = """
import sys
import ngd_theory
heavy = "matplotlib neural_tangents distributed dask mlxtend sklearn pandas pyarrow pydantic optax typer rich"
found = [name for name in heavy.split() if name in sys.modules]
assert not found, found
"""
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=120,
    )


def test_importing_the_package_sets_no_jax_flag():
    code = """
import jax
before = dict(jax.config.values)
import ngd_theory, ngd_theory.experiment, ngd_theory.report, ngd_theory.cli
changed = {k for k in before if jax.config.values[k] != before[k]}
assert not changed, changed
assert not jax.config.jax_enable_x64
"""
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=120,
    )


def test_explain_says_what_a_run_would_hold_and_runs_nothing(verify, tmp_path):
    result = verify("--explain", approximations="exact,kfac")
    assert result.exit_code == 0, result.output
    for word in ("exact", "kfac", "linearisation", "verify as a whole", "free on this machine"):
        assert word in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("limit", ["1M", "0.4 GB"])
def test_a_run_above_the_memory_limit_is_refused_before_it_starts(verify, tmp_path, limit):
    result = verify("--memory-limit", limit, "--width", "4096")
    assert result.exit_code == 2
    assert f"above --memory-limit {limit}" in result.output and "--width" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("limit", ["much", "-1", "2X", "0", "1.2.3G", "9" * 400])
def test_a_memory_limit_that_is_none_is_refused(verify, limit):
    result = verify(f"--memory-limit={limit}")
    assert result.exit_code == 2 and "--memory-limit" in result.output
    assert verify("--explain", f"--memory-limit={limit}").exit_code == 2


def test_files_in_a_containers_cache_count_as_free(tmp_path):
    for name, text in (
        ("max", "1000\n"),
        ("current", "900\n"),
        ("stat", "anon 5\ninactive_file 300\n"),
    ):
        (tmp_path / f"memory.{name}").write_text(text)
    assert environment._control_group(tmp_path) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert environment._control_group(tmp_path) is None


def test_doctor_says_what_is_here():
    result = CliRunner().invoke(app, ["doctor", "--width", "64"])
    assert result.exit_code == 0, result.output
    for word in ("jax", "devices", "data: mnist", "NGD_THEORY_CACHE", "M = 64", "block-diagonal"):
        assert word in result.output, word
    refused = CliRunner().invoke(app, ["doctor", "--width", "0"])
    assert refused.exit_code == 2 and "--width 0" in refused.output


# --- memory and sizes ----------------------------------------------------------------------------

HUGE = [
    ["--width", str(10**7)],
    ["--width", str(10**9)],
    ["--depth", "2000"],
    ["--output-dim", "1000"],
    ["--num-train", str(10**8)],
    ["--num-test", str(10**8)],
    ["--steps", str(10**9)],
    ["--width", "300000"],
]


@pytest.fixture
def machine(monkeypatch):
    """Set the memory that this machine says it has free."""
    return lambda free: monkeypatch.setattr("ngd_theory.cli.memory.available_memory", lambda: free)


@pytest.mark.parametrize("arguments", HUGE, ids=" ".join)
@pytest.mark.parametrize("explain", [True, False])
def test_sizes_are_counted_and_refused_without_allocating(
    verify, machine, tmp_path, arguments, explain
):
    machine(6 * 10**9)
    tracemalloc.start()
    try:
        more = ["--explain"] if explain else []
        result = verify(*arguments, *more, approximations="exact,kfac,unit-wise,block-tridiagonal")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100e6
    if explain:
        assert result.exit_code == 0 and "it cannot fit" in result.output
    else:
        assert refused(result, "6.0 GB free", "--memory-limit", out=tmp_path / "out")


@pytest.mark.parametrize("command", ["verify", "doctor"])
@pytest.mark.parametrize("width", [10**12, 10**18])
def test_memory_of_any_width_is_told_at_once(verify, command, width):
    given = ["--width", str(width)]
    told = (
        verify(*given, "--explain")
        if command == "verify"
        else CliRunner().invoke(app, ["doctor", *given])
    )
    assert told.exit_code == 0, told.output
    assert "it cannot fit" in told.output


@pytest.mark.parametrize("name", ["width", "num-train", "num-test", "steps"])
@pytest.mark.parametrize("digits", [40, 400])
def test_a_number_beyond_the_integers_of_arrays_is_refused(verify, tmp_path, name, digits):
    result = verify(f"--{name}", "1" + "0" * digits)
    assert refused(result, f"--{name}", "less than 9223372036854775808", out=tmp_path / "out")


def test_a_depth_that_would_compile_for_hours_is_refused(verify, tmp_path):
    result = verify("--depth", "100000")
    assert refused(result, "--depth 100000", "10000", out=tmp_path / "out")


def test_a_run_between_once_and_twice_the_free_memory_is_warned_of(canned, verify, machine):
    plan = MemoryPlan(experiment.parse({"dataset": "gaussian", "approximations": ("exact",)}))
    for share, said in (1.1, False), (0.9, True):
        machine(share * plan.total)
        result = verify("--dataset", "gaussian", small=False)
        assert result.exit_code in (0, 1), result.output
        assert ("it may not fit" in result.stderr) is said
    machine(0.4 * plan.total)
    assert refused(verify("--dataset", "gaussian", small=False), "verify would hold about")
    # A limit of one's own takes the place of the machine's.
    result = verify("--dataset", "gaussian", "--memory-limit", "1T", small=False)
    assert result.exit_code in (0, 1)


def test_free_memory_that_nobody_knows_refuses_nothing(canned, verify, machine):
    machine(None)
    assert verify().exit_code in (0, 1)


@pytest.mark.parametrize(
    "count, words",
    [
        (None, "unknown"),
        (5e6, "5 MB"),
        (2.5e9, "2.5 GB"),
        (3e12, "3.0 TB"),
        (4e15, "4.0 PB"),
        (5e18, "5.0 EB"),
        (6e30, "6e+30 bytes"),
    ],
)
def test_bytes_in_words(count, words):
    assert gigabytes(count) == words


@pytest.mark.parametrize("dataset", ["mnist", "digits", "gaussian", "mine"])
@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_the_size_that_is_counted_is_that_of_the_data(tmp_path, dataset, loss):
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.random.default_rng(0).normal(size=(30, 7)), y=np.arange(30) % 3)
    settings = experiment.parse(
        {"dataset": str(path) if dataset == "mine" else dataset, "loss": loss}
        | {"num_train": 12, "num_test": 3, "input_dim": 5}
    )
    found, size = experiment.load_data(settings), experiment.data_size(settings)
    assert size[:2] == (found.input_dim, found.output_dim)


@pytest.mark.parametrize(
    "kind, loss, classes",
    [
        ("labels", "mse", None),
        ("labels", "mse", ("2", "0")),
        ("labels", "cross-entropy", None),
        ("labels", "cross-entropy", ("2", "0")),
        ("column", "mse", None),
        ("columns", "mse", None),
    ],
)
def test_of_a_file_only_the_targets_are_read(tmp_path, kind, loss, classes):
    path = tmp_path / "mine.npz"
    images, rows = np.random.default_rng(0).normal(size=(2000, 30, 30)), np.arange(2000)
    y = {"labels": rows % 3, "column": rows / 7, "columns": np.stack([rows, rows], 1) / 7}[kind]
    np.savez(path, x=images, y=y)
    settings = experiment.parse({"dataset": str(path), "loss": loss, "classes": classes})
    tracemalloc.start()
    size = experiment.data_size(settings)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < images.nbytes / 20
    found = experiment.load_data(settings)
    assert size[:2] == (found.input_dim, found.output_dim)


def test_the_header_of_a_damaged_file_is_refused_as_the_file_is(tmp_path):
    for kind, words in ("truncated", "save it again"), ("pickle", "pickle"), ("no y", "no array y"):
        path = tmp_path / f"{kind}.npz"
        damaged(kind, path)
        with pytest.raises(InputError, match=words):
            experiment.data_size(experiment.parse({"dataset": str(path)}))


def study(tmp_path, **changes):
    values = {
        "title": "t",
        "statement": "s",
        "approximations": ["exact"],
        "measure": ["isotropy"],
        "num_test": 0,
        "num_train": 8,
        "width": 16,
        "grid": {"seed": [0, 1, 2]},
    } | changes
    data = {"dataset": "gaussian", "num_train": values["num_train"], "num_test": values["num_test"]}
    lines = [f"{k} = {json.dumps(values[k])}" for k in list(values)[:4]]
    tables = {"data": data, "network": {"width": values["width"]}, "grid": values["grid"]}
    for name, table in tables.items():
        kept = {k: v for k, v in table.items() if name == "grid" or k not in values["grid"]}
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in kept.items())]
    path = tmp_path / "study.toml"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize(
    "grid",
    [
        {"seed": list(range(200_000))},
        {"seed": list(range(2000)), "num_test": list(range(1000))},
    ],
    ids=["seeds", "product"],
)
@pytest.mark.parametrize("command", ["run", "list"])
def test_a_study_of_millions_of_cells_is_counted_and_refused(tmp_path, grid, command):
    path = study(tmp_path, grid=grid)
    path = path if command == "run" else str(tmp_path)
    result = CliRunner().invoke(app, [command, path])
    assert result.exit_code == 2
    assert "cells; at most 100,000" in result.output


def test_a_study_file_that_is_longer_than_any_study_is_not_read(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text("# " + "long " * 1_000_000)
    assert refused(CliRunner().invoke(app, ["run", str(path)]), "4,000,000 bytes")


NESTED = [
    "a = " + "[" * 500 + "]" * 500,
    "approximations = " + "[" * 50_000 + "]" * 50_000,
    "a = " + "{a = " * 500 + "1" + "}" * 500,
    "[" + "a." * 5_000 + "a]\nb = 1",
]


@pytest.mark.parametrize("text", NESTED, ids=range(len(NESTED)))
def test_a_study_that_is_nested_too_deep_is_refused(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(f'title = "t"\nstatement = "s"\n{text}\n')
    assert refused(CliRunner().invoke(app, ["run", str(path)]), "nested too deep", "study.toml")


def test_the_largest_cell_of_a_study_must_fit(tmp_path, machine, monkeypatch):
    monkeypatch.setattr(sweeps, "run", lambda *a, **o: pytest.fail("it was run"))
    path = study(tmp_path, grid={"seed": [0, 1], "num_test": [0, 10**9, 5]})
    out = str(tmp_path / "out")
    machine(8 * 10**9)
    assert refused(CliRunner().invoke(app, ["run", path, "--out", out]), "the largest cell")
    machine(10**15)
    given = ["run", path, "--out", out, "--memory-limit", "8G"]
    assert refused(CliRunner().invoke(app, given), "above --memory-limit 8G")


def test_workers_on_this_machine_hold_a_cell_each(tmp_path, machine, monkeypatch):
    monkeypatch.setattr(sweeps, "run", lambda *a, **o: pytest.fail("it was run"))
    path, (plan,) = study(tmp_path), [largest_cell(sweeps.read(study(tmp_path)).cells())]
    machine(plan.total)
    given = ["run", path, "--scheduler", "local:3"]
    assert refused(CliRunner().invoke(app, given), "3 at once")


def test_the_largest_cell_is_that_of_the_largest_sizes(tmp_path):
    cells = sweeps.read(study(tmp_path, grid={"width": [64, 4096, 128]})).cells()
    assert largest_cell(cells).settings.width == 4096
    assert largest_cell(sweeps.read(ROOT / "studies/fisher_structure.toml").cells()) is None
    assert largest_cell(sweeps.read(ROOT / "studies/kfc_isotropy.toml").cells()).total > 0


# --- numbers at the ends of their range ----------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--weight-std", "1e200"], "beyond the range of float64"),
        (["--weight-std", "1e-200"], "zero, or as good as zero"),
        (["--bias-std", "1e200"], "beyond the range of float64"),
        (["--width", "1"], "zero, or as good as zero"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_network_that_is_of_no_use_is_refused_in_a_line(verify, tmp_path, arguments, words):
    result = verify("--num-test", "0", "--steps", "1", *arguments)
    assert refused(result, words, "weight_std", out=tmp_path / "out")


def test_a_run_that_leaves_the_range_of_floats_is_reported(verify, tmp_path):
    result = verify("--step-scale", "1e300", "--num-test", "0")
    assert result.exit_code == 0, result.output
    table = result.stdout.split("claim ")[0]
    assert "nan" not in table and "inf" in table
    assert "the linearised network itself contracts only between 0 and 2" in " ".join(
        result.stdout.split()
    )
    assert set(os.listdir(tmp_path / "out")) == FILES


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "--out", ""],
        ["verify", "--out", "  "],
        ["verify", "--data-dir", ""],
        ["run", ""],
        ["run", "studies/smoke.toml", "--out", ""],
        ["report", ""],
        ["list", ""],
    ],
    ids=" ".join,
)
def test_an_empty_path_is_no_folder(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "it is empty" in result.output
    assert not os.listdir(tmp_path)


def test_a_folder_without_studies_is_named(tmp_path):
    result = CliRunner().invoke(app, ["list", str(tmp_path)])
    assert refused(result, str(tmp_path), "no study")
