"""The table of sources. A new source is one file and one line here."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from ngd_theory.data.errors import DataError
from ngd_theory.data.raw import RawData, Request
from ngd_theory.data.sources.cifar10 import load_cifar10
from ngd_theory.data.sources.curves import load_curves
from ngd_theory.data.sources.digits import load_digits
from ngd_theory.data.sources.folders import ENVIRONMENT_VARIABLE, data_folder
from ngd_theory.data.sources.gaussian import load_gaussian
from ngd_theory.data.sources.mnist import load_fashion_mnist, load_mnist
from ngd_theory.data.sources.npz import load_npz
from ngd_theory.data.sources.openml import load_openml
from ngd_theory.data.sources.svhn import load_svhn

Loader = Callable[[Request], RawData]

SOURCES: Mapping[str, Loader] = MappingProxyType(
    {
        "cifar10": load_cifar10,
        "digits": load_digits,
        "fashion-mnist": load_fashion_mnist,
        "gaussian": load_gaussian,
        "mnist": load_mnist,
        "curves": load_curves,
        "svhn": load_svhn,
    }
)


def source_names() -> tuple[str, ...]:
    """Names ``load`` takes; the last two are patterns (``openml:NAME``, ``PATH.npz``)."""
    return (*SOURCES, "openml:NAME", "PATH.npz")


def require_source(name: str) -> None:
    """Raise `DataError` unless ``name`` is one of `source_names`; a file need not be there."""
    if name in SOURCES or name.startswith("openml:") or name.endswith(".npz"):
        return
    raise DataError(f"there is no data source {name!r}; choose one of {', '.join(source_names())}")


def read(request: Request) -> RawData:
    """All rows of the source that ``request.name`` names.

    Raises
    ------
    DataError
        If there is no such source, or it cannot be read.
    """
    require_source(request.name)
    if request.name in SOURCES:
        load = SOURCES[request.name]
    else:
        load = load_openml if request.name.startswith("openml:") else load_npz
    # The content that is read from files depends on nothing else.
    key = (
        replace(request, num_train=0, num_test=0, seed=0),
        os.environ.get(ENVIRONMENT_VARIABLE),
        Path.cwd(),
    )
    folder = data_folder(request.data_dir)
    kept = _read_last.get(key)
    if kept is not None and kept[0] == _stamps(kept[1].files, folder):
        return kept[1]
    raw = load(request)
    _read_last.clear()
    if raw.files:
        _read_last[key] = _stamps(raw.files, folder), raw
    return raw


#: The source that was read last, with its files' stamps, because a study reads the same rows again and again.
_read_last: dict[object, tuple[object, RawData]] = {}


def _stamps(files: Iterable[str], folder: Path | None) -> list[tuple[str, int, int] | None]:
    """Time and size of files, and of the folders where new files could appear; None for one that does not exist."""
    folders = (
        []
        if folder is None or not folder.is_dir()
        else [folder, *folder.glob("*/"), *folder.glob("*/*/")]
    )
    found = []
    for path in [*map(Path, files), *sorted(folders)]:
        try:
            stat = path.stat()
            found.append((str(path), stat.st_mtime_ns, stat.st_size))
        except OSError:
            found.append(None)
    return found
