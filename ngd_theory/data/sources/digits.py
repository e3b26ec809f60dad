"""The 1,797 handwritten 8 x 8 digits that scikit-learn carries."""

import numpy as np

from ngd_theory.data.errors import DataError
from ngd_theory.data.raw import RawData, Request, Rows


def load_digits(request: Request) -> RawData:
    """Scikit-learn's digits; no test set of its own."""
    del request
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError("digits needs scikit-learn; pip install scikit-learn") from error
    inputs, labels = datasets.load_digits(return_X_y=True)
    return RawData(
        train=Rows(np.asarray(inputs), np.asarray(labels, dtype=np.int64)),
        test=None,
        input_shape=(8, 8, 1),
        origin="digits (scikit-learn)",
        class_names=tuple(str(digit) for digit in range(10)),
        maximum=16.0,
    )
