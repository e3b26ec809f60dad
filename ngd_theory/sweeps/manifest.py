"""``manifest.json``: which study a results folder holds, and every run that added to it."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ngd_theory.environment import environment
from ngd_theory.errors import InputError
from ngd_theory.files import write_json
from ngd_theory.sweeps.cells import FORMAT, HashedCell
from ngd_theory.sweeps.kinds import AnyStudy, parse


def record(path: Path, study: AnyStudy, cells: Iterable[HashedCell]) -> None:
    """Add this run to the manifest at ``path``, or start one.

    A data file of one's own is known by its contents, of which the manifest holds the sha256.

    The folder may grow: a study whose grid holds all old points and new ones (more seeds, say) adds to
    it. A study that no longer has an old point would mix two sweeps and is refused.

    Raises
    ------
    InputError
        If the folder holds another study, naming what differs, or the manifest cannot be read; if a data file is not
        there, or not the one that the folder was begun with.
    """
    cells = list(cells)
    ids, files = [cell.id for cell in cells], _data_files(cells)
    new = study.model_dump(mode="json")
    old = read_manifest(path) if path.exists() else {"study": new, "cells": [], "runs": []}
    for name, digest in old.get("files", {}).items():
        if files.get(name, digest) != digest:
            raise InputError(
                f"{name} has changed since {path.parent} was begun: choose another --out, or restore the file"
            )
    if missing := set(old["cells"]) - set(ids):
        raise InputError(
            f"{path.parent} holds {len(missing)} cells that this study does not have "
            f"({_differences(old['study'], new)}): choose another --out, or restore the study"
        )
    runs = [*old["runs"], environment()]
    whole = {"format": FORMAT, "study": new, "cells": ids, "files": files, "runs": runs}
    write_json(path, whole)


def _data_files(cells: Iterable[HashedCell]) -> dict[str, str]:
    """sha256 of every .npz file that the cells read."""
    names = {str(getattr(cell.settings, "dataset", "")) for cell in cells}
    digests = {}
    for name in sorted(n for n in names if n.endswith(".npz")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise InputError(
                f"{name} is not a file: a study's paths are relative to the folder that it is run in"
            )
        digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


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
    if whole:
        # Studies had but one kind once.
        manifest["study"].setdefault("kind", "theory")
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
        if name.split(".")[0] not in ("title", "statement", "claims", "allow")
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
