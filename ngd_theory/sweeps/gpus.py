"""One GPU a worker process, told by environment variables before JAX starts there."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_VISIBLE, _PREALLOCATE = "CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_PREALLOCATE"


def visible_gpus(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` knows them.

    JAX is not asked: it would start, and take the memory that the workers need.
    """
    if _VISIBLE in environ:
        listed = [name.strip() for name in environ[_VISIBLE].split(",")]
        # CUDA ignores what follows the first name that is none.
        end = next((i for i, name in enumerate(listed) if name in ("", "-1")), len(listed))
        return listed[:end]
    try:
        command = ["nvidia-smi", "-L"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"^GPU (\d+):", done.stdout, re.MULTILINE)


def worker_environments(num_workers: int, gpus: list[str]) -> list[dict[str, str]]:
    """What to add to each worker's environment: its GPU, in turn; nothing without GPUs."""
    if not gpus:
        return [{}] * num_workers
    return [{_VISIBLE: gpus[i % len(gpus)]} for i in range(num_workers)]


@contextmanager
def memory_on_demand(gpus: list[str]) -> Iterator[None]:
    """Let JAX, if it starts in the block, here or in a child, not take most of every GPU at once.

    The user's own setting stands.
    """
    if not gpus or _PREALLOCATE in os.environ:
        yield
        return
    os.environ[_PREALLOCATE] = "false"
    try:
        yield
    finally:
        del os.environ[_PREALLOCATE]
