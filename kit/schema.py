"""Plain tables, as TOML gives them, become frozen dataclasses: every key known, every value of its declared type."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

from kit.errors import InputError


def near(word: str, known: Iterable[str]) -> str:
    """What a message says of an unknown key: the known ones that are near it, or all."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=4, cutoff=0.5)
    close = close or [key for key in known if word.rsplit(".", 1)[-1] in key][:4]
    return f" (near: {', '.join(close)})" if close else f" (there are: {', '.join(known)})"


def build(kind: type, values: Any, where: str = "") -> Any:
    """The dataclass `kind` from a table, its fields of plain types, dataclasses, or tuples of dataclasses.

    `where` is the table's own key with a dot. Raises InputError for unknown keys and values of the wrong type.
    """
    if not isinstance(values, dict):
        raise InputError(f"recipe key {where.rstrip('.')} must be a table, not {values!r}")
    hints = get_type_hints(kind)
    built = {}
    for key, value in values.items():
        if key not in hints:
            raise InputError(f"unknown recipe key {where + key!r}{near(key, hints)}")
        built[key] = _convert(hints[key], value, where + key)
    return kind(**built)


def _convert(kind: Any, value: Any, where: str) -> Any:
    if is_dataclass(kind):
        return build(kind, value, f"{where}.")  # type: ignore[arg-type]
    if get_args(kind):
        if not isinstance(value, list):
            raise InputError(f"recipe key {where} must be a list of tables, written as [[{where}]]")
        return tuple(_convert(get_args(kind)[0], item, f"{where}.{i}") for i, item in enumerate(value))
    if kind is float and type(value) is int:
        return float(value)
    if kind is float and type(value) is float and not math.isfinite(value):
        raise InputError(f"recipe key {where} must be a finite number, not {value}")
    if type(value) is not kind:
        raise InputError(f"recipe key {where} must be of type {kind.__name__}, not {value!r}")
    return value
