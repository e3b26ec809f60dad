"""Data sets of openml.org, through scikit-learn."""

import numpy as np

from ngd_theory.data.errors import DataError
from ngd_theory.data.raw import RawData, Request, Rows
from ngd_theory.data.sources.folders import data_folder


def load_openml(request: Request) -> RawData:
    """Fetch ``"openml:NAME"``, or version ``V`` of it as ``"openml:NAME@V"``.

    Needs the network, unless scikit-learn has it cached (in ``data_dir``, or its own folder).
    Targets that are words become classes, numbers become regression targets.

    Raises
    ------
    DataError
        If it cannot be fetched, or its features are not all numbers.
    """
    name, _, version = request.name.removeprefix("openml:").partition("@")
    if not name or (version and not version.isdigit()):
        raise DataError(f"{request.name!r} names no data set; write openml:NAME or openml:NAME@2")
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError("openml: needs scikit-learn; pip install scikit-learn") from error
    folder = data_folder(request.data_dir)
    try:
        inputs, y = datasets.fetch_openml(
            name,
            version=int(version) if version else "active",
            data_home=None if folder is None else str(folder),
            as_frame=False,
            return_X_y=True,
        )
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{request.name} could not be fetched ({reason}); check the network and the name, or "
            "save the data as a .npz file and give its path"
        ) from error
    if not isinstance(inputs, np.ndarray) or inputs.dtype.kind not in "fiub":
        raise DataError(f"{request.name} has sparse or non-numeric features; save numbers as .npz")
    origin = f"OpenML {name}" + (f" version {version}" if version else "")
    if y is None or y.ndim not in (1, 2):
        raise DataError(f"{request.name} has no targets; save the data with targets as .npz")
    if y.dtype.kind == "f":
        rows, class_names = Rows(inputs, y.reshape(len(y), -1)), ()
    elif y.ndim == 1:
        names, labels = np.unique(y.astype(str), return_inverse=True)
        rows, class_names = Rows(inputs, labels), tuple(names.tolist())
    else:
        raise DataError(f"{request.name} has several class targets; save one of them as .npz")
    return RawData(
        train=rows,
        test=None,
        input_shape=(inputs.shape[1],),
        origin=origin,
        class_names=class_names,
    )
