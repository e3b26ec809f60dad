"""The classes that a user names, and the targets made from their labels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from ngd_theory.data.errors import DataError
from ngd_theory.errors import shown

CODINGS = ("centred", "one-hot")


def resolve_classes(
    class_names: Sequence[str], classes: Sequence[object] | None, where: str
) -> tuple[int, ...]:
    """Positions in ``class_names`` of the wanted classes, in the wanted order.

    Parameters
    ----------
    class_names : sequence of str
        The classes that exist.
    classes : sequence, optional
        Names, or positions where the names are words (``3`` is ``"cat"`` in CIFAR-10); all
        classes if None.
    where : str
        The source, for the error.

    Raises
    ------
    DataError
        If a class is unknown or repeated, or fewer than two remain.
    """
    if classes is None:
        positions = tuple(range(len(class_names)))
    elif isinstance(classes, str) or not isinstance(classes, Sequence):
        raise DataError(f"classes is {shown(classes)}; give a list of at least two, e.g. (0, 1)")
    else:
        positions = tuple(_position(class_names, name, where) for name in classes)
    if len(set(positions)) != len(positions):
        raise DataError(f"classes {list(classes or ())} name a class twice; name each once")
    if len(positions) < 2:
        raise DataError(
            f"{len(positions)} class asked for from {where}; name at least two of "
            f"{_listing(class_names)}"
        )
    return positions


def encode_labels(
    labels: Int[np.ndarray, " N"], num_classes: int, coding: str, output_dim: int | None = None
) -> Float[np.ndarray, "N C"]:
    """Targets of class labels 0 ... num_classes - 1.

    ``"centred"``, for the squared error: two classes give one column, -1/2 for the first class
    and +1/2 for the second; more classes give C columns, one-hot minus 1/C, so a row sums to 0
    (two classes do so too with ``output_dim=2``). ``"one-hot"``, for the cross-entropy: C columns
    of 0 and 1, also for two classes.

    Raises
    ------
    DataError
        If ``coding`` is unknown or ``output_dim`` does not fit it.
    """
    if coding not in CODINGS:
        raise DataError(f"targets is {shown(coding)}; choose one of {', '.join(CODINGS)}")
    single = num_classes == 2 and coding == "centred"
    allowed = (1, 2) if single else (num_classes,)
    if output_dim is not None and output_dim not in allowed:
        raise DataError(
            f"output_dim is {output_dim} but {num_classes} classes with {coding} targets have "
            f"{' or '.join(map(str, allowed))} outputs; leave it out or make it fit"
        )
    if single and output_dim != 2:
        return labels[:, None] - 0.5
    one_hot = np.eye(num_classes)[labels]
    return one_hot if coding == "one-hot" else one_hot - 1 / num_classes


def _position(class_names: Sequence[str], name: object, where: str) -> int:
    if str(name) in class_names:
        return list(class_names).index(str(name))
    words = not any(known.lstrip("-").isdigit() for known in class_names)
    if words and isinstance(name, int | np.integer) and not isinstance(name, bool):
        if 0 <= name < len(class_names):
            return int(name)
    raise DataError(f"{where} has no class {shown(name)}; its classes are {_listing(class_names)}")


def _listing(class_names: Sequence[str]) -> str:
    shown = ", ".join(class_names[:30])
    return shown if len(class_names) <= 30 else f"{shown}, ... ({len(class_names)} in all)"
