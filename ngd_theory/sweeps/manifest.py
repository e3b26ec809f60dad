"""``manifest.json``: which study a results folder holds, and every run that added to it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ngd_theory.environment import environment
from ngd_theory.errors import InputError
from ngd_theory.files import write_json
from ngd_theory.sweeps.base import AnyStudy
from ngd_theory.sweeps.cells import Cell, point_of
from ngd_theory.sweeps.kinds import parse

#: Increased when the layout of a results folder changes.
FORMAT = 4


def record(path: Path, study: AnyStudy, cells: Iterable[Cell]) -> None:
    """Add this run to the manifest at ``path``, or start one.

    The folder may grow: a study with all old points and new ones (such as more seeds) adds to it. A study that does not
    have all old points is refused, as it would mix two sweeps.

    Raises
    ------
    InputError
        If the folder holds another study, naming what differs, or other data, or the manifest cannot be read.
    """
    ids = [cell.id for cell in cells]
    new = study.model_dump(mode="json")
    old = read_manifest(path) if path.exists() else {"study": new, "cells": [], "runs": []}
    points = {point_of(id): id for id in ids}
    changed = [id for id in old["cells"] if points.get(point_of(id), id) != id]
    if changed:
        raise InputError(
            f"the data of {len(changed)} cells have changed since {path.parent} was begun: choose another --out, or "
            "restore them"
        )
    if missing := set(old["cells"]) - set(ids):
        raise InputError(
            f"{path.parent} holds {len(missing)} cells that this study does not have "
            f"({_differences(old['study'], new)}): choose another --out, or restore the study"
        )
    runs = [*old["runs"], environment()]
    write_json(path, {"format": FORMAT, "study": new, "cells": ids, "runs": runs})


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest at ``path``.

    Raises
    ------
    InputError
        If it is missing, damaged or of another format.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        kept = {"study": dict, "cells": list, "runs": list}
        whole = all(isinstance(manifest[name], kind) for name, kind in kept.items())
    except FileNotFoundError:
        raise InputError(f"{path.parent} holds no sweep: there is no {path.name}") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({error}): restore it or choose another --out"
        ) from None
    if not whole or manifest.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {manifest.get('format')!r}, not {FORMAT}: choose another --out"
        )
    return manifest


def recorded_study(path: Path) -> AnyStudy:
    """The study in the manifest at ``path``.

    Raises
    ------
    InputError
        As `read_manifest`, or if this version refuses the study.
    """
    study = read_manifest(path)["study"]
    try:
        return parse(study)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    flat = [dict(_flat(study)) for study in (old, new)]
    names = [
        name
        for name in dict.fromkeys([*flat[0], *flat[1]])
        if name.split(".")[0] not in ("title", "statement", "source", "claims", "allow")
        and flat[0].get(name) != flat[1].get(name)
    ]
    shown = [
        f"{n} was {json.dumps(flat[0].get(n))}, is {json.dumps(flat[1].get(n))}" for n in names
    ]
    return "; ".join(shown) or "its defaults or format changed"


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, entry in value.items():
        if isinstance(entry, dict):
            found += _flat(entry, f"{prefix}{name}.")
        else:
            found.append((prefix + name, entry))
    return found
