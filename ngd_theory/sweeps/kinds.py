"""The kinds of study, and how a file becomes one."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from ngd_theory.arguments import checked
from ngd_theory.errors import InputError, choose
from ngd_theory.sweeps.base import AnyStudy
from ngd_theory.sweeps.cells import MOST_CELLS
from ngd_theory.sweeps.structure import StructureStudy
from ngd_theory.sweeps.theory import Study
from ngd_theory.sweeps.training import TrainingStudy
from ngd_theory.sweeps.validation import error_lines

#: By the ``kind`` of the file. A new kind needs a module, an entry here and figures (`ngd_theory.report.sweep.write`).
KINDS: Mapping[str, type[AnyStudy]] = MappingProxyType(
    {"theory": Study, "training": TrainingStudy, "structure": StructureStudy}
)
#: Longest study file that is read.
MOST_BYTES = 4_000_000
_NESTED = "tables or lists are nested too deep; a study has three levels at most"
_LAYERS = (
    'kind = "layers" is now a measurement of a theory study: leave kind out; write measure = ["isotropy", "layers"]; '
    'under [network] architecture = "cnn" and depth (convolutions + 1); under [data] dataset = "gaussian" and num_test '
    "= 0; under [grid] width for channels, num_train for num_samples, image_size and seed; in claims where.place for "
    "places (studies/kfc_isotropy.toml shows it)"
)


@checked
def read(path: str | Path) -> AnyStudy:
    """Read and check a study file; every grid point is validated.

    Raises
    ------
    InputError
        One line that names the file, each wrong key and value, and what is allowed.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(
                f"{path}: has more than {MOST_BYTES:,} bytes; no study of at most {MOST_CELLS:,} cells needs as many"
            )
        text = path.read_text(encoding="utf-8")
    # ValueError: the text is not UTF-8, or the name has a NUL.
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    try:
        values = tomllib.loads(text)
    # Not only TOMLDecodeError: a number may have more digits than Python reads.
    except ValueError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: {_NESTED}") from None
    try:
        return parse(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def parse(values: dict[str, Any]) -> AnyStudy:
    """Check a study given as a dictionary.

    Raises
    ------
    InputError
        As `read`, without the file's name.
    """
    name = values.get("kind", "theory")
    if name == "layers":
        raise InputError(_LAYERS)
    kind = choose(KINDS, name, "kind of study")
    try:
        # The strict mode of JSON accepts lists as tuples, but not "64" as 64.
        return kind.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise InputError("; ".join(error_lines(error, kind))) from None
    except RecursionError:
        raise InputError(_NESTED) from None


@dataclass(frozen=True)
class Listing:
    """A study file.

    Attributes
    ----------
    path : Path
    study : AnyStudy or None
        None if the file is no valid study.
    error : str or None
        The reason, if it is no valid study.
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
