"""Memory that a run will need, computed before it starts."""

import re
import sys
from typing import Any

from rich.table import Table

from ngd_theory.environment import available_memory
from ngd_theory.errors import InputError

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
#: Most copies of the parameters that `verify` holds: initial, trained, new, gradient and two displacements.
_COPIES = 6
#: Bytes that Python and JAX take, and bytes of the compiled programs of one layer.
_PROGRAM, _LAYER = 400_000_000, 2_000_000
#: The estimate is right within this factor (`ngd_theory.theory.step_memory`). A run cannot fit if its estimate is
#: above the free memory times this factor.
MARGIN = 2.0
_FITS = ("it fits", "it may not fit", "it cannot fit, and is refused without --memory-limit")
_MEND = "lower --width, --num-train or --steps, or use --precision float32 (--explain shows what takes it)"
_MEND_STUDY = 'make its network or its number of samples smaller, or use precision = "float32"'
_LARGE = ((1e18, "EB"), (1e15, "PB"), (1e12, "TB"), (1e9, "GB"))


def gigabytes(count: float | None) -> str:
    """Format a number of bytes, such as ``1.5 GB``."""
    if count is None:
        return "unknown"
    if count >= 1e21:
        return f"{count:.0e} bytes"
    size, unit = next((pair for pair in _LARGE if count >= pair[0]), (1e6, "MB"))
    return f"{count / size:.{0 if unit == 'MB' else 1}f} {unit}"


def parse_bytes(text: str) -> int:
    """Read ``2G`` or ``2 GB`` (powers of 1000), ``512MiB`` (powers of 1024) or a plain number of bytes.

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
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise InputError(f"--memory-limit {text}: write it as 2G, 512MiB or a number of bytes")
    return count


def _room(total: float, free: float | None) -> int:
    """0: it fits, or the free memory is unknown. 1: it may not fit. 2: it is above `MARGIN` times the free memory."""
    return 0 if free is None else (total > free) + (total > MARGIN * free)


class MemoryPlan:
    """Memory that a run of ``verify`` or a cell of a theory study will need.

    It is computed from sizes with `ngd_theory.theory.step_memory`; no parameters are made.

    Parameters
    ----------
    settings : ngd_theory.experiment.Settings
    size : ngd_theory.experiment.DataSize, optional
        Size of the settings' data, if it is known already.
    what, mend : str
        For the messages: what will run, and what to do if it needs too much memory.
    """

    def __init__(self, settings, size=None, what: str = "verify", mend: str = _MEND):
        from ngd_theory import experiment
        from ngd_theory.theory import step_memory

        self.settings, self.itemsize = settings, _itemsize(settings)
        self.what, self.mend = what, mend
        self.network = experiment.make_network(settings, size or experiment.data_size(settings))
        self.steps = {
            name: step_memory(
                experiment.make_approximation(name, settings.loss, settings.sharing),
                self.network,
                settings.num_train,
                self.itemsize,
            )
            for name in settings.chosen_approximations
        }

    def require(self, limit: str | None, times: int = 1) -> None:
        """Check that the run fits; warn on standard error if it may not.

        Parameters
        ----------
        limit : str or None
            Largest memory, as `parse_bytes` reads it. None: `MARGIN` times the free memory of this machine.
        times : int
            How many such runs there are at once.

        Raises
        ------
        InputError
            If the run needs more.
        """
        total = times * self.total
        need = f"{self.what}{f', {times} at once,' if times > 1 else ''} would hold about {gigabytes(total)}"
        if limit is not None:
            if total > parse_bytes(limit):
                raise InputError(f"{need}, above --memory-limit {limit}; {self.mend}")
            return
        free = available_memory()
        room = _room(total, free)
        if room == 2:
            raise InputError(
                f"{need}, and this machine has {gigabytes(free)} free; {self.mend}. To run it all the same, give a "
                "larger --memory-limit"
            )
        if room == 1:
            print(
                f"ngd-theory: {need}, and {gigabytes(free)} are free: it may not fit",
                file=sys.stderr,
            )

    @property
    def total(self) -> int:
        """Bytes at the peak of the whole run."""
        s, c = self.settings, self.network.output_dim
        train, test = c * s.num_train, c * s.num_test
        # K of every approximation is kept. A measurement also holds Q, the kernel and an eigenbasis.
        maps = (len(self.steps) + 3) * train**2 + train * test
        if s.kernel == "infinite":
            maps += 4 * self.network.depth * (s.num_train + s.num_test) ** 2
        # Outputs of every step on both sets, predicted and measured, each with a temporary copy.
        maps += 4 * (s.steps + 1) * (train + test)
        share = 1 + s.num_test / s.num_train
        largest = max(m.linearisation * share + m.solve for m in self.steps.values())
        copies = _COPIES * self.network.num_parameters
        program = _PROGRAM + _LAYER * self.network.depth
        return int(program + largest + self.itemsize * (copies + maps))

    def table(self) -> Table:
        """Table of the memory that one step of each approximation needs."""
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
        return table

    def show(self, console) -> None:
        """Print `table`, the memory of the whole run and whether it fits on this machine."""
        console.print(self.table())
        free = available_memory()
        fits = "" if free is None else f": {_FITS[_room(self.total, free)]}"
        console.print(
            f"{self.what} as a whole: about {gigabytes(self.total)}; "
            f"{gigabytes(free)} free on this machine{fits}",
            soft_wrap=True,
        )


def largest_cell(cells) -> MemoryPlan | None:
    """Plan of the cell that needs most memory; None without cells and for studies that are not of the theory.

    Parameters
    ----------
    cells : sequence of cells of one study
    """
    from ngd_theory import experiment

    if not cells or cells[0].kind != "theory":
        return None
    sizes: dict[Any, experiment.DataSize] = {}

    def plan(s) -> MemoryPlan:
        key = (s.dataset, s.chosen_classes, s.chosen_dims, s.loss, s.data_dir, s.architecture)
        if key not in sizes:
            sizes[key] = experiment.data_size(s)
        return MemoryPlan(s, sizes[key], "the largest cell", _MEND_STUDY)

    # One cell for each shape, as a study may have many seeds.
    settings = {cell.shape: cell.settings for cell in cells}.values()
    return max(map(plan, settings), key=lambda plan: plan.total)


def _itemsize(settings) -> int:
    return 8 if settings.precision == "float64" else 4
