"""What was submitted, with which score: submissions/ledger.jsonl, one line for each thing that happened, only added to.

A submission is known by its tag, which stands in its description on Kaggle too. Its lines, laid over one another, are
its record. States: queued, intent (Kaggle is being asked, the answer is not yet here), sent, complete, error (on
Kaggle), refused (Kaggle took nothing).
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

from kit import runs
from kit.errors import InputError

PATH = Path("submissions") / "ledger.jsonl"
OPEN, TAKEN = ("queued", "intent"), ("sent", "complete")  # still to be sent; Kaggle has it, and a slot is used


@dataclass(frozen=True)
class Record:
    """The present state of one submission. Scores are Kaggle's, oof the run's out-of-fold score; None: not known."""

    tag: str
    state: str
    time: str  # UTC, of the last line
    content: str = ""  # what is compared: the hash of the rows sorted by id, or of the kernel's version
    message: str = ""
    file: str = ""
    kernel: str = ""  # owner/slug/version of a code submission
    run: str = ""
    oof: float | None = None
    queued: bool = False  # it is the queue's to send, whatever happened since
    ref: int | None = None  # Kaggle's number
    date: str = ""  # UTC, when it was sent
    public: float | None = None
    private: float | None = None
    error: str = ""

    @property
    def what(self) -> str:
        return self.run or self.kernel or self.file or self.message

    def in_words(self) -> str:
        scores = {"public": self.public, "private": self.private}
        known = [f"{name} {value:.5f}" for name, value in scores.items() if value is not None]
        return ": ".join(filter(None, [f"{self.ref} {self.state}", ", ".join(known), self.error]))


FACTS = get_type_hints(Record)  # name -> type


class Ledger:
    """The ledger of one folder; the file need not exist."""

    def __init__(self, path: Path = PATH):
        self.path = path

    def records(self) -> list[Record]:
        """Every submission, in the order of its first line. Raises InputError, naming the line, for a damaged file."""
        merged: dict[str, dict[str, Any]] = {}
        for line in self._lines():
            merged.setdefault(line["tag"], {}).update(line)
        return [Record(**facts) for facts in merged.values()]

    def record(self, tag: str) -> Record:
        return next(record for record in self.records() if record.tag == tag)

    def of(self, content: str) -> list[Record]:
        """The submissions of one content, in the order of their first lines."""
        return [record for record in self.records() if record.content == content]

    def add(self, tag: str, state: str, **facts: Any) -> Record:
        """Add a line, safe on the disk before this returns, and return the record that it makes."""
        line = {"tag": tag, "state": state, "time": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
        if unknown := line.keys() - FACTS.keys():
            raise TypeError(f"a record has no {', '.join(unknown)}")
        with self._locked("ledger"), open(self.path, "ab+") as file:
            sound = self._mend(file)
            try:
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:  # a full disk
                file.truncate(sound)
                raise
        return self.record(tag)

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Hold this while a submission is sent: of two processes the second sees what the first did."""
        with self._locked("sending"):
            yield

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with runs.exclusive(self.path.with_name(f".{name}.lock")):
            yield

    @staticmethod
    def _mend(file: Any) -> int:
        """Cut off a last line that was never finished, and say where the sound ones end."""
        file.seek(0)
        content = file.read()
        sound = content.rfind(b"\n") + 1
        if content[sound:] and _parsed(content[sound:]) is not None:  # whole, only its end is missing
            file.write(b"\n")
            return len(content) + 1
        file.truncate(sound)
        return sound

    def _lines(self) -> Iterator[dict[str, Any]]:
        content = self.path.read_bytes() if self.path.exists() else b""
        lines = content.split(b"\n")
        for number, text in enumerate(lines, start=1):
            line = _parsed(text)
            if line is not None:
                yield line
            elif text.strip() and number < len(lines):  # the last one may be torn: its writer was killed
                raise InputError(f"{self.path}, line {number} is no entry of a ledger: mend or delete that line")


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    sound = isinstance(line, dict) and {"tag", "state", "time"} <= line.keys() <= FACTS.keys()
    return line if sound and all(_fits(value, FACTS[name]) for name, value in line.items()) else None


def _fits(value: object, kind: Any) -> bool:
    return isinstance(value, kind) or (isinstance(value, int) and isinstance(0.0, kind))  # 1 is a float in JSON
