"""The recipe's `salt` switches as every decoder looks at them: which are set, and whether their values can be."""

import math
from collections.abc import Collection
from dataclasses import fields

from kit.errors import InputError
from kit.recipe import Salt


def foreign(options: Salt, known: Collection[str] = ()) -> list[str]:
    """The keys, such as "salt.scse", that are not at their defaults and are not among the `known` names."""
    changed = [item.name for item in fields(Salt) if getattr(options, item.name) != item.default]
    return [f"salt.{name}" for name in changed if name not in known]


def check_numbers(options: Salt) -> None:
    """Raises InputError for a dropout that is no share, and for weights of heads that are no weights."""
    if not 0 <= options.dropout < 1:
        raise InputError(f"recipe key salt.dropout must be 0 or more and below 1, not {options.dropout}")
    for name in ("deep", "empty", "nonempty"):
        if not 0 <= getattr(options, name) < math.inf:
            raise InputError(f"recipe key salt.{name} must be 0 (no such head) or more, not {getattr(options, name)}")
