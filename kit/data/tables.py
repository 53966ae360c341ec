"""The competition's CSV files as columns of text, with the line of each row for messages."""

import csv
import io
from dataclasses import dataclass

from kit.data.archive import Folder
from kit.errors import InputError


@dataclass(frozen=True)
class Table:
    """Two columns of a CSV. `lines` are the rows' line numbers in the file, the header being line 1."""

    where: str
    ids: list[str]
    values: list[str]
    lines: list[int]

    def row(self, index: int) -> str:
        """How a message calls a row."""
        return f"{self.where} line {self.lines[index]} (id {plain(self.ids[index])})"


def plain(name: str) -> str:
    """An id as a message can show it on its one line."""
    return name if name.isprintable() and len(name) <= 40 else repr(name[:40])


def read(folder: Folder, name: str, columns: tuple[str, str]) -> Table | None:
    """The id column and one more of a CSV; other columns are ignored, ids stay text. None where there is no such file.

    Raises InputError for bytes that are no UTF-8 or no CSV, missing columns, rows of another length, duplicate ids.
    """
    where, data = f"{folder.where}/{name}", folder.file(name)
    if data is None:
        return None
    header, rows = _parse(data(), where)
    absent = [column for column in columns if header.count(column) != 1]
    if absent:
        raise InputError(
            f"{where} line 1: the columns are {', '.join(header)[:80] or 'none'}, "
            f"but {' and '.join(absent)} must be there once: restore the header {','.join(columns)}"
        )
    for line, row in rows:
        if len(row) != len(header):
            raise InputError(
                f"{where} line {line} (id {plain(row[0])}): {len(row)} values under {len(header)} columns: "
                "mend the row or download the file again"
            )
    ids, values = ([row[header.index(column)] for _, row in rows] for column in columns)
    table = Table(where, ids, values, [line for line, _ in rows])
    _refuse_duplicates(table)
    return table


def _parse(data: bytes, where: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 ({error}): download it again, or save it as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise InputError(f"{where} line {reader.line_num} is no CSV ({error}): download the file again") from None
    return (rows[0][1], rows[1:]) if rows else ([], [])


def _refuse_duplicates(table: Table) -> None:
    first: dict[str, int] = {}
    for index, name in enumerate(table.ids):
        if first.setdefault(name, index) != index:
            raise InputError(
                f"{table.row(index)}: the id stands already in line {table.lines[first[name]]}: remove one of the rows"
            )
