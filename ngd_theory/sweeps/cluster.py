"""Measure cells with the workers of a Dask cluster, which this process starts or which is already running.

Workers only measure. Rows come back to this process, which alone knows the results folder. So the stored files, and how
a run resumes, do not depend on who measured.
"""

import asyncio
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from importlib import import_module
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

import jax

import ngd_theory
from ngd_theory import compilation_cache, extensions
from ngd_theory.errors import InputError, MissingDependencyError, NGDTheoryError
from ngd_theory.fisher import APPROXIMATIONS
from ngd_theory.sweeps.cells import Cell
from ngd_theory.sweeps.executors import Executor, Failure, Measure, Measured, attempt
from ngd_theory.sweeps.gpus import memory_on_demand, visible_gpus, worker_environments
from ngd_theory.threads import limit_blas_threads

#: A cell counts as failed when so many workers died while they measured it.
LIVES = 3
#: Seconds: to reach a scheduler; to its first worker before a warning; between two checks which workers are alive; to
#: fetch rows; to wait for a worker, whether the first one (it may be in a queue) or one that comes back.
_CONNECT, _FIRST, _LOOK, _FETCH, _ALONE = 10, 5, 1.0, 10, 300
#: Ctrl-C reaches the whole process group, but only this process should end its workers.
_IGNORE_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
_LOST = "the connection to the Dask scheduler was lost: run again to go on"
_LOG = logging.getLogger(__name__)


class ClusterError(NGDTheoryError):
    """The cluster cannot be started, or was lost during the run."""


