"""A lock that allows one run at a time on a results folder."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ngd_theory.errors import InputError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``.

    The kernel holds the lock for the process (``flock``) and releases it when the process ends in any way, so a lock
    file that is left behind stops nobody. The file names the holder for the message.

    Raises
    ------
    InputError
        If another process holds it, or the system has no ``flock``.
    """
    try:
        import fcntl
    except ImportError:
        raise InputError("sweeps lock their folder with flock, which this system lacks") from None
    # Not "w": that would wipe the holder's name before the lock is ours.
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise InputError(
                f"{path.parent} is in use by {holder}: wait for that run, or choose another --out"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
