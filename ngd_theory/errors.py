"""Errors that tell a researcher what is wrong, where, and what to do about it."""


class NGDTheoryError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(NGDTheoryError, ValueError):
    """An argument has the wrong shape, value or name."""


class SingularKernelError(NGDTheoryError, ArithmeticError):
    """A kernel that a solve needs is not positive definite at the damping asked for."""


class NotPredictedError(NGDTheoryError, LookupError):
    """The theory states no value for what was asked (no isotropy constant, no closed form)."""


class MissingDependencyError(NGDTheoryError, ImportError):
    """A package that an optional part needs is not installed."""


def require_type(name, value, kind, advice):
    """Check the class of an argument.

    Raises
    ------
    InputError
        Unless ``value`` is a ``kind``; ``advice`` says how to get one.
    """
    if not isinstance(value, kind):
        plain = isinstance(value, str | int | float | None)
        shown = repr(value) if plain else f"a {type(value).__name__}"
        raise InputError(f"{name} is {shown}; it must be of type {kind.__name__}: {advice}")


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
        raise InputError(f"unknown {what} {name!r}; choose one of: {known}") from None
