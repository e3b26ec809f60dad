"""The papers behind the results. `references.bib` beside this file holds them all."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import ngd_theory

#: Fields of `references.bib` that are ours: they say when an entry is cited.
_OURS = re.compile(r",\n  (?:cited_as|used_for) *= \{.*\}")


@dataclass(frozen=True)
class Reference:
    """A paper, data set or program that results rest on.

    Attributes
    ----------
    key : str
        Of its BibTeX entry.
    cited_as : str
        How the texts of the package name it, such as ``"Karakida & Osawa 2020"``.
    used_for : frozenset of str
        Names of approximations, data, architectures and options that rest on it.
    bibtex : str
        The entry.
    """

    key: str
    cited_as: str
    used_for: frozenset[str]
    bibtex: str


@cache
def known() -> tuple[Reference, ...]:
    """Every reference that the package knows."""
    text = (files("ngd_theory") / "references.bib").read_text(encoding="utf-8")
    return tuple(map(_read, text.strip().split("\n\n")))


def cited(result: Any) -> tuple[Reference, ...]:
    """The references that a result rests on, in the order of `known`.

    Parameters
    ----------
    result : dict, list or str
        Any part of a result as JSON holds it. A reference is cited where a text names it, or where a text, or the
        key of a value that is not false, is one of the names that it is used for.

    Examples
    --------
    >>> [reference.cited_as for reference in cited({"approximations": ["ekfac"]})]
    ['George et al. 2018']
    """
    texts = set(_texts(result))
    whole = "\n".join(texts)
    return tuple(r for r in known() if r.cited_as in whole or r.used_for & texts)


def software() -> str:
    """The BibTeX entry of this package, of the installed version."""
    return (
        "@software{ngd_theory,\n"
        "  title   = {ngd\\_theory: verification of the theory of natural gradient descent in wide neural networks},\n"
        "  author  = {{The {ngd-theory} authors}},\n"
        f"  version = {{{ngd_theory.__version__}}},\n"
        "  license = {MIT}\n"
        "}"
    )


def _read(entry: str) -> Reference:
    found = re.match(r"@\w+\{(.*),", entry)
    assert found is not None, entry
    used = _field(entry, "used_for")
    names = frozenset(used.split(", ")) if used else frozenset()
    return Reference(found[1], _field(entry, "cited_as"), names, _OURS.sub("", entry))


def _field(entry: str, name: str) -> str:
    found = re.search(rf"^  {name} *= \{{(.*)\}}", entry, re.MULTILINE)
    return found[1] if found else ""


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, entry in value.items():
            if entry not in (None, False):
                yield key
                yield from _texts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)
