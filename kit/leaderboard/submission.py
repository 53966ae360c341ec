"""The submission file: built from masks, and checked line by line before one of the day's few uploads goes on it."""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kit import runs
from kit.data import rle
from kit.data.competition import TGS, Competition
from kit.errors import InputError
from kit.scoring.metric import mean_average_precision

# What a submission is held against: sample_submission.csv (its path), its ids in order, or the competition alone,
# which knows the columns and the tile's size but no ids. The first two mean the Salt competition.
Sample = Competition | Path | str | Sequence[str]


class SubmissionError(InputError):
    """A submission that Kaggle would refuse or score wrongly. One line: file, line, id, what is wrong, the mend."""


class _Rules(NamedTuple):
    columns: list[str]
    shape: tuple[int, int]
    ids: list[str] | None  # in order; None where any will do


class _Table(NamedTuple):
    lines: list[int]  # the line of the file that each row ends on, from 1; row 0 is the header
    rows: list[list[str]]


def build(ids: Sequence[str], masks: np.ndarray, sample: Sample) -> str:
    """The text of a submission, rows in the sample's order, from masks bool (N, H, W) in the order of ids (N,).

    Raises SubmissionError where ids and sample do not name the same tiles, or the masks are not of the tile's size.
    """
    rules = _rules(sample)
    if masks.shape != (len(ids), *rules.shape):
        raise SubmissionError(
            f"masks of shape {masks.shape} for {len(ids)} ids: give each id one mask of {rules.shape}, padding cut off"
        )
    name, count = Counter(ids).most_common(1)[0] if len(ids) else ("", 0)
    if count > 1:
        raise SubmissionError(f"id {name!r} has {count} masks: give each tile one")
    texts = dict(zip(ids, rle.encode_many(masks), strict=True))
    wanted = list(texts) if rules.ids is None else rules.ids
    known = set(wanted)
    for name in wanted:
        if name not in texts:
            raise SubmissionError(f"id {name!r} of the sample has no mask: predict every test tile")
    for name in texts:
        if name not in known:
            raise SubmissionError(f"id {name!r} is not in the sample: predict the test tiles of the same data")
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(rules.columns)
    table.writerows((name, texts[name]) for name in wanted)
    return buffer.getvalue()


def write(path: Path | str, ids: Sequence[str], masks: np.ndarray, sample: Sample) -> None:
    """`build` a submission and write it whole or not at all."""
    runs.write_text(path, build(ids, masks, sample))


def write_of_run(name: str, ids: Sequence[str], masks: np.ndarray, sample: Sample) -> Path:
    """Write the submission of a run into submissions/ under its own name, and return its path."""
    text = build(ids, masks, sample)
    path = Path("submissions") / file_name(name, text)
    runs.write_text(path, text)
    return path


def score(path: Path | str, answers: Path | str) -> float:
    """The competition's score of a submission against a file of answers in the same format and order."""
    (_, (_, *rows)), (_, (_, *truth)) = _read(path), _read(answers)
    for each in (path, answers):
        validate(each, TGS)
    masks = [rle.decode_many([cells[1] for cells in table], TGS.tile_shape) for table in (rows, truth)]
    if [cells[0] for cells in rows] != [cells[0] for cells in truth]:
        raise SubmissionError(
            f"{path} and {answers} do not hold the same ids in one order: give those of the same data"
        )
    return mean_average_precision(*masks)


def content_hash(text: str) -> str:
    """SHA-256, in hex, of a submission's rows sorted by id: their order, line ends and quotes do not change it."""
    rows = sorted(csv.reader(io.StringIO(text, newline="")))
    return hashlib.sha256("\n".join(map(",".join, rows)).encode()).hexdigest()


def file_name(name: str, text: str) -> str:
    """DATE_NAME_HASH8.csv: today in UTC, as Kaggle counts days; the run's name; the start of `content_hash`."""
    plain = re.sub(r"[^\w.-]+", "-", name)
    return f"{datetime.now(UTC):%Y-%m-%d}_{plain}_{content_hash(text)[:8]}.csv"


