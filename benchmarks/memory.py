"""Peak memory of a whole ``verify`` run, in a process of its own."""

import resource
import subprocess
import sys
import tempfile
import time

#: Target of a float64 run at width 4096, in GB.
TARGET = 2.5


def run(width: int = 4096) -> dict:
    """Run ``ngd-theory verify --width WIDTH`` in float64; return its peak resident memory and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ngd_theory.cli", "verify"]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--width", str(width), "--out", folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        seconds = time.perf_counter() - start
    if done.returncode == 2:
        raise RuntimeError(done.stderr)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return {
        "width": width,
        "exit_status": done.returncode,
        "seconds": seconds,
        "peak_gb": peak * kilobyte / 1e9,
        "target_gb": TARGET,
    }
