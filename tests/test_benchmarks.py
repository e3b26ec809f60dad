"""What the benchmarks name exists; their seconds are no tests."""

import json
from pathlib import Path

import pytest

from ngd_theory import fisher

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def test_every_error_of_code_can_still_be_made():
    from benchmarks.patched import ERRORS

    for what, file, right, wrong, _ in ERRORS:
        text = (ROOT / "ngd_theory" / file).read_text(encoding="utf-8")
        assert text.count(right) == 1, what
        compile(text.replace(right, wrong), file, "exec")


def test_every_step_has_a_limit():
    from benchmarks.limits import operations

    # Layers 784 x 64, 64 x 64 and 64 x 1, ten samples: forward, gradient, and backward but for the first.
    sizes = 784 * 64 + 64 * 64 + 64
    plain = 2 * 10 * (3 * sizes - 784 * 64)
    assert operations("plain GD", 64, 10, 1) == operations("identity", 64, 10, 1) == plain
    for name in fisher.APPROXIMATIONS:
        assert operations(name, 64, 10, 1) >= plain, name


def run(time, commit, ratio):
    rows = [
        {
            "step": step,
            "width": width,
            "seconds": 1.0,
            "ratio": 1.0 if step == "plain GD" else ratio,
        }
        for step in ("plain GD", "exact", "kfac")
        for width in (64, 128)
    ]
    environment = {"time": time, "git_commit": commit, "versions": {"jax": "1"}, "python": "3"}
    environment |= {"device": "cpu", "float": "float32", "platform": "a name of a machine"}
    return {"environment": environment, "steps": {"rows": rows, "reference": "plain GD"}}


def test_the_history_of_speeds(tmp_path):
    from benchmarks import history

    history.record(run("2026-02-01T00:00:00", "b" * 40, 1.5), tmp_path)
    history.record(run("2026-01-01T00:00:00", "a" * 40, 2.5), tmp_path)
    runs = history.read(tmp_path)
    assert [r["git_commit"][0] for r in runs] == ["a", "b"]
    assert "a name of a machine" not in json.dumps(runs) and "cores" in runs[0]["machine"]
    history.draw(runs, tmp_path / "history.png")
    assert (tmp_path / "history.png").stat().st_size > 10_000


def test_the_recorded_history_can_be_read():
    from benchmarks import history

    runs = history.read()
    assert runs
    for entry in runs:
        assert {"time", "git_commit", "machine", "rows", "reference"} <= set(entry)
        assert all(row["ratio"] > 0 for row in entry["rows"])
