"""Every approximation by its name: those of the package, of installed packages' entry points, and a user's own."""

import re
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from ngd_theory import extensions
from ngd_theory.errors import InputError
from ngd_theory.fisher.base import Approximation

#: Allowed names: they are used in comma-separated options, TOML and file names.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
#: Why an approximation from outside the package runs only if it is named.
OUTSIDE = "from outside the package, so name it to run it"


class Approximations(MutableMapping[str, type[Approximation]]):
    """Classes by their names, in order. Those of entry points are loaded at the first look-up.

    Parameters
    ----------
    own : iterable of classes
        Those of the package.
    """

    def __init__(self, own: Iterable[type[Approximation]]):
        self._classes = {cls.name: cls for cls in own}
        self._own = frozenset(self._classes.values())
        self._complete = False

    def _all(self) -> dict[str, type[Approximation]]:
        if not self._complete:
            # Set first, because a loaded module may look up a class.
            self._complete = True
            try:
                for origin, cls in extensions.installed():
                    self.add(cls, origin)
            except InputError:
                # Raise again at the next look-up, not only at the first.
                self._complete = False
                raise
        return self._classes

    def __getitem__(self, name: str) -> type[Approximation]:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __setitem__(self, name: str, cls: type[Approximation]) -> None:
        if name != getattr(cls, "name", None):
            raise InputError(f"the class is called {getattr(cls, 'name', None)!r}, not {name!r}")
        self.add(cls)

    def __delitem__(self, name: str) -> None:
        del self._classes[name]

    def add(self, cls: Any, origin: str = "the class") -> None:
        """Check a class and add it.

        Raises
        ------
        InputError
            See `register`.
        """
        _check(cls, origin)
        known = self._classes.get(cls.name)
        if known is not None and _place(known) != _place(cls):
            raise InputError(
                f"{origin} {'.'.join(_place(cls))} has the name {cls.name!r}, which {'.'.join(_place(known))} has "
                "already: choose another"
            )
        self._classes[cls.name] = cls

    def named_only(self, name: str) -> str:
        """Why it is verified only if it is named; empty if it is always verified."""
        cls = self[name]
        return cls.named_only or ("" if cls in self._own else OUTSIDE)

    def outside_modules(self) -> tuple[str, ...]:
        """Modules of the classes that are not the package's: a worker process imports them."""
        outside = (cls.__module__ for cls in self._all().values() if cls not in self._own)
        return tuple(dict.fromkeys(name for name in outside if name != "__main__"))


def _place(cls: type) -> tuple[str, str]:
    """Module and name of a class. One defined again at the same place, as in a notebook, replaces the first."""
    return cls.__module__, cls.__qualname__


def _check(cls: Any, origin: str) -> None:
    if not (isinstance(cls, type) and issubclass(cls, Approximation)):
        raise InputError(f"{origin} is no sub-class of ngd_theory.fisher.Approximation: {cls!r}")
    where, name = ".".join(_place(cls)), getattr(cls, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"{origin} {where} has the name {name!r}; it must be small letters, digits, dots and hyphens"
        )
    if not is_dataclass(cls) or "__dataclass_fields__" not in vars(cls):
        raise InputError(
            f"{origin} {where} is no dataclass of its own: decorate it with ngd_theory.fisher.approximation and "
            "dataclasses.dataclass(frozen=True)"
        )
    if getattr(cls, "__abstractmethods__", None):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise InputError(f"{origin} {where} does not define {missing}")
    bare = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    if bare:
        raise InputError(
            f"{origin} {where} has no default for {', '.join(bare)}: a command makes it by its name alone"
        )
