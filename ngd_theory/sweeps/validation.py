"""Errors of pydantic as messages about a file."""

import json
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ngd_theory.errors import InputError


def listed(value: Any) -> Any:
    """A list as a tuple, and a single value as a tuple of one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def error_lines(
    error: ValidationError,
    model: type[BaseModel] | None = None,
    places: dict[str, str] | None = None,
) -> Iterator[str]:
    """A line for each thing that is wrong: key, value and what is allowed.

    Parameters
    ----------
    error : pydantic.ValidationError
    model : pydantic model, optional
        What was read; its fields are listed where a key is unknown.
    places : dict, optional
        Place in the file for the first part of a key.
    """
    for e in error.errors():
        message = str(e.get("ctx", {}).get("error", e["msg"]))
        loc = [str(part) for part in e["loc"]]
        if places and loc:
            loc[0] = places.get(loc[0], loc[0])
        if e["type"] == "extra_forbidden":
            known = _fields(model, loc[:-1])
            meant = "".join(f"; did you mean {k!r}?" for k in get_close_matches(loc[-1], known, 1))
            message = f"unknown key{meant or ';'} allowed: {', '.join(known)}"
        if e["type"] == "missing":
            yield f"{'.'.join(loc)} is missing"
        elif loc and not isinstance(e["input"], dict):
            yield f"{'.'.join(loc)} = {json.dumps(e['input'], default=str)}: {message}"
        elif loc:
            yield f"{'.'.join(loc)}: {message}"
        else:
            yield message


class InWords(type(BaseModel)):
    """Metaclass of a study: errors are `InputError`, also if the study is made from Python and not from a file."""

    def __call__(cls, *args: Any, **values: Any) -> Any:
        """Make the object."""
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            model: Any = cls
            raise InputError("; ".join(error_lines(error, model))) from None


def _fields(model: type[BaseModel] | None, path: list[str]) -> list[str]:
    """Field names of the model to which ``path`` leads. A number in it is a place in a list."""
    for part in path:
        if model is not None and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation)
    return list(model.model_fields) if model is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in get_args(annotation) if (found := _model_in(a))), None)