def distributed() -> Any:
    """Import `distributed` at first use.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        return import_module("distributed")
    except ImportError as error:
        raise MissingDependencyError(
            f"--scheduler needs Dask distributed, which cannot be imported ({error}): "
            "pip install 'ngd-theory[cluster]'"
        ) from error


@contextmanager
def local(num_workers: int) -> Iterator[Executor]:
    """Start worker processes on this machine. If there are GPUs, each worker gets one in turn."""
    dask, gpus = distributed(), visible_gpus()
    quiet, home = logging.CRITICAL, {"host": "127.0.0.1", "dashboard": False}
    with ExitStack() as stack:
        stack.enter_context(memory_on_demand(gpus))
        folder = stack.enter_context(TemporaryDirectory(prefix="ngd-theory-"))
        # One thread: JAX has its own. No memory limit: Dask's would stop a worker at its share.
        common = {"nthreads": 1, "memory_limit": None, "local_directory": folder, **home}
        common |= {"preload": [_IGNORE_INTERRUPTS], "silence_logs": quiet}
        workers = {
            i: {"cls": dask.Nanny, "options": {**common, "env": env}}
            for i, env in enumerate(worker_environments(num_workers, gpus))
        }
        # The HTTP server stays even without a dashboard. A free port avoids a warning in a second run.
        scheduler = {"cls": dask.Scheduler, "options": {**home, "dashboard_address": "127.0.0.1:0"}}
        try:
            cluster = dask.SpecCluster(workers, scheduler, silence_logs=quiet)
        except (OSError, RuntimeError) as error:
            raise ClusterError(f"cannot start {num_workers} worker processes: {error}") from error
        stack.enter_context(cluster)
        client = stack.enter_context(dask.Client(cluster, set_as_default=False))
        yield partial(_outcomes, client)


@contextmanager
def existing(address: str) -> Iterator[Executor]:
    """Connect to a running Dask scheduler, whose workers must have this version of the package."""
    dask = distributed()
    with ExitStack() as stack:
        try:
            # In a new thread: that of a notebook already has an event loop.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(asyncio.run, _greet(address)).result()
            client = dask.Client(address, timeout=_CONNECT, set_as_default=False)
            stack.enter_context(client)
        except OSError:  # TimeoutError is one
            raise InputError(
                f"no Dask scheduler answers at {address} within {_CONNECT} s"
            ) from None
        _await_worker(client, address)
        _check_versions(client)
        yield partial(_outcomes, client)


def _await_worker(client: Any, address: str) -> None:
    """Wait for the first worker, with a warning if it takes long; raise `InputError` if none comes."""
    try:
        client.wait_for_workers(1, timeout=_FIRST)
    except TimeoutError:
        _LOG.warning("%s has no worker yet: waiting %s s for one", address, _ALONE)
        try:
            client.wait_for_workers(1, timeout=_ALONE)
        except TimeoutError:
            raise InputError(
                f"no worker has joined the Dask scheduler at {address} within {_ALONE} s: start one with "
                f"`dask worker {address}`"
            ) from None


async def _greet(address: str) -> None:
    """Fail if the listener never answers or is not Dask. `Client` does not fail then."""
    async with distributed().rpc(address) as scheduler:
        await asyncio.wait_for(scheduler.identity(), _CONNECT)


def _check_versions(client: Any) -> None:
    """Refuse workers with another version of the package, whose numbers could differ."""
    for worker, version in client.run(_version, on_error="return").items():
        gone = isinstance(version, OSError)
        if version != ngd_theory.__version__ and not gone:
            raise InputError(
                f"worker {worker} has ngd-theory {version}, this process {ngd_theory.__version__}: "
                "install the same version there"
            )


def _version() -> str:
    return ngd_theory.__version__


class Deal:
    """Chooses the next cell of a worker: one of the shape that the worker has compiled, while there are any.

    Otherwise it chooses the shape with the most cells left for each worker on it. So workers share a shape only if
    there are fewer shapes than workers.

    Parameters
    ----------
    cells : iterable of Cell
    """

    def __init__(self, cells: Iterable[Cell]):
        self._groups: dict[str, deque[Cell]] = {}
        self._shapes: dict[str, str] = {}
        for cell in cells:
            self.put_back(cell)

    def __bool__(self) -> bool:
        return bool(self._groups)

    def put_back(self, cell: Cell) -> None:
        """Let a cell be taken again, after the others of its shape."""
        self._groups.setdefault(cell.shape, deque()).append(cell)

    def take(self, worker: str) -> Cell:
        """Return the next cell of a worker."""
        shape = self._shapes.get(worker)
        if shape not in self._groups:
            workers = Counter(self._shapes.values())
            shape = max(self._groups, key=lambda s: len(self._groups[s]) / (1 + workers[s]))
            self._shapes[worker] = shape
        cell = self._groups[shape].popleft()
        if not self._groups[shape]:
            del self._groups[shape]
        return cell


def _outcomes(
    client: Any, measure: Measure, cells: Iterable[Cell]
) -> Iterator[tuple[Cell, Measured]]:
    """Yield cells with their outcomes as they are done. As many are in flight as the workers have threads.

    A cell is bound to its worker, and no cell waits there. So Dask moves no cell to a worker that has not compiled its
    shape. And if a worker dies, only the cells that it was measuring can be the cause.
    """
    waiting, deaths = Deal(cells), Counter()
    modules = (*extensions.named(), *APPROXIMATIONS.outside_modules())
    flying: dict[str, tuple[Any, Cell, str]] = {}
    landed: SimpleQueue[Any] = SimpleQueue()
    outcomes: list[tuple[Cell, Measured]] = []
    seen = time.monotonic()
    while waiting or flying:
        threads = _threads(client)
        if threads:
            seen = time.monotonic()
        elif time.monotonic() - seen > _ALONE:
            raise ClusterError(f"the cluster has had no worker for {_ALONE} s: run again to go on")
        load = Counter(worker for _, _, worker in flying.values())
        for worker, number in threads.items():
            while waiting and load[worker] < number:
                cell = waiting.take(worker)
                task = _on_worker, measure, cell, modules, os.getcwd()
                future = client.submit(*task, workers=[worker], pure=False)
                flying[future.key] = future, cell, worker
                load[worker] += 1
                future.add_done_callback(landed.put)
        # Yield only now, so that workers go on while the caller writes.
        yield from outcomes
        outcomes = []
        # Without this, a cell whose worker is gone would be in flight for ever.
        keys = [key for key, (_, _, worker) in flying.items() if worker not in threads]
        with suppress(Empty):
            keys.append(landed.get(timeout=0 if keys else _LOOK).key)
        for key in keys:
            if key not in flying:
                continue
            future, cell, _ = flying.pop(key)
            outcome = _fetch(future)
            if outcome is None:
                deaths[cell.id] += 1
                if deaths[cell.id] < LIVES:
                    waiting.put_back(cell)
                    continue
                text = f"WorkerDiedError: {LIVES} workers died while they measured it"
                outcome = Failure(text, text + "\n")
            outcomes.append((cell, outcome))
    yield from outcomes


def _threads(client: Any) -> dict[str, int]:
    """Workers that live, each with its number of threads."""
    try:
        return client.nthreads()
    except OSError as error:
        raise ClusterError(f"{_LOST} ({error})") from error


def _fetch(future: Any) -> Measured | None:
    """The outcome from a worker; None if it died before."""
    if future.status == "pending":
        future.cancel()
        return None
    try:
        return future.result(timeout=_FETCH)
    except TimeoutError:
        return None
    except CancelledError as error:
        raise ClusterError(_LOST) from error
    except Exception as error:  # from Dask: attempt() catches all others
        return Failure.of(error)


def _on_worker(measure: Measure, cell: Cell, modules: Sequence[str], folder: str) -> Measured:
    _prepare_once()
    # Cells only name what a user's modules add.
    extensions.load(modules, folder)
    jax.config.update("jax_enable_x64", cell.settings.precision == "float64")
    return attempt(measure, cell)


@cache
def _prepare_once() -> None:
    limit_blas_threads()
    # If nothing is kept, the process that started the workers has already said why.
    compilation_cache.turn_on(quiet=True)
