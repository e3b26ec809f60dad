"""Writing of files, whole or not at all even in a power cut, and the folder of the cache."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ngd_theory.errors import InputError

#: Suffix of the temporary files of `written`.
PART = ".part"
CACHE_VARIABLE = "NGD_THEORY_CACHE"


def cache_folder() -> Path:
    """Folder of the cache, which keeps drawn images and compiled programs.

    It is ``NGD_THEORY_CACHE``, or else a folder in the user's cache.

    Raises
    ------
    RuntimeError
        If the user has no home folder.
    """
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ngd_theory"


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; when the block succeeds, flush it to disk and rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, whole or not at all."""
    with written(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def set_aside(path: Path, folder: Path) -> Path:
    """Move ``path`` into ``folder`` under a name that is free there; return the new path."""
    folder.mkdir(exist_ok=True)
    target, count = folder / path.name, 1
    while target.exists():
        target, count = folder / f"{path.name}.{count}", count + 1
    os.replace(path, target)
    return target


def check_output_folder(path: Path) -> None:
    """Check that the folder ``path`` can be made and written; leaves nothing behind.

    Raises
    ------
    InputError
        If it or its nearest existing parent is a file or not writable, or the system refuses it.
    """
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise InputError(f"cannot write results to {path}: {there} is a file; choose another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"cannot write results to {path}: no permission to write in {there}")
    whole = path.resolve()
    missing = [p for p in (whole, *whole.parents) if not p.exists()]
    try:
        whole.mkdir(parents=True, exist_ok=True)
    # ValueError: a NUL in the name.
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write results to {path}: {why}; choose another --out") from error
    finally:
        # Another process may use the same parents by now: a folder that is not empty stays.
        with suppress(OSError):
            for made in missing:
                made.rmdir()
