"""Checks of the arguments that users pass: types, taken from annotations, and whether numbers are finite."""

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, signature
from numbers import Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, ParamSpec, TypeVar, Union, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ngd_theory.errors import InputError, shown

P = ParamSpec("P")
R = TypeVar("R")


def is_known(value) -> bool:
    """Whether numbers can be read. Inside jit, vmap and grad only shapes are known."""
    return not isinstance(value, Tracer)


def is_number(value) -> bool:
    """Whether it is one real number: Python's, NumPy's, or an array of shape (). A bool is not.

    A whole number beyond the range of float is not one either.
    """
    if isinstance(value, Real):
        return not isinstance(value, bool) and _is_float(value)
    return getattr(value, "shape", None) == () and _holds(value, jnp.floating, jnp.integer)


def _is_float(value: Real) -> bool:
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_whole(value) -> bool:
    """Whether it is one whole number whose value is known: 3, 3.0, NumPy's or a concrete array's."""
    if type(value) is int:
        return True
    if not (is_number(value) and is_known(value)):
        return False
    return float(value).is_integer()


def is_array(value) -> bool:
    """Whether it has a shape and a type of numbers, as JAX's and NumPy's arrays do."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def is_floating(value) -> bool:
    """Whether it is an array of real floating numbers."""
    return is_array(value) and _holds(value, jnp.floating)


def is_real(value) -> bool:
    """Whether it is an array of real numbers, whole ones and truth values included."""
    return is_array(value) and _holds(value, jnp.floating, jnp.integer, jnp.bool_)


def _holds(value, *kinds) -> bool:
    dtype = getattr(value, "dtype", None)
    return dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in kinds)


def _is_key(value) -> bool:
    if _holds(value, jax.dtypes.prng_key):
        return value.shape == ()
    # A raw key: two numbers for threefry, four for rbg.
    return is_array(value) and _holds(value, jnp.uint32) and value.shape in ((2,), (4,))


def _whole(value) -> int:
    return operator.index(value) if isinstance(value, int | np.integer) else int(value)


def _is_sequence(value) -> bool:
    if isinstance(value, str | bytes | Mapping):
        return False
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0


class Kind(NamedTuple):
    """What an argument may be.

    Attributes
    ----------
    accepts : ``value -> bool``
    words : str
        What it must be, as in "it must be a number".
    convert : ``value -> value``, optional
        Converts to the one type that the function works with.
    each : Kind, optional
        What its entries may be, if it is a sequence.
    """

    accepts: Callable[[Any], bool]
    words: str
    convert: Callable[[Any], Any] | None = None
    each: "Kind | None" = None


#: Annotation -> what it accepts. Classes of this package say in ``made_by`` how to get one.
_KINDS: Mapping[Any, Kind] = {
    float: Kind(is_number, "a number"),
    int: Kind(is_whole, "a whole number", _whole),
    bool: Kind(lambda value: isinstance(value, bool | np.bool_), "True or False"),
    str: Kind(lambda value: isinstance(value, str), "a text"),
    **{
        kind: Kind(lambda value: isinstance(value, os.PathLike), "a path")
        for kind in (os.PathLike, Path)
    },
    jax.Device: Kind(lambda value: isinstance(value, jax.Device), "a device: jax.devices()[0]"),
    NoneType: Kind(lambda value: value is None, "None"),
    Callable: Kind(callable, "a function"),
    Sequence: Kind(_is_sequence, "a sequence, such as a list"),
    Iterable: Kind(_is_sequence, "a sequence, such as a list"),
}
_FLOATING = Kind(is_floating, "a floating array: jax.numpy.asarray(..., float)")
_ARRAY = Kind(is_array, "an array: jax.numpy.asarray(...)")
_KEY = Kind(_is_key, "a key: jax.random.key(0)")


def _kind(annotation) -> Kind | None:
    """What an annotation accepts; None if it restricts nothing."""
    origin = get_origin(annotation) or annotation
    if origin in (Union, UnionType):
        return _either([_kind(part) for part in get_args(annotation)])
    if (dtypes := getattr(annotation, "dtypes", None)) is not None:  # jaxtyping's
        return _FLOATING if isinstance(dtypes, Sequence) and "int32" not in dtypes else _ARRAY
    if annotation is jax.Array:
        return _ARRAY
    if (found := _KINDS.get(origin)) is not None:
        entries = get_args(annotation)[:1] if origin in (Sequence, Iterable) else ()
        return found._replace(each=_kind(entries[0])) if entries else found
    made_by = getattr(annotation, "made_by", None)
    if not isinstance(annotation, type) or made_by is None:
        return None
    return Kind(lambda v: isinstance(v, annotation), f"of type {annotation.__name__}: {made_by}")


def _either(kinds: Sequence[Kind | None]) -> Kind | None:
    known = [kind for kind in kinds if kind is not None]
    if len(known) < len(kinds):
        return None
    words = " or ".join(dict.fromkeys(kind.words for kind in known))
    whole = _KINDS[int] in known and _KINDS[float] not in known
    convert = (lambda v: _whole(v) if is_whole(v) else v) if whole else None
    each = next((kind.each for kind in known if kind.each is not None), None)
    return Kind(lambda value: any(kind.accepts(value) for kind in known), words, convert, each)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: check the types of arguments by their annotations, outside jit and inside.

    Numbers, whole numbers, arrays, paths, sequences and their entries, functions, objects of this package, and unions
    of them are checked. An argument called ``key`` must be a key. Whole numbers are converted to Python's int. An
    argument without annotation is not checked, and no value is read.

    Raises
    ------
    InputError
        By the decorated function, for an argument of another type; the message says what it is and what it must be.
    """
    named, positional = {}, []
    for parameter in signature(function).parameters.values():
        kind = _KEY if parameter.name == "key" else _kind(parameter.annotation)
        if kind is not None and parameter.default is None and not kind.accepts(None):
            kind = _either([kind, _KINDS[NoneType]])
        if kind is not None and parameter.kind is not Parameter.VAR_KEYWORD:
            named[parameter.name] = kind
        if parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
            positional.append(parameter.name)

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        first = [_taken(n, v, named.get(n)) for n, v in zip(positional, args, strict=False)]
        rest = args[len(first) :]
        options = {name: _taken(name, value, named.get(name)) for name, value in kwargs.items()}
        return function(*first, *rest, **options)  # pyright: ignore[reportCallIssue]

    return wrapped


