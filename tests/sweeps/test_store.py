import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from ngd_theory import sweeps
from ngd_theory.errors import InputError
from ngd_theory.sweeps.lock import locked
from ngd_theory.sweeps.store import DamagedFileError


@pytest.fixture
def finished(make_study, trivial_measure, tmp_path):
    """A study, its finished results folder, and how to run it again."""
    study, folder = make_study(), tmp_path / "results"
    sweeps.run(study, folder, measure=trivial_measure)
    return study, folder, lambda: sweeps.run(study, folder, measure=trivial_measure)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    position = content.index(np.float64(0.25).tobytes())
    content[position] ^= 1
    path.write_bytes(content)


def foreign(path):
    pa.parquet.write_table(pa.table({"a": [1]}), path)


def not_parquet(path):
    path.write_text("hello")


def other_cell(path):
    others = [p for p in path.parent.iterdir() if p != path]
    shutil.copy(others[0], path)


DAMAGES = {
    "truncated": (truncate, "truncated"),
    "empty": (empty, "empty"),
    "a flipped bit": (flip_a_bit, "truncated or no Parquet"),
    "foreign": (foreign, "not written by a sweep"),
    "not Parquet": (not_parquet, "no Parquet file"),
    "another cell's": (other_cell, "another's name"),
}


@pytest.mark.parametrize(("damage", "why"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named_set_aside_and_recomputed(finished, damage, why):
    _, folder, again = finished
    before = sweeps.load(folder)
    path = sorted((folder / "cells").iterdir())[3]
    damage(path)
    with pytest.raises(DamagedFileError, match=re.escape(str(path))):
        sweeps.load(folder)
    summary = again()
    assert (summary.computed, summary.reused) == (1, 8)
    (aside,) = summary.set_aside
    assert aside.path == folder / "set-aside" / path.name and aside.path.exists()
    assert why in aside.why
    pd.testing.assert_frame_equal(sweeps.load(folder), before)


@pytest.mark.parametrize("name", ["notes.txt", "extra.parquet"])
def test_a_file_that_is_no_cell_is_set_aside(finished, name):
    _, folder, again = finished
    for count in range(2):
        foreign(folder / "cells" / name)
        summary = again()
        assert (summary.computed, len(summary.set_aside)) == (0, 1)
        assert len(list((folder / "set-aside").iterdir())) == count + 1


def test_a_cell_of_another_study_is_set_aside(finished, make_study, trivial_measure, tmp_path):
    _, folder, again = finished
    sweeps.run(make_study(steps=3), tmp_path / "other", measure=trivial_measure)
    stranger = next((tmp_path / "other" / "cells").iterdir())
    shutil.copy(stranger, folder / "cells")
    assert "no cell of this study" in again().set_aside[0].why


def test_what_a_killed_run_left_half_written_is_removed(finished):
    _, folder, again = finished
    part = folder / "cells" / ".abc.parquet.123.part"
    part.write_bytes(b"PAR1")
    assert again().set_aside == () and not part.exists()


def test_the_manifest_tells_the_study_and_every_run(finished):
    study, folder, again = finished
    again()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["study"] == study.model_dump(mode="json")
    assert len(manifest["cells"]) == 9
    assert len(manifest["runs"]) == 2
    assert {"time", "versions", "device", "git_commit", "float"} <= set(manifest["runs"][0])
    assert manifest["runs"][0]["versions"]["pyarrow"] == pa.__version__


def test_a_damaged_manifest_is_named(finished):
    _, folder, again = finished
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        again()


def test_a_folder_of_something_else_is_refused_untouched(make_study, trivial_measure, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        sweeps.run(make_study(), tmp_path, measure=trivial_measure)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="no sweep"):
        sweeps.load(tmp_path)


def test_a_second_run_on_the_folder_is_refused(finished):
    _, folder, again = finished
    with (
        locked(folder / "lock"),
        pytest.raises(InputError, match=f"in use by process {os.getpid()}"),
    ):
        again()
    assert again().reused == 9


def test_the_lock_of_a_dead_process_stops_nobody(finished):
    _, folder, again = finished
    code = (
        "import fcntl, os, signal, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        "f.write('process 1 on nowhere'); f.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "lock")], check=False)
    assert "nowhere" in (folder / "lock").read_text()
    assert again().reused == 9


def test_another_process_holds_the_lock_too(finished):
    _, folder, again = finished
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="in use"):
            again()
    assert again().reused == 9


def test_without_pyarrow_the_error_says_what_to_install(finished, monkeypatch):
    *_, again = finished
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        again()
