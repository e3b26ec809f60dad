"""SIGKILL at random moments; the same command afterwards ends as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from ngd_theory import sweeps

SCRIPT = Path(__file__).with_name("trivial_run.py")
NUM_CELLS = 240
STUDY = f"""
title = "tiny"
statement = "nothing much"
approximations = ["exact", "identity"]
measure = ["gap"]
[data]
dataset = "gaussian"
[grid]
width = [16, 32]
seed = {list(range(NUM_CELLS // 2))}
"""


REAL_STUDY = f"""
title = "tiny"
statement = "nothing much"
approximations = ["exact"]
measure = ["gap"]
steps = 2
[network]
depth = 2
[data]
dataset = "gaussian"
num_train = 4
num_test = 0
input_dim = 6
[grid]
width = [8, 12]
seed = {list(range(30))}
"""
ROOT = str(Path(sweeps.__file__).parents[2])


def start(study, folder):
    environment = {**os.environ, "PYTHONPATH": ROOT}
    return subprocess.Popen([sys.executable, str(SCRIPT), study, folder], env=environment)


def finished(folder):
    return {p.name: p.stat().st_mtime_ns for p in (folder / "cells").glob("*.parquet")}


@pytest.mark.slow
def test_killed_five_times_and_resumed_equals_an_undisturbed_run(tmp_path, trivial_measure):
    study, folder = tmp_path / "tiny.toml", tmp_path / "killed"
    study.write_text(STUDY)
    rng = random.Random(os.getpid())
    kept = {}
    for _kill in range(5):
        process = start(study, folder)
        wanted = len(kept) + rng.randint(1, 25)
        while len(finished(folder)) < wanted:
            assert process.poll() is None
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.04))
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        now = finished(folder)
        # What was finished stays as it was, to the time of writing.
        assert kept.items() <= now.items()
        kept = now
    assert 0 < len(kept) < NUM_CELLS

    summary = sweeps.run(study, folder, measure=trivial_measure)
    assert summary.reused == len(kept) and summary.set_aside == ()
    assert kept.items() <= finished(folder).items()
    sweeps.run(study, tmp_path / "undisturbed", measure=trivial_measure)
    pd.testing.assert_frame_equal(
        sweeps.load(folder), sweeps.load(tmp_path / "undisturbed"), check_exact=True
    )


def test_a_real_study_killed_and_resumed_has_the_numbers_of_an_undisturbed_run(tmp_path):
    study, folder = tmp_path / "real.toml", tmp_path / "killed"
    study.write_text(REAL_STUDY)
    code = (
        "import sys, jax; jax.config.update('jax_enable_x64', True);"
        "jax.config.update('jax_disable_most_optimizations', True);"
        "from ngd_theory import sweeps; sweeps.run(sys.argv[1], sys.argv[2])"
    )
    environment = {**os.environ, "PYTHONPATH": ROOT}
    process = subprocess.Popen([sys.executable, "-c", code, study, folder], env=environment)
    while len(finished(folder)) < 2:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait(10)
    resumed = sweeps.run(study, folder)
    assert resumed.reused >= 2 and resumed.computed >= 1
    assert resumed.computed + resumed.reused == resumed.total
    sweeps.run(study, tmp_path / "undisturbed")
    pd.testing.assert_frame_equal(
        sweeps.load(folder), sweeps.load(tmp_path / "undisturbed"), rtol=1e-10, atol=1e-13
    )