def checked_fields(cls):
    """Class decorator of a dataclass: `checked` for the fields that make an object."""
    cls.__init__ = checked(cls.__init__)
    return cls


def _taken(name: str, value, kind: Kind | None):
    if kind is None:
        return value
    if not kind.accepts(value):
        where = "" if is_known(value) else " inside jit, vmap or grad"
        raise InputError(f"{name} is {shown(value)}{where}; it must be {kind.words}")
    # An iterator can be read only once, so it is left to the function.
    if kind.each is not None and isinstance(value, Sequence) and _is_sequence(value):
        for index, entry in enumerate(value):
            _taken(f"{name}[{index}]", entry, kind.each)
    return value if kind.convert is None else kind.convert(value)


def require_known(what: str, *values) -> None:
    """Raise `InputError` if a number in the trees ``values`` cannot be read; ``what`` names the reader."""
    if not all(map(is_known, jax.tree.leaves(values))):
        raise InputError(
            f"{what} needs the values of its arguments, which are unknown inside jit, vmap and grad: call it "
            "outside of them"
        )


def check_finite(name: str, values, advice: str = "clean the data first") -> None:
    """Check all numbers of an array or tree that can be read.

    Numbers on the host and on CPUs are read in place. Those on accelerators are reduced there, all leaves in one
    program.

    Raises
    ------
    InputError
        For a NaN, an infinity, or a number beyond the type that JAX gives the array; it names the first array with one.
    """
    if is_finite(values):
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(values):
        where = f"{name}{jax.tree_util.keystr(path)}"
        if not is_finite(leaf):
            check_range(where, leaf, jnp.result_type(leaf))
            raise InputError(f"{where} has a NaN or infinity{_place(leaf)}; {advice}")


def check_range(name: str, values, dtype, *, positive: bool = False) -> None:
    """Check that finite numbers, if they can be read, stay finite in the type in which they are used.

    Parameters
    ----------
    name : str
    values : number or array
    dtype : floating type
    positive : bool
        Whether a positive number must also stay positive.

    Raises
    ------
    InputError
        If a number is out of range; the message names it and the range.
    """
    there = is_known(values) and getattr(values, "is_fully_addressable", True)
    if not there or np.can_cast(getattr(values, "dtype", object), dtype):
        return
    limits, array = jnp.finfo(dtype), np.asarray(values if is_array(values) else float(values))
    smallest, largest = float(limits.tiny), float(limits.max)
    outside = (array < -largest) | (array > largest)
    # Compiled programs treat smaller numbers as zero.
    outside |= positive & (0 < array) & (array < smallest)
    outside &= np.isfinite(array)
    if np.any(outside):
        found = f"has the number {array[outside].flat[0]:g}" if array.ndim else f"is {array:g}"
        raise InputError(
            f"{name} {found}, beyond {jnp.dtype(dtype).name}, whose positive numbers are {smallest:.2g} to "
            f"{largest:.2g}: use float64, or scale"
        )


def _place(leaf) -> str:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return ""
    index = np.argwhere(~np.isfinite(np.asarray(leaf)))[0]
    return f" at index {tuple(int(i) for i in index)}" if len(index) else ""


def is_finite(values) -> bool:
    """Whether all numbers of an array or tree that can be read are finite, in the type that JAX gives them."""
    known = [leaf for leaf in jax.tree.leaves(values) if is_known(leaf)]
    known = [leaf for leaf in known if _has_numbers(leaf)]
    there = [leaf for leaf in known if not _is_on_host(leaf)]
    return all(map(_host_finite, filter(_is_on_host, known))) and (
        not there or bool(_device_finite(there))
    )


def _has_numbers(leaf) -> bool:
    return np.size(leaf) > 0 and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _is_on_host(leaf) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    return leaf.is_fully_addressable and all(d.platform == "cpu" for d in leaf.devices())


def _host_finite(leaf) -> bool:
    # Not isfinite of all entries, which would make an array of the same size.
    array = np.asarray(leaf)
    if array.dtype.kind == "c":
        return bool(np.isfinite(array).all())
    largest = float(jnp.finfo(jnp.result_type(array)).max)
    with np.errstate(invalid="ignore"):
        return bool(-largest <= array.min() and array.max() <= largest)


@jax.jit
def _device_finite(leaves):
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))
