"""Modules from outside the package that add approximations, claims or data.

Installed packages name them by entry points, users by ``--import my.module``.
"""

import os
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from ngd_theory.errors import InputError

#: Entry points of this group name classes, ``mine = "my_package.my_module:Mine"``.
GROUP = "ngd_theory.approximations"
#: Modules that were imported because a user named them, in that order.
_named: list[str] = []


def load(modules: Iterable[str], folder: str | None = None) -> None:
    """Import modules by their dotted names, also from ``folder``, which is the current folder if None.

    Raises
    ------
    InputError
        For a module that cannot be imported, with the reason.
    """
    folder = os.getcwd() if folder is None else folder
    for name in modules:
        if folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            import_module(name)
        except Exception as error:
            raise InputError(
                f"--import {name}: it cannot be imported ({_in_words(error)}); give a module's dotted name, such as "
                "my_package.my_module, of a package that is installed or of the current folder"
            ) from error
        if name not in _named:
            _named.append(name)


def named() -> tuple[str, ...]:
    """The modules that were loaded by name."""
    return tuple(_named)


def installed(group: str = GROUP) -> list[tuple[str, object]]:
    """The objects that the entry points of a group name, each after a text that says where it is from.

    Raises
    ------
    InputError
        If one cannot be loaded: an installed package is broken, and its additions would be missing silently.
    """
    return [(_origin(point), _loaded(point)) for point in entry_points(group=group)]


def _loaded(point: EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:
        raise InputError(
            f"{_origin(point)} cannot be loaded ({_in_words(error)}): mend or uninstall that package"
        ) from error


def _origin(point: EntryPoint) -> str:
    package = "" if point.dist is None else f" of the package {point.dist.name!r}"
    return f"the entry point {point.name} = {point.value!r}{package}"


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
