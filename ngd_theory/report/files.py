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


def output_folder(path: Path) -> Path:
    """Make ``path`` a writable folder.

    Raises
    ------
    InputError
        If it is a file or cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with written(path / ".writable") as probe:
            probe.touch()
        (path / ".writable").unlink()
    except OSError as error:
        raise InputError(
            f"cannot write results to {path}: {error.strerror or error}; choose another --out"
        ) from None
    return path
