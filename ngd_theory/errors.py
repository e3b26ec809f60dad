"""Errors that tell a researcher what is wrong, where, and what to do about it."""


class NGDTheoryError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(NGDTheoryError, ValueError):
    """An argument has the wrong shape, value or name."""


class SingularKernelError(NGDTheoryError, ArithmeticError):
    """A kernel that a solve needs is not positive definite at the given damping."""


class NotPredictedError(NGDTheoryError, LookupError):
    """The theory states no value for what was asked (no isotropy constant, no closed form)."""


class MissingDependencyError(NGDTheoryError, ImportError):
    """A package that an optional part needs is not installed."""


def shown(value) -> str:
    """Describe a value in a few words, for an error message."""
    if isinstance(value, str | int | float | complex | None):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of {value.dtype} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def require_type(name, value, kind, advice):
    """Check the class of an argument.

    Raises
    ------
    InputError
        Unless ``value`` is a ``kind``; ``advice`` says how to get one.
    """
    if not isinstance(value, kind):
        raise InputError(f"{name} is {shown(value)}; it must be of type {kind.__name__}: {advice}")


def choose(table, name, what):
    """Look ``name`` up in ``table``; an unknown name lists the known ones.

    Raises
    ------
    InputError
        If ``table`` has no such key.
    """
    try:
        return table[name]
    except (KeyError, TypeError):
        known = ", ".join(map(str, table))
        raise InputError(f"unknown {what} {shown(name)}; choose one of: {known}") from None


def is_exhausted(error: Exception) -> bool:
    """Whether memory ran out, in Python or in JAX, which raises a RuntimeError with a code in its text."""
    exhausted = isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    return exhausted or isinstance(error, MemoryError)


def is_foreseen(error: Exception) -> bool:
    """Whether the input or the machine caused an error. All other errors are faults of this package."""
    return isinstance(error, NGDTheoryError | OSError) or is_exhausted(error)
