"""What a run will hold, told before it runs."""

import os
import re
from pathlib import Path

from rich.table import Table

from ngd_theory.errors import InputError

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
#: Copies of the parameters that `verify` has at most: at the start, trained, new, their gradient, two displacements.
_COPIES = 6
#: Bytes of Python, JAX and compiled programs.
_PROGRAM = 400_000_000


def gigabytes(count: float | None) -> str:
    """Bytes in words."""
    if count is None:
        return "unknown"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def parse_bytes(text: str) -> int:
    """``2G`` or ``2 GB`` (powers of 1000), ``512MiB`` (of 1024), or a plain number of bytes.

    Raises
    ------
    InputError
        For anything else.
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?)(I?)B?\s*", text.upper())
    try:
        count = (
            int(float(found[1]) * (1024 if found[3] else 1000) ** _UNITS[found[2]]) if found else 0
        )
    except ValueError:
        count = 0
    if count < 1:
        raise InputError(f"--memory-limit {text}: write it as 2G, 512MiB or a number of bytes")
    return count


def available_memory() -> int | None:
    """Bytes that the default device has free: a GPU's, or the main memory that this process may still take."""
    import jax

    statistics = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    known = [count for count in (_main_memory(), _control_group()) if count is not None]
    return min(known, default=None)


def _main_memory() -> int | None:
    """With what the system's caches would give back."""
    try:
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
        if found:
            return 1024 * int(found[1])
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _control_group() -> int | None:
    """What a container leaves."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / f"memory.{name}").read_text() for name in ("max", "current"))
        return int(limit) - int(used)
    except (ValueError, OSError):
        return None


class MemoryPlan:
    """What a run of ``verify`` will hold, by the model; reads the data, for their sizes.

    Parameters
    ----------
    settings : ngd_theory.claims.Settings
    """

    def __init__(self, settings):
        from ngd_theory import claims
        from ngd_theory.theory import step_memory

        self.settings, self.itemsize = settings, 8 if settings.precision == "float64" else 4
        self.network = claims.make_network(settings, claims.load_data(settings))
        self.steps = {
            name: step_memory(
                claims.make_approximation(name, settings.loss),
                self.network,
                settings.num_train,
                self.itemsize,
            )
            for name in settings.chosen_approximations
        }

    @property
    def total(self) -> int:
        """Bytes at the peak of the whole run."""
        s, c = self.settings, self.network.output_dim
        train, test = c * s.num_train, c * s.num_test
        # K of every approximation is kept; while one is measured its map to the test set, the kernel and an eigenbasis.
        maps = (len(self.steps) + 3) * train**2 + train * test
        if s.kernel == "infinite":
            maps += 4 * self.network.depth * (s.num_train + s.num_test) ** 2
        share = 1 + s.num_test / s.num_train
        largest = max(m.linearisation * share + m.solve for m in self.steps.values())
        copies = _COPIES * self.network.num_parameters
        return int(_PROGRAM + largest + self.itemsize * (copies + maps))

    def table(self) -> Table:
        """A step of each approximation, and the whole run."""
        s = self.settings
        table = Table(
            title=f"memory of a step: M = {s.width}, L = {s.depth}, N = {s.num_train}, "
            f"{self.network.num_parameters:,} parameters, {s.precision}"
        )
        table.add_column("approximation")
        for name in ("parameters", "linearisation", "solve", "total"):
            table.add_column(name, justify="right")
        for name, m in self.steps.items():
            table.add_row(name, *map(gigabytes, (m.parameters, m.linearisation, m.solve, m.total)))
        table.caption = f"verify as a whole: about {gigabytes(self.total)}"
        return table

    def require(self, limit: str) -> None:
        """Raise `InputError` if the run would hold more than the limit, written as in `parse_bytes`."""
        if self.total > parse_bytes(limit):
            raise InputError(
                f"verify would hold about {gigabytes(self.total)}, above --memory-limit {limit}; lower --width or "
                "--num-train, or use --precision float32 (--explain shows what takes it)"
            )
