"""Arguments of another type, as users meet them: without the checks of shapes and types that these tests install."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_errors_say_what_an_argument_is_and_what_it_must_be():
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"),
        str(HERE / "helpers" / "unchecked_arguments.py"),
    ]
    done = subprocess.run(
        command, env=environment, cwd=HERE.parent, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
