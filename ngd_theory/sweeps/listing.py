"""The studies of a folder."""

from dataclasses import dataclass
from pathlib import Path

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError
from ngd_theory.sweeps.kinds import AnyStudy, read


@dataclass(frozen=True)
class Listing:
    """A study file.

    Attributes
    ----------
    path : Path
    study : Study or None
        None if the file is no valid study.
    error : str or None
        Then why.
    """

    path: Path
    study: AnyStudy | None
    error: str | None

    @property
    def line(self) -> str:
        """Name, number of cells and title in one line, or what is wrong."""
        if self.study is None:
            return f"{self.path.stem}: {self.error}"
        return f"{self.path.stem} ({self.study.num_cells} cells): {self.study.title}"


@checked
def list_studies(folder: str | Path) -> list[Listing]:
    """Every ``*.toml`` of a folder, by name.

    Raises
    ------
    InputError
        If there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder} of studies")
    return [_listing(path) for path in sorted(folder.glob("*.toml"))]


def _listing(path: Path) -> Listing:
    try:
        return Listing(path, read(path), None)
    except InputError as error:
        return Listing(path, None, str(error))
