"""``ngd-theory doctor``."""

import os
from typing import Annotated

import typer
from rich.table import Table

from ngd_theory.cli.memory import MemoryPlan, available_memory, gigabytes
from ngd_theory.cli.status import Debug, Exit, Output, guarded

#: Data sources whose files may be missing.
_SOURCES = ("mnist", "fashion-mnist", "cifar10", "svhn", "digits")
_OPTIONAL = ("neural-tangents", "kfac-jax", "distributed")


@guarded
def doctor(
    width: Annotated[int, typer.Option(help="M of the network whose memory is printed.")] = 1024,
    num_train: Annotated[int, typer.Option(help="N.")] = 100,
    debug: Debug = False,
) -> int:
    """Print versions, devices, data, memory of a step.

    It also prints the precision and the folders that a run uses.

    Exit status 0; 2: bad input.
    """
    from ngd_theory import data, experiment
    from ngd_theory.data.sources.folders import ENVIRONMENT_VARIABLE
    from ngd_theory.environment import environment, package_version
    from ngd_theory.files import CACHE_VARIABLE

    settings = experiment.parse({"width": width, "num_train": num_train, "dataset": "gaussian"})
    console = Output(120)
    found = environment()
    versions = found["versions"] | {name: package_version(name) for name in _OPTIONAL}
    rows = {
        "versions": ", ".join(f"{n} {v or 'not installed'}" for n, v in versions.items()),
        "python": f"{found['python']} on {found['platform']}",
        "devices": f"{found['num_devices']} {found['device_platform']} ({found['device']})",
        "precision": "float64 for verify and studies of the theory unless --precision float32; in your own process "
        f"{found['float']} now (jax.config.update('jax_enable_x64', True))",
        "memory": f"{gigabytes(available_memory())} free",
        "cache": f"{_cache()} ({CACHE_VARIABLE})",
        "compiled programs": _programs(),
        "data folder": f"{os.environ.get(ENVIRONMENT_VARIABLE) or 'none'} ({ENVIRONMENT_VARIABLE})",
        **{f"data: {name}": _origin(data, name) for name in _SOURCES},
    }
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    MemoryPlan(settings).show(console)
    return Exit.HOLDS


def _cache() -> str:
    from ngd_theory.files import cache_folder

    try:
        return str(cache_folder())
    except RuntimeError as error:  # no home folder
        return f"none: {error}"


def _programs() -> str:
    from ngd_theory import compilation_cache

    try:
        size, folder = compilation_cache.programs_size(), compilation_cache.programs_folder()
    except RuntimeError as error:  # no home folder
        return f"not kept: {error}"
    limit = compilation_cache.LIMIT
    return f"{size / 2**20:.0f} of at most {limit / 2**20:.0f} MiB, here {folder.name} (--no-cache: none)"


def _origin(data, name: str) -> str:
    try:
        return data.load(name, num_train=1, num_test=0).description["source"]
    except (data.DataError, OSError) as error:
        return f"not found: {error}"
