"""Finding original data files in the user's folder."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ngd_theory.data.errors import DataError

ENVIRONMENT_VARIABLE = "NGD_THEORY_DATA"


def data_folder(explicit: Path | None) -> Path | None:
    """Return the folder given, else that of ``NGD_THEORY_DATA``, else None.

    Raises
    ------
    DataError
        If ``explicit`` is given but is not a folder.
    """
    if explicit is not None:
        if not explicit.is_dir():
            raise DataError(f"data_dir {explicit} is not a folder; give one that exists")
        return explicit
    from_environment = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(from_environment).expanduser() if from_environment else None


def find_all(folders: Iterable[Path], wanted: Sequence[Sequence[str]]) -> list[Path] | None:
    """Return the files of the first folder that holds any of them; None if no folder does.

    Parameters
    ----------
    folders : paths, tried in turn
    wanted : sequence of sequences of str
        For every file, the names it may have, best first.

    Raises
    ------
    DataError
        If a folder holds some of the files but not all.
    """
    for folder in folders:
        found = [
            next((folder / name for name in names if (folder / name).is_file()), None)
            for names in wanted
        ]
        missing = [names[0] for names, path in zip(wanted, found, strict=True) if path is None]
        if not missing:
            return [path for path in found if path is not None]
        if len(missing) < len(wanted):
            raise DataError(f"{folder} lacks {', '.join(missing)}; add what is missing")
    return None


def missing_files(name: str, folder: Path | None, wanted: Sequence[Sequence[str]]) -> DataError:
    """Return the error for a source if none of its files were found."""
    names = ", ".join(names[0] for names in wanted)
    if folder is None:
        return DataError(
            f"{name} needs its original files ({names}); put them in a folder and give it as "
            f"data_dir or {ENVIRONMENT_VARIABLE}"
        )
    return DataError(
        f"{folder} holds no {name} files; looked for {names} there and in its usual subfolders; "
        "add them or give another data_dir"
    )
