"""A run's CSV files as the report reads them: the columns that it needs are there and hold what they should."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from kit.errors import InputError

WHOLE, NUMBER, TEXT, FLAG = "whole numbers", "numbers", "text", "True or False"
_KINDS = {WHOLE: "iu", NUMBER: "iuf", TEXT: "O", FLAG: "b"}  # of numpy's types


def read(path: Path, needed: Mapping[str, str], others: Sequence[str] = ()) -> pd.DataFrame:
    """The table in a file, with a row at least.

    needed: what each column holds, WHOLE, NUMBER (may be unknown: NaN), TEXT or FLAG. others: columns of numbers that
    it may lack. Raises InputError, which names the file and the column.
    """
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}): restore or delete it") from None
    missing = [column for column in needed if column not in table]
    if missing or table.empty:
        raise InputError(f"{path} has no {f'column {missing[0]}' if missing else 'rows'}: restore or delete it")
    for column, what in {**needed, **{name: NUMBER for name in others if name in table}}.items():
        if table[column].dtype.kind not in _KINDS[what] or (what == TEXT and table[column].isna().any()):
            raise InputError(f"{path} is damaged (column {column} should hold {what}): restore or delete it")
    return table
