"""The table of sources: a new one is one file and one line here."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ngd_theory.data.errors import DataError
from ngd_theory.data.raw import RawData, Request
from ngd_theory.data.sources.cifar10 import load_cifar10
from ngd_theory.data.sources.curves import load_curves
from ngd_theory.data.sources.digits import load_digits
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
        return SOURCES[request.name](request)
    if request.name.startswith("openml:"):
        return load_openml(request)
    return load_npz(request)
