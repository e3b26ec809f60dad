"""The data set that every higher floor receives."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ngd_theory.data.checks import require_finite, require_matrix
from ngd_theory.data.errors import DataError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test rows, ready for a network.

    Attributes
    ----------
    inputs : (N, M_0) float64
        Training inputs; images are flattened row-major from ``input_shape``.
    targets : (N, C) float64
        Training targets.
    labels : (N,) int64 or None
        Position of each row's class in ``description["classes"]``; None for regression.
    test_inputs, test_targets, test_labels
        The same for the test rows; (0, ...) where no test rows were asked for.
    name : str
        The source's name, e.g. ``"mnist"``.
    input_shape : tuple of int
        Shape of one input, e.g. ``(28, 28, 1)`` (height, width, channels) or ``(M_0,)``.
    description : dict
        Where the rows came from and what was done to them; JSON-serialisable.
    digest : str
        Digest of the raw numbers that `load` used: the rows drawn and the pool that features are standardised over. It
        does not depend on the preprocessing. Empty for a data set that `load` did not make.

    Raises
    ------
    DataError
        If shapes disagree or an input or target is not finite.
    """

    # Shapes are checked below, with errors that say more than an annotation's would.
    inputs: Float[np.ndarray, "..."]
    targets: Float[np.ndarray, "..."]
    labels: Int[np.ndarray, "..."] | None
    test_inputs: Float[np.ndarray, "..."]
    test_targets: Float[np.ndarray, "..."]
    test_labels: Int[np.ndarray, "..."] | None
    name: str
    input_shape: tuple[int, ...]
    description: dict[str, Any]
    digest: str = ""

    def __post_init__(self) -> None:
        for kind in ("inputs", "targets"):
            train = require_matrix(getattr(self, kind), kind)
            test = require_matrix(getattr(self, f"test_{kind}"), f"test_{kind}")
            require_finite(train, f"{kind} of {self.name}")
            require_finite(test, f"test_{kind} of {self.name}")
            if train.shape[1] != test.shape[1]:
                raise DataError(
                    f"{kind} of {self.name} have {train.shape[1]} columns but test_{kind} have "
                    f"{test.shape[1]}; give both the same width"
                )
        if int(np.prod(self.input_shape)) != self.inputs.shape[1]:
            raise DataError(
                f"input_shape {self.input_shape} of {self.name} does not multiply to the "
                f"{self.inputs.shape[1]} input columns; make them agree"
            )
        for prefix in ("", "test_"):
            num_rows = len(getattr(self, f"{prefix}inputs"))
            for kind in ("targets", "labels"):
                rows = getattr(self, prefix + kind)
                if rows is not None and len(rows) != num_rows:
                    raise DataError(
                        f"{prefix}{kind} of {self.name} have {len(rows)} rows but {prefix}inputs "
                        f"have {num_rows}; give one row an input"
                    )

    @property
    def num_train(self) -> int:
        """Number of training rows N."""
        return self.inputs.shape[0]

    @property
    def num_test(self) -> int:
        """Number of test rows."""
        return self.test_inputs.shape[0]

    @property
    def input_dim(self) -> int:
        """Input width M_0."""
        return self.inputs.shape[1]

    @property
    def output_dim(self) -> int:
        """Number of outputs C."""
        return self.targets.shape[1]
