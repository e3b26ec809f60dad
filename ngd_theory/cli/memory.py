"""What a run will hold, told before it runs."""

import os
import re

from rich.table import Table

from ngd_theory.errors import InputError

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
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
    """``2G``, ``512MiB``, ``1.5 GB`` or a plain number of bytes; units are powers of 1024.

    Raises
    ------
    InputError
        For anything else.
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?)(?:I?B)?\s*", text.upper())
    try:
        count = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    except ValueError:
        count = 0
    if count < 1:
        raise InputError(f"--memory-limit {text}: write it as 2G, 512M or a number of bytes")
    return count


def available_memory() -> int | None:
    """Bytes that the default device has free: a GPU's limit, or the main memory available to this process."""
    import jax

    statistics = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def memory_table(settings) -> Table:
    """A step of each approximation that ``settings`` chooses, and all of ``verify``."""
    net, steps = _steps(settings)
    table = Table(
        title=f"memory of a step: M = {settings.width}, L = {settings.depth}, N = {settings.num_train}, "
        f"{net.num_parameters:,} parameters, {settings.precision}"
    )
    table.add_column("approximation")
    for name in ("parameters", "linearisation", "solve", "total"):
        table.add_column(name, justify="right")
    for name, memory in steps.items():
        parts = (memory.parameters, memory.linearisation, memory.solve, memory.total)
        table.add_row(name, *map(gigabytes, parts))
    table.caption = f"verify as a whole: about {gigabytes(verify_memory(settings))}"
    return table


def verify_memory(settings) -> int:
    """Bytes that `ngd_theory.claims.verify` holds at its peak, by the model."""
    net, steps = _steps(settings)
    size = _itemsize(settings)
    outputs = net.output_dim * (settings.num_train + settings.num_test)
    # Maps to the training and to the test set, the kernel, an eigenbasis.
    maps = 4 * size * outputs * net.output_dim * settings.num_train
    share = 1 + settings.num_test / settings.num_train
    largest = max(
        memory.linearisation * share + (memory.solve if name != "entry-wise" else 0)
        for name, memory in steps.items()
    )
    return int(_PROGRAM + _COPIES * size * net.num_parameters + largest + maps)


def check_memory_limit(settings, text: str) -> None:
    """Raise `InputError` if `verify` would hold more than the limit."""
    limit, needed = parse_bytes(text), verify_memory(settings)
    if needed > limit:
        raise InputError(
            f"verify would hold about {gigabytes(needed)}, above --memory-limit {text}; lower --width or --num-train, "
            "or use --precision float32 (--explain shows what takes it)"
        )


def _itemsize(settings) -> int:
    return 8 if settings.precision == "float64" else 4


def _steps(settings):
    from ngd_theory import claims
    from ngd_theory.theory import step_memory

    net = claims.make_network(settings, claims.load_data(settings))
    size = _itemsize(settings)
    return net, {
        name: step_memory(
            claims.make_approximation(name, settings.loss), net, settings.num_train, size
        )
        for name in settings.chosen_approximations
    }
