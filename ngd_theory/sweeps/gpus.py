"""One GPU for each worker process, by environment variables that are set before JAX starts there."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_VISIBLE, _PREALLOCATE = "CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_PREALLOCATE"


def visible_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` knows them.

    JAX is not used: it would start and take the memory that the workers need.
    """
    if _VISIBLE in environ:
        listed = [name.strip() for name in environ[_VISIBLE].split(",")]
        # CUDA ignores everything from the first invalid name on.
        end = next((i for i, name in enumerate(listed) if name in ("", "-1")), len(listed))
        return listed[:end]
    try:
        command = ["nvidia-smi", "-L"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"^GPU (\d+):", done.stdout, re.MULTILINE)


def worker_environments(num_workers: int, gpus: list[str]) -> list[dict[str, str]]:
    """Variables to add to each worker's environment: one GPU in turn, or nothing without GPUs."""
    if not gpus:
        return [{}] * num_workers
    return [{_VISIBLE: gpus[i % len(gpus)]} for i in range(num_workers)]


@contextmanager
def memory_on_demand(gpus: list[str]) -> Iterator[None]:
    """Prevent JAX from taking most of every GPU at once if it starts in the block, here or in a child process.

    A setting of the user is not changed.
    """
    if not gpus or _PREALLOCATE in os.environ:
        yield
        return
    os.environ[_PREALLOCATE] = "false"
    try:
        yield
    finally:
        del os.environ[_PREALLOCATE]
