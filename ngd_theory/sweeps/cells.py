"""A cell: one point of a study's grid, identified by the hashes of its configuration and of its data."""

import abc
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import jax.numpy as jnp
from pydantic import BaseModel

from ngd_theory.errors import InputError

#: Most cells of a study. More would take days, and minutes before anything is measured.
MOST_CELLS = 100_000


@dataclass(frozen=True)
class Cell(abc.ABC):
    """One configuration of a study.

    A kind of study defines ``kind``, ``format`` and the methods below, and ``settings`` with a ``precision``.

    Attributes
    ----------
    settings : pydantic model
        Everything that determines the numbers, except the data.
    data : str
        Digest of the rows on which the cell is measured; empty until `with_data` reads them.
    """

    kind: ClassVar[str]
    #: Increased when the numbers or columns of a cell change their meaning.
    format: ClassVar[int]
    #: What the last cell of the kind keeps for a next one with the same `start`.
    kept: ClassVar[dict[Any, Any]] = {}
    settings: Any
    data: str = ""

    @abc.abstractmethod
    def measure(self) -> list[dict[str, Any]]:
        """The cell's rows."""

    @property
    @abc.abstractmethod
    def shape(self) -> str:
        """A key that is equal for cells that share compiled programs."""

    @property
    def start(self) -> str:
        """A key that is equal for cells that begin alike. Such cells are faster one right after another."""
        return self.shape

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """The cell in a few words, for progress."""

    @property
    @abc.abstractmethod
    def data_key(self) -> str:
        """A key that is equal for cells with the same rows."""

    @abc.abstractmethod
    def read_digest(self) -> str:
        """Read the rows that the settings ask for, and return their digest."""

    @property
    def config(self) -> dict[str, Any]:
        """Kind, format and settings, JSON-ready."""
        settings = self.settings.model_dump(mode="json")
        return {"kind": self.kind, "format": self.format, "settings": settings}

    @cached_property
    def point(self) -> str:
        """sha256 of the canonical JSON of `config`: the place in the grid, without the data."""
        return hashlib.sha256(canonical(self.config).encode()).hexdigest()

    @property
    def id(self) -> str:
        """``point-data``; only the point while ``data`` is empty."""
        return f"{self.point}-{self.data}" if self.data else self.point

    def require_precision(self):
        """Return JAX's default float type, which must be that of the cell.

        Raises
        ------
        InputError
            If it is not. The message says how to set it.
        """
        dtype, wanted = jnp.zeros(()).dtype, self.settings.precision
        if dtype != wanted:
            raise InputError(
                f"the cell is for {wanted} but JAX computes in {dtype}: call "
                f"jax.config.update('jax_enable_x64', {wanted == 'float64'}) first"
            )
        return dtype

    def require_data(self, digest: str) -> None:
        """Check that ``digest`` is that of the rows of the cell.

        Raises
        ------
        InputError
            If the rows are not those that the run began with.
        """
        if self.data not in ("", digest):
            raise InputError(
                f"the rows read here (digest {digest}) are not those that the run began with ({self.data}): the data "
                "have changed, or this worker has others"
            )


def point_of(id: str) -> str:
    """The point of a cell's id."""
    return id.partition("-")[0]


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


AnyCell = TypeVar("AnyCell", bound=Cell)


def with_data(cells: Sequence[AnyCell]) -> list[AnyCell]:
    """The cells with the digests of their rows; equal rows are read once.

    Raises
    ------
    InputError
        If there are no such data.
    """
    digests: dict[str, str] = {}
    for cell in cells:
        if cell.data_key not in digests:
            digests[cell.data_key] = cell.read_digest()
    return [replace(cell, data=digests[cell.data_key]) for cell in cells]


def require_few(count: int) -> None:
    """Raise `InputError` if a study has more than `MOST_CELLS` cells. Call it before they are made."""
    if count > MOST_CELLS:
        raise InputError(
            f"the study has {count:,} cells; at most {MOST_CELLS:,} are run in one folder: leave out values of the "
            "grid, or split it into several studies"
        )


def require_distinct(cells: Sequence[Cell], what: str) -> None:
    """Raise `InputError` if two cells are the same; ``what`` is the word for a cell."""
    if len({cell.point for cell in cells}) < len(cells):
        raise InputError(f"the study names {what} twice; remove repeated values")


def grouped_by_shape(cells: Sequence[AnyCell]) -> list[AnyCell]:
    """Sort cells so that those of one shape are neighbours, and among these, those that begin alike."""
    shapes = {shape: i for i, shape in enumerate(dict.fromkeys(cell.shape for cell in cells))}
    starts = {start: i for i, start in enumerate(dict.fromkeys(cell.start for cell in cells))}
    return sorted(cells, key=lambda cell: (shapes[cell.shape], starts[cell.start]))


def config_row(settings: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Settings of a stored cell as columns: lists joined by commas, tables as JSON."""
    return {name: _as_column(settings[name]) for name in names}


def _as_column(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    return ",".join(map(str, value)) if isinstance(value, list) else value


def settings_columns(model: type[BaseModel], *without: str) -> tuple[str, ...]:
    """Names of the settings that are columns of a kind's table."""
    return tuple(name for name in model.model_fields if name not in without)
