"""Checks that all builders of networks share."""

from ngd_theory.errors import InputError, shown


def require_size(name: str, size) -> int:
    """Return ``size`` as an int.

    Raises
    ------
    InputError
        Unless it is a whole number of at least 1.
    """
    try:
        whole = int(size) if int(size) == size else 0
    except (TypeError, ValueError, OverflowError):
        whole = 0
    if whole < 1:
        raise InputError(f"{name} is {shown(size)}; it must be a whole number of at least 1")
    return whole


def require_scales(weight_std: float, bias_std: float) -> tuple[float, float]:
    """Return both as floats.

    Raises
    ------
    InputError
        Unless sigma_w > 0 and sigma_b >= 0, both finite.
    """
    if not 0 < weight_std < float("inf"):
        raise InputError(f"weight_std is {weight_std}; it must be positive and finite")
    if not 0 <= bias_std < float("inf"):
        raise InputError(f"bias_std is {bias_std}; it must be zero or positive, and finite")
    return float(weight_std), float(bias_std)