def validate(path: Path | str, sample: Sample) -> None:
    """Return if the submission at `path` is sound, else raise SubmissionError naming its first bad line and the mend.

    Checked are encoding, columns, cells, ids (none missing, extra or twice, in the sample's order) and runs (whole
    numbers in pairs, sorted, not overlapping, inside the tile). With a Competition for a sample any ids will do.
    """
    rules = _rules(sample)
    lines, rows = _read(path)
    if rows[0] != rules.columns:
        raise SubmissionError(
            f"{path}, line 1: the columns are {','.join(rows[0])!r}: make them {','.join(rules.columns)!r}"
        )
    lines, rows = [*lines[1:], lines[-1] + 1], rows[1:]  # a row that lacks at the end would be on the line after it
    fault = _first_fault(rows, rules)
    sound = rows if fault is None else rows[: fault[0]]
    try:  # a bad run before that fault comes first
        rle.parse([text for _, text in sound], rules.shape)
    except rle.RunLengthError as error:
        fault = error.index, f"id {rows[error.index][0]!r}: {error.reason}"
    if fault is not None:
        index, problem = fault
        raise SubmissionError(f"{path}, line {lines[index]}, {problem}")


def _first_fault(rows: list[list[str]], rules: _Rules) -> tuple[int, str] | None:
    """The index of the first row whose cells or id are wrong, and what is wrong; it is len(rows) when rows lack."""
    present = {cells[0] for cells in rows if cells}
    known = set(rules.ids or ())
    seen: set[str] = set()
    for index, cells in enumerate(rows):
        if len(cells) != len(rules.columns):
            return index, f"{len(cells)} cells: write an id and its runs, or delete the line"
        name = cells[0]
        if name in seen:
            return index, f"id {name!r} is here for the second time: delete one of its lines"
        if rules.ids is not None:
            if name not in known:
                return index, f"id {name!r} is not in the sample: delete the line"
            if name != (expected := rules.ids[index]):
                return index, _displaced(name, expected, present)
        seen.add(name)
    if rules.ids is not None and len(rows) < len(rules.ids):
        return len(
            rows
        ), f"id {rules.ids[len(rows)]!r} is missing: add its line, with nothing after the comma for no salt"
    return None


def _displaced(name: str, expected: str, present: set[str]) -> str:
    if expected in present:
        return f"id {name!r} stands where the sample has {expected!r}: put the lines in the sample's order"
    return f"id {expected!r} is missing: add its line before that of {name!r}, with nothing after the comma for no salt"


def _rules(sample: Sample) -> _Rules:
    if isinstance(sample, Competition):
        return _Rules(list(sample.columns), sample.tile_shape, None)
    if isinstance(sample, Path | str):
        _, (_, *rows) = _read(sample)
        return _Rules(list(TGS.columns), TGS.tile_shape, [cells[0] for cells in rows if cells])
    return _Rules(list(TGS.columns), TGS.tile_shape, [str(name) for name in sample])


def _read(path: Path | str) -> _Table:
    """The rows of a CSV file, at least one, each with its line. Raises SubmissionError where it is no text table."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise SubmissionError(f"{path} is missing: check the path") from None
    except OSError as error:
        raise SubmissionError(f"{path} cannot be read ({error.strerror}): give the path of a CSV file") from None
    if content.startswith(b"\xef\xbb\xbf"):
        raise SubmissionError(f"{path}, line 1 begins with a byte order mark: save the file as UTF-8 without one")
    try:
        reader = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
        table = _Table([], [])
        for row in reader:
            if reader.line_num != (table.lines[-1] if table.lines else 0) + 1:
                line = table.lines[-1] + 1
                raise SubmissionError(f"{path}, line {line}: a quoted cell spans lines: write id,runs without quotes")
            table.lines.append(reader.line_num)
            table.rows.append(row)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SubmissionError(f"{path}, line {line} is not UTF-8: save the file as CSV in UTF-8") from None
    except csv.Error as error:
        raise SubmissionError(
            f"{path}, line {(table.lines or [0])[-1] + 1} is not CSV ({error}): write id,runs without quotes"
        ) from None
    if not table.rows:
        raise SubmissionError(f"{path} is empty: build it again")
    return table
