"""Bad inputs: what one is, and all of them, by surface."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

COMMAND, TOML, NPZ = "command line", "TOML", ".npz"
PYTHON, OPTIMISER, ASSERTIONS = "Python", "optimiser", "assertions"
PROCESS = "command line, processes"


@dataclass(frozen=True)
class Bad:
    """A bad input.

    Attributes
    ----------
    surface, label : str
        Together they name it.
    call : callable, optional
        Gives the input to Python.
    argv : tuple of str
        Arguments of the command line, where there is no ``call``.
    word : str
        What the message must contain.
    may_fail : bool
        Whether an `AssertionError` is an answer: the input is sound, what it says is false.
    sound : bool
        Not bad at all: what the bad ones beside it are made from.
    """

    surface: str
    label: str
    call: Callable[[], Any] = str
    argv: tuple[str, ...] = ()
    word: str = ""
    may_fail: bool = False
    sound: bool = False


def varied(
    surface: str,
    name: str,
    function: Callable,
    good: Mapping[str, Any],
    bad: Mapping[str, Sequence | Mapping[str, Any]],
    may_fail: bool = False,
) -> list[Bad]:
    """One input for every value in ``bad``, in place of that argument in ``good``; values may have labels."""
    # If this failed, the others might fail for another reason than theirs.
    found = [Bad(surface, f"{name}({', '.join(bad)}: sound)", lambda: function(**good), sound=True)]
    for argument, values in bad.items():
        labelled = (
            values.items() if isinstance(values, Mapping) else ((short(v), v) for v in values)
        )
        for label, value in labelled:
            call = lambda a=argument, v=value: function(**{**good, a: v})  # noqa: E731
            found.append(Bad(surface, f"{name}({argument}: {label})", call, may_fail=may_fail))
    return found


def short(value) -> str:
    """A value in a few words."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        numbers = str(value).replace("\n", "") if value.size <= 9 else "..."
        return f"{type(value).__name__} {value.dtype}{list(value.shape)} {numbers}"
    text = getattr(value, "__name__", type(value).__name__) if callable(value) else repr(value)
    text = re.sub(r" at 0x\w+", "", text)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:40]}..."


#: Surface -> the module whose ``inputs(folder)`` makes them. Commands come last: they set the precision.
MODULES = {
    PYTHON: "python_inputs",
    OPTIMISER: "optimiser_inputs",
    ASSERTIONS: "assertion_inputs",
    TOML: "toml_inputs",
    NPZ: "npz_inputs",
    COMMAND: "command_lines",
}


def all_inputs(folder: Path, surfaces: Sequence[str] = (), sound: bool = False) -> list[Bad]:
    """The bad or the sound inputs of some surfaces, all of them if none is named; their files come into ``folder``."""
    unknown = set(surfaces) - set(MODULES)
    if unknown:
        raise SystemExit(f"unknown surface {', '.join(unknown)}; there are {', '.join(MODULES)}")
    chosen = [
        import_module(module) for name, module in MODULES.items() if name in (surfaces or MODULES)
    ]
    made = [bad for module in chosen for bad in module.inputs(folder)]
    found = [bad for bad in made if bad.sound == sound]
    names = [(bad.surface, bad.label) for bad in found]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, f"named twice: {twice}"
    return found
