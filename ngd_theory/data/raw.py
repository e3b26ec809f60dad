"""What a source is asked for, and what it returns before any preprocessing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Num

from ngd_theory.data.checks import require_finite, require_matrix
from ngd_theory.data.errors import DataError


@dataclass(frozen=True)
class Request:
    """The part of a ``load`` call that a source may need; see ``load`` for the meanings."""

    name: str
    num_train: int
    num_test: int
    seed: int
    targets: str
    input_dim: int | None
    output_dim: int | None
    data_dir: Path | None


@dataclass(frozen=True, eq=False)
class Rows:
    """Inputs (n, M_0) of any real dtype with labels (n,) or else regression targets (n, C)."""

    inputs: Num[np.ndarray, "..."]
    targets: Int[np.ndarray, "..."] | Float[np.ndarray, "..."]

    @property
    def has_labels(self) -> bool:
        """Whether ``targets`` are class labels, i.e. positions in the source's class names."""
        return self.targets.ndim == 1


@dataclass(frozen=True, eq=False)
class RawData:
    """All rows of a source.

    Attributes
    ----------
    train : Rows
        The training pool.
    test : Rows or None
        The source's own test pool, if it has one.
    input_shape : tuple of int
        Shape of one input, (height, width, channels) for images.
    origin : str
        One line of text for errors and the description.
    class_names : sequence of str
        Name of each label; empty for regression.
    files : sequence of str
        Files read.
    notes : sequence of str
        Remarks for the description.
    maximum : float
        Inputs are divided by it (255 for bytes).
    is_standard : bool
        Whether inputs have mean 0 and variance 1 by construction.

    Raises
    ------
    DataError
        If rows disagree in shape or an input or target is not finite.
    """

    train: Rows
    test: Rows | None
    input_shape: tuple[int, ...]
    origin: str
    class_names: Sequence[str] = ()
    files: Sequence[str] = ()
    notes: Sequence[str] = ()
    maximum: float = 1.0
    is_standard: bool = False

    def __post_init__(self) -> None:
        pools = {"training": self.train} | ({"test": self.test} if self.test else {})
        for kind, rows in pools.items():
            where = f"{kind} inputs of {self.origin}"
            inputs = require_matrix(rows.inputs, where)
            require_finite(inputs, where)
            if inputs.shape[1] != int(np.prod(self.input_shape)):
                raise DataError(
                    f"{where} have {inputs.shape[1]} features, expected shape {self.input_shape}; "
                    "give training and test inputs the same shape"
                )
            if len(rows.targets) != len(inputs):
                raise DataError(
                    f"{where} have {len(inputs)} rows but there are {len(rows.targets)} labels or "
                    "targets; give one an input"
                )
            if not rows.has_labels:
                targets = require_matrix(rows.targets, f"{kind} targets of {self.origin}")
                require_finite(targets, f"{kind} targets of {self.origin}")
        if self.test and self.train.targets.shape[1:] != self.test.targets.shape[1:]:
            raise DataError(
                f"training and test targets of {self.origin} differ in shape "
                f"({self.train.targets.shape} and {self.test.targets.shape}); give both the "
                "same width"
            )
