"""``ngd-theory cite``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ngd_theory import references
from ngd_theory.cli.status import Debug, Exit, guarded, named_path
from ngd_theory.errors import InputError


@guarded
def cite(
    results: Annotated[
        Path | None,
        typer.Argument(parser=named_path, help="Results folder of ngd-theory verify or run."),
    ] = None,
    debug: Debug = False,
) -> int:
    """Print BibTeX of this package and of the papers that a run uses.

    Without a folder it prints every paper that the package knows.
    """
    found = references.known() if results is None else _cited(results)
    print("\n\n".join((references.software(), *(reference.bibtex for reference in found))))
    return Exit.HOLDS


def _cited(results: Path) -> tuple[references.Reference, ...]:
    """The references of a results folder."""
    if (results / "manifest.json").exists():
        from ngd_theory.sweeps.manifest import read_manifest

        return references.cited(read_manifest(results / "manifest.json")["study"])
    path = results / "result.json"
    try:
        return references.of_verification(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{results} holds no results: there is neither a result.json nor a manifest.json"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): run ngd-theory verify again") from None
