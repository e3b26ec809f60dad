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
    used_for : tuple of frozenset of str
        Settings that rest on it, such as ``{"approximation=kfac", "architecture=cnn"}``: all of one set together.
    bibtex : str
        The entry.
    """

    key: str
    cited_as: str
    used_for: tuple[frozenset[str], ...]
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
        Any part of a result as JSON holds it. A reference is cited where a text names it, or where its settings are.

    Examples
    --------
    >>> [reference.cited_as for reference in cited({"approximations": ["ekfac"]})]
    ['George et al. 2018']
    """
    found = set(_settings(result))
    texts = "\n".join(found)
    return tuple(r for r in known() if r.cited_as in texts or any(s <= found for s in r.used_for))


def of_verification(result: dict[str, Any]) -> tuple[Reference, ...]:
    """The references of a ``result.json``: what it was asked for, and what was judged."""
    return cited([result["config"], result["claims"]])


def software() -> str:
    """The BibTeX entry of this package, of the installed version."""
    return (
        "@misc{ngd_theory,\n"
        "  title  = {ngd\\_theory: verification of the theory of natural gradient descent in wide neural networks},\n"
        "  author = {{The {ngd-theory} authors}},\n"
        "  year   = {2026},\n"
        f"  note   = {{version {ngd_theory.__version__}}}\n"
        "}"
    )


def _read(entry: str) -> Reference:
    found = re.match(r"@\w+\{(.*),", entry)
    assert found is not None, entry
    used = _field(entry, "used_for")
    sets = tuple(frozenset(each.split(" + ")) for each in used.split(", ")) if used else ()
    return Reference(found[1], _field(entry, "cited_as"), sets, _OURS.sub("", entry))


def _field(entry: str, name: str) -> str:
    found = re.search(rf"^  {name} *= \{{(.*)\}}", entry, re.MULTILINE)
    return found[1] if found else ""


def _settings(value: Any, key: str = "") -> Iterator[str]:
    """Texts and what is true, as ``key=value``; a list has one such entry for each of its own, by the singular."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from _settings(entry, name)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _settings(entry, key.removesuffix("s"))
    elif isinstance(value, str) or value is True:
        yield f"{key}={value}"
