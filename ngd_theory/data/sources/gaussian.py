"""Gaussian inputs with random targets: the setting of the theory."""

import numpy as np

from ngd_theory.data.errors import DataError
from ngd_theory.data.raw import RawData, Request, Rows


def load_gaussian(request: Request) -> RawData:
    """Draw inputs N(0, 1) and targets +-1/2, or random balanced classes for one-hot targets.

    Every entry is independent; training and test rows come from separate random streams, so the
    training rows do not depend on ``num_test``.

    Raises
    ------
    DataError
        If ``input_dim`` or ``output_dim`` is missing.
    """
    input_dim = _required(request.input_dim, "input_dim")
    output_dim = _required(request.output_dim, "output_dim")
    pools = [
        _draw(request, num_rows, input_dim, output_dim, stream)
        for stream, num_rows in enumerate((request.num_train, request.num_test))
    ]
    one_hot = request.targets == "one-hot"
    return RawData(
        train=pools[0],
        test=pools[1],
        input_shape=(input_dim,),
        origin="gaussian (seeded)",
        class_names=tuple(str(k) for k in range(output_dim)) if one_hot else (),
        is_standard=True,
    )


def _required(value: int | None, name: str) -> int:
    if value is None:
        raise DataError(f"gaussian needs {name}; give a whole number of at least 1")
    return value


def _draw(request: Request, num_rows: int, input_dim: int, output_dim: int, stream: int) -> Rows:
    inputs_rng, targets_rng = (
        np.random.default_rng((request.seed, stream, part)) for part in range(2)
    )
    inputs = inputs_rng.standard_normal((num_rows, input_dim))
    if request.targets == "one-hot":
        labels = targets_rng.permutation(np.arange(num_rows) % output_dim)
        return Rows(inputs, labels)
    signs = targets_rng.integers(0, 2, size=(num_rows, output_dim))
    return Rows(inputs, signs - 0.5)
