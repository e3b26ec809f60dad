"""Keep compiled programs on disk, for the package's own processes: JAX's own cache, in a folder of bounded size."""

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from ngd_theory.environment import package_version
from ngd_theory.files import CACHE_VARIABLE, cache_folder

#: Largest size in bytes of all programs together, for all versions and processors.
LIMIT = 2**29
#: If programs must be removed, their size falls to this share of the limit.
_LEFT = 0.8
#: Lines of /proc/cpuinfo that say what a processor can do.
_TELLING = {"vendor_id", "model name", "flags", "Features", "CPU implementer", "CPU part", "isa"}


def turn_on(*, quiet: bool = False) -> Path | None:
    """Let JAX store the programs that this process compiles from now on, and reuse stored ones.

    The command line, its workers, the notebooks and the tests call this function; importing the package changes
    nothing. Programs are stored in `programs_folder`. Beyond `LIMIT`, this call removes those that were unused for
    longest. Your own settings stay: ``JAX_COMPILATION_CACHE_DIR``, ``JAX_ENABLE_COMPILATION_CACHE=false``.

    Parameters
    ----------
    quiet : bool
        Whether to be silent if nothing can be stored.

    Returns
    -------
    Path or None
        The folder; None if nothing is stored, for example if it cannot be written (one line on stderr says so).
    """
    if not _option("jax_enable_compilation_cache"):
        return None
    if (own := _option("jax_compilation_cache_dir")) is not None:
        return Path(own)
    try:
        folder = programs_folder()
        # Programs in it are run, so nobody else may write there.
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        _remove_oldest(folder.parent, LIMIT)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home folder
        if not quiet:
            print(f"compiled programs are not kept: {error} ({CACHE_VARIABLE})", file=sys.stderr)
        return None
    # If a file is damaged, finds no room or is being written by another process, its program is compiled again.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Most programs compile faster than JAX's threshold of one second, but together take longer than the large ones.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder


def turn_off() -> None:
    """Neither store nor reuse compiled programs, in this process and in those started from it."""
    jax.config.update("jax_enable_compilation_cache", False)
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"


def programs_folder() -> Path:
    """The folder of programs for these versions and this processor, inside the user's cache folder.

    Raises
    ------
    RuntimeError
        For a user without a home folder.
    """
    versions = "-".join(f"{name}-{package_version(name)}" for name in ("jax", "jaxlib"))
    processor = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    name = f"{versions}-{sys.platform}-{platform.machine()}-{processor}"
    return cache_folder() / "programs" / name


def programs_size() -> int:
    """Size in bytes of all stored programs, for other versions and processors too."""
    return sum(size for _, size, _ in _files(programs_folder().parent))


def _option(name: str) -> Any:
    return getattr(jax.config, name)


def _processor() -> str:
    """Model, features and number of processors: a program made for others may fail here, or be slow."""
    # Programs are split among the processors that a process may use.
    usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    found = {f"{len(usable)} usable", platform.processor()}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.partition(":")[0].strip() in _TELLING:
                found.add(line)
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "machdep.cpu", "hw.optional"]
            found.add(subprocess.run(command, capture_output=True, text=True, timeout=10).stdout)
    return "\n".join(sorted(found))


def _remove_oldest(folder: Path, limit: int) -> None:
    """Remove the files unused for longest until ``limit`` holds, and empty files left by processes that died."""
    files = sorted(_files(folder), key=lambda file: file[0])
    total = sum(size for _, size, _ in files)
    allowed = limit if total <= limit else _LEFT * limit
    for _, size, path in files:
        if total <= allowed and size > 0:
            continue
        # Another process may have removed it.
        with suppress(OSError):
            path.unlink()
        total -= size


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each file was last used, its bytes and its path."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            with suppress(OSError):
                found = path.stat()
                # Some systems do not record when a file is read.
                yield max(found.st_atime, found.st_mtime), found.st_size, path
