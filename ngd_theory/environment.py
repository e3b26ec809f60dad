"""Software, device and free memory of a run."""

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

import ngd_theory

_PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "matplotlib", "pandas", "pyarrow", "mlxtend")


def environment() -> dict[str, Any]:
    """Versions, device, float type, git commit and time, JSON-ready."""
    device = jax.devices()[0]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"ngd-theory": ngd_theory.__version__}
        | {name: package_version(name) for name in _PACKAGES},
        "git_commit": git_commit(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": device.device_kind,
        "device_platform": device.platform,
        "num_devices": jax.device_count(),
        "float": str(jax.numpy.zeros(()).dtype),
    }


def available_memory() -> int | None:
    """Free bytes on the first device of this process: memory of a GPU, or the main memory that is left."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    known = [count for count in (_main_memory(), _control_group()) if count is not None]
    return min(known, default=None)


def _main_memory() -> int | None:
    """Free main memory, including caches that the system would give back."""
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
        if found:
            return 1024 * int(found[1])
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _control_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory left in the container, including the file cache that it would give back."""
    try:
        limit, used, statistics = (
            (folder / f"memory.{name}").read_text() for name in ("max", "current", "stat")
        )
        cached = re.search(r"^inactive_file (\d+)$", statistics, re.MULTILINE)
        return int(limit) - int(used) + (int(cached[1]) if cached else 0)
    except (ValueError, OSError):
        return None


def git_commit() -> str | None:
    """Commit of the checkout that holds this package, ``-dirty`` if it was changed; None without a checkout."""
    package = Path(ngd_theory.__file__)
    # An installed package may lie inside some other project's checkout, which does not track it.
    if _git("ls-files", "--error-unmatch", package.name, folder=package.parent) is None:
        return None
    always = ("--always", "--dirty", "--abbrev=40", "--exclude=*")
    return _git("describe", *always, folder=package.parent)


def _git(*arguments: str, folder: Path) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def package_version(name: str) -> str | None:
    """Version of a distribution; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
