"""What a run will hold, told before it runs."""

import re
import sys
from typing import Any

from rich.table import Table

from ngd_theory.environment import available_memory
from ngd_theory.errors import InputError

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
#: Copies of the parameters that `verify` has at most: at the start, trained, new, their gradient, two displacements.
_COPIES = 6
#: Bytes of Python and JAX, and of the compiled programs of a layer.
_PROGRAM, _LAYER = 400_000_000, 2_000_000
#: The model is right within this factor (`ngd_theory.theory.step_memory`): a run that it puts above so many times
#: the free memory cannot fit.
MARGIN = 2.0
_FITS = ("it fits", "it may not fit", "it cannot fit, and is refused without --memory-limit")
_MEND = "lower --width, --num-train or --steps, or use --precision float32 (--explain shows what takes it)"
_MEND_STUDY = 'make its network or its number of samples smaller, or use precision = "float32"'
_LARGE = ((1e18, "EB"), (1e15, "PB"), (1e12, "TB"), (1e9, "GB"))


def gigabytes(count: float | None) -> str:
    """Bytes in words."""
    if count is None:
        return "unknown"
    if count >= 1e21:
        return f"{count:.0e} bytes"
    size, unit = next((pair for pair in _LARGE if count >= pair[0]), (1e6, "MB"))
    return f"{count / size:.{0 if unit == 'MB' else 1}f} {unit}"


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
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise InputError(f"--memory-limit {text}: write it as 2G, 512MiB or a number of bytes")
    return count


def _room(total: float, free: float | None) -> int:
    """0: it fits, or nobody knows; 1: it may not; 2: it cannot, even if the model is `MARGIN` times too large."""
    return 0 if free is None else (total > free) + (total > MARGIN * free)


class MemoryPlan:
    """What a run of ``verify`` or a cell of a theory study will hold, by the model of `ngd_theory.theory.step_memory`.

    It is counted: nothing is made for it.

    Parameters
    ----------
    settings : ngd_theory.experiment.Settings
    size : ngd_theory.experiment.DataSize, optional
        That of the settings' data, where it is known.
    what, mend : str
        What will run, and what to do where that is too much.
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
        """Check that the run fits; warn on standard error where it may not.

        Parameters
        ----------
        limit : str or None
            Written as in `parse_bytes`; None: the memory that this machine has free, times `MARGIN`.
        times : int
            How many such runs there are at once.

        Raises
        ------
        InputError
            If the run would hold more.
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
        # K of every approximation is kept; while one is measured its map to the test set, the kernel and an eigenbasis.
        maps = (len(self.steps) + 3) * train**2 + train * test
        if s.kernel == "infinite":
            maps += 4 * self.network.depth * (s.num_train + s.num_test) ** 2
        # Outputs of every step: predicted and measured, on both sets, and once more while they are made.
        maps += 4 * (s.steps + 1) * (train + test)
        share = 1 + s.num_test / s.num_train
        largest = max(m.linearisation * share + m.solve for m in self.steps.values())
        copies = _COPIES * self.network.num_parameters
        program = _PROGRAM + _LAYER * self.network.depth
        return int(program + largest + self.itemsize * (copies + maps))

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
        return table

    def show(self, console) -> None:
        """Print `table`, the whole, and whether this machine has room for it."""
        console.print(self.table())
        free = available_memory()
        fits = "" if free is None else f": {_FITS[_room(self.total, free)]}"
        console.print(
            f"{self.what} as a whole: about {gigabytes(self.total)}; "
            f"{gigabytes(free)} free on this machine{fits}",
            soft_wrap=True,
        )


def largest_cell(cells) -> MemoryPlan | None:
    """Plan of the cell that holds most; None for a kind of study whose sizes the problem itself fixes.

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

    # One cell a shape: a study may have many seeds.
    settings = {cell.shape: cell.settings for cell in cells}.values()
    return max(map(plan, settings), key=lambda plan: plan.total)


def _itemsize(settings) -> int:
    return 8 if settings.precision == "float64" else 4
