"""A cell: one point of a study's grid, known by the hash of its configuration."""

import abc
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import jax.numpy as jnp

from ngd_theory.claims import Settings
from ngd_theory.errors import InputError

#: Part of every identity: raise it when a cell's numbers or columns change their meaning.
FORMAT = 3

#: Most cells of a study. More would take days, and minutes before anything is measured.
MOST_CELLS = 100_000

#: Settings that change the numbers of a cell but not the programs compiled for it.
NOT_SHAPES = ("seed", "damping", "step_scale", "data_dir")


class HashedCell(abc.ABC):
    """One configuration of a study, known by its hash.

    A kind of study defines ``kind``, ``settings`` with a ``precision`` among them, and the properties below.
    """

    kind: ClassVar[str]
    settings: Any

    @property
    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """Everything that determines the cell's numbers, JSON-ready, with ``settings`` among it."""

    @property
    @abc.abstractmethod
    def shape(self) -> str:
        """Equal for cells that one compilation serves."""

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """In a few words, for progress."""

    def require_precision(self):
        """Return JAX's default float type, which must be that of the cell.

        Raises
        ------
        InputError
            Saying how to set it.
        """
        dtype, wanted = jnp.zeros(()).dtype, self.settings.precision
        if dtype != wanted:
            raise InputError(
                f"the cell is for {wanted} but JAX computes in {dtype}: call "
                f"jax.config.update('jax_enable_x64', {wanted == 'float64'}) first"
            )
        return dtype

    @cached_property
    def id(self) -> str:
        """sha256 of the canonical JSON of `config`, in hexadecimal."""
        return hashlib.sha256(canonical(self.config).encode()).hexdigest()


class SettingsCell(HashedCell):
    """A cell that its settings determine; its kind defines ``format``, raised when its numbers change meaning."""

    format: ClassVar[int]

    @property
    def config(self) -> dict[str, Any]:
        """Kind, format and settings."""
        settings = self.settings.model_dump(mode="json")
        return {"kind": self.kind, "format": self.format, "settings": settings}


@dataclass(frozen=True)
class Cell(HashedCell):
    """One configuration of network, data and training, and what to measure on it.

    Attributes
    ----------
    settings : Settings
        Network, data, damping and training, and the approximations to measure.
    measure : tuple of str
        Names in `ngd_theory.sweeps.study.MEASUREMENTS`.
    """

    kind: ClassVar[str] = "theory"
    settings: Settings
    measure: tuple[str, ...]

    @property
    def config(self) -> dict[str, Any]:
        """Everything that determines the cell's numbers, JSON-ready; order of names left out."""
        settings = self.settings.model_dump(mode="json")
        settings["approximations"] = sorted(self.settings.chosen_approximations)
        return {"format": FORMAT, "measure": sorted(self.measure), "settings": settings}

    @property
    def description(self) -> str:
        """For progress."""
        s = self.settings
        return f"M = {s.width}, L = {s.depth}, N = {s.num_train}, {s.activation}, seed {s.seed}"

    @property
    def shape(self) -> str:
        """Equal for cells that one compilation serves: all but `NOT_SHAPES`, and whether rho is 0."""
        settings = self.settings.model_dump(mode="json", exclude=set(NOT_SHAPES))
        return canonical({**settings, "damped": self.settings.damping > 0})


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


AnyCell = TypeVar("AnyCell", bound=HashedCell)


def require_few(count: int) -> None:
    """Raise `InputError` if a study has more than `MOST_CELLS` cells; ask before they are made."""
    if count > MOST_CELLS:
        raise InputError(
            f"the study has {count:,} cells; at most {MOST_CELLS:,} are run in one folder: leave out values of the "
            "grid, or split it into several studies"
        )


def require_distinct(cells: Sequence[HashedCell], what: str) -> None:
    """Raise `InputError` if two cells are the same; ``what`` says in words what one is."""
    if len({cell.id for cell in cells}) < len(cells):
        raise InputError(f"the study names {what} twice; remove repeated values")


def grouped_by_shape(cells: Sequence[AnyCell]) -> list[AnyCell]:
    """The same cells with those of one shape side by side, shapes in order of first appearance."""
    first: dict[str, int] = {}
    for cell in cells:
        first.setdefault(cell.shape, len(first))
    return sorted(cells, key=lambda cell: first[cell.shape])
