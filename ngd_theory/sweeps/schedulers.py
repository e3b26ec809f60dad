"""Where the cells of a run are measured: in this process, or by the workers of a Dask cluster."""

import re
from contextlib import AbstractContextManager, nullcontext

from ngd_theory.errors import InputError
from ngd_theory.sweeps import cluster
from ngd_theory.sweeps.executors import Executor, in_process

_LOCAL = re.compile(r"local:([1-9]\d{0,2})")
_TCP = re.compile(r"tcp://([^\s:/]+|\[[\da-fA-F:.]+\]):(\d{1,5})")


def executor(scheduler: str | None) -> AbstractContextManager[Executor]:
    """The executor of a ``--scheduler`` value. Its workers exist until the block ends.

    Parameters
    ----------
    scheduler : str or None
        ``local:N``, ``tcp://HOST:PORT`` of a running Dask scheduler, or None for this process.

    Raises
    ------
    InputError
        For any other value, and on entry for a cluster that cannot be reached.
    MissingDependencyError
        Without the package `distributed`.
    """
    if scheduler is None:
        return nullcontext(in_process)
    local, tcp = _LOCAL.fullmatch(scheduler), _TCP.fullmatch(scheduler)
    if local or (tcp and 0 < int(tcp[2]) < 2**16):
        return cluster.local(int(local[1])) if local else cluster.existing(scheduler)
    raise InputError(
        f"unknown scheduler {scheduler!r}: give local:N (N worker processes here, 1 to 999), or "
        "tcp://HOST:PORT (a running Dask scheduler)"
    )


def workers_here(scheduler: str | None) -> int:
    """Cells that are measured on this machine at once; 0 where a cluster that runs already measures them."""
    if scheduler is None:
        return 1
    local = _LOCAL.fullmatch(scheduler)
    return int(local[1]) if local else 0
