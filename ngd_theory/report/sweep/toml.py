"""A study as the TOML file that gives it back."""

import json
import re
from typing import Any

from ngd_theory.sweeps import AnyStudy


def to_toml(study: AnyStudy) -> str:
    """TOML that `ngd_theory.sweeps.read` reads as an equal study; defaults are left out."""
    values = study.model_dump(mode="json", exclude_defaults=True)
    tables = {name: values.pop(name) for name in list(values) if isinstance(values[name], dict)}
    lists = {
        name: values.pop(name)
        for name, value in list(values.items())
        if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value)
    }
    blocks = [_lines(values)]
    blocks += [f"[{name}]\n{_lines(table)}" for name, table in tables.items()]
    for name, entries in lists.items():
        blocks += [f"[[{name}]]\n{_lines(entry)}" for entry in entries]
    return "\n\n".join(blocks) + "\n"


def _lines(table: dict[str, Any]) -> str:
    return "\n".join(f"{_key(name)} = {_value(value)}" for name, value in table.items())


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{ "
            + ", ".join(f"{_key(name)} = {_value(entry)}" for name, entry in value.items())
            + " }"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    # JSON's other values are TOML's, but that TOML has no surrogate pairs and wants DEL escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
