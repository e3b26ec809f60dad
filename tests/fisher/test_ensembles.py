"""vmap over seeds and over dampings ends, and gives what single calls give."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ngd_theory import fisher

PROGRAM = Path(__file__).parents[1] / "helpers" / "ensembles.py"
#: Batched factorisations once blocked each other for ever; this is many times what all take.
SECONDS = 300
#: Of these nothing is factorised, or what another of them factorises too.
LIKE_OTHERS = (
    "identity",
    "block-diagonal",
    "entry-wise",
    "kfac-input",
    "kfac-output",
    "quasi-diagonal",
)
NAMES = tuple(name for name in fisher.APPROXIMATIONS if name not in LIKE_OTHERS)
HALVES = NAMES[::2], NAMES[1::2]


@pytest.mark.slow
@pytest.mark.parametrize("names", HALVES, ids=", ".join)
def test_ensembles_of_a_hundred_networks(names):
    # A process of its own, with the options of a user's: a hang becomes a failure.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    found = subprocess.run(
        [sys.executable, str(PROGRAM), *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.split() == list(names)
