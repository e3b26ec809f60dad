"""Files that are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ngd_theory.errors import InputError


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` and rename it to ``path`` when the block succeeds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_output_folder(path: Path) -> None:
    """Check, without making it, that the folder ``path`` can be made and written.

    Raises
    ------
    InputError
        If it or its nearest existing parent is a file or not writable.
    """
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise InputError(f"cannot write results to {path}: {there} is a file; choose another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"cannot write results to {path}: no permission to write in {there}")
