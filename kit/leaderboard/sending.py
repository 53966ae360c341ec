"""A submission sent once and surely: checked before it costs anything, known again by its content, waited for.

Each carries a tag of its own in its description. Whatever was cut, and by whatever, the tag says whether it arrived.
"""

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kit.data.competition import TGS
from kit.errors import InputError, RefusedError, UnreachableError
from kit.leaderboard import submission, transfer
from kit.leaderboard.client import Client, poll
from kit.leaderboard.ledger import OPEN, TAKEN, Ledger, Record

PATIENCE = 12 * 3600  # seconds that a score is waited for
_TAG = re.compile(r"\bkit-[0-9a-f]{12}-\d+\b")


@dataclass(frozen=True)
class Parcel:
    """What is to be submitted: a file, or the output of a kernel's version. Made by `of_file` or `of_kernel`."""

    content: str  # a hash: what was submitted already is known by it
    message: str
    file: str = ""
    kernel: str = ""  # owner/slug/version
    run: str = ""
    oof: float | None = None
    queued: bool = False

    def facts(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value not in ("", None, False)}


def of_file(path: Path, message: str = "", run: str = "", oof: float | None = None) -> Parcel:
    """A submission file, validated before. oof: the out-of-fold score of the run that it was made of."""
    return Parcel(content_of(path), message or path.stem, str(path), run=run, oof=oof)


def of_kernel(kernel: str, version: int, message: str = "", run: str = "", oof: float | None = None) -> Parcel:
    """The output submission.csv of a version of a kernel "owner/slug". Raises InputError for another form."""
    if not re.fullmatch(r"[\w-]+/[\w-]+", kernel) or version < 1:
        raise InputError(f"{kernel!r} version {version} is no kernel: write owner/slug and a version from 1")
    name = f"{kernel}/{version}"
    return Parcel(hashlib.sha256(name.encode()).hexdigest(), message or name, kernel=name, run=run, oof=oof)


def check(client: Client, count: int, kernel: bool = False) -> str:
    """Whether `count` submissions would be taken now, before anything is sent; returns a remark, or nothing.

    Raises RefusedError: rules not accepted, submissions closed, kernels only, too few left today.
    """
    facts = client.ask("GetCompetition", competitionName=TGS.slug)
    if not facts.user_has_entered:
        raise RefusedError(f"you have not entered: accept the rules at https://www.kaggle.com/c/{TGS.slug}/rules")
    if facts.submissions_disabled:
        raise RefusedError(f"{TGS.title} takes no submissions any more")
    if facts.is_kernels_submissions_only and not kernel:
        raise RefusedError("only kernels are taken here: python scripts/push_kernel.py --wait --submit")
    limits = client.ask("GetSubmissionLimits", competitionName=TGS.slug)
    if limits.num_allowed_now < count:
        wait = "there are no more for this team" if limits.limited_by_total else f"more {_tomorrow()}, or --queue"
        raise RefusedError(f"{limits.num_allowed_now} of the day's submissions left, {count} wanted: {wait}")
    late = facts.deadline is not None and facts.deadline < datetime.now(UTC).replace(tzinfo=None)
    return f"the deadline was {facts.deadline:%Y-%m-%d}: it will be scored, not ranked" if late else ""


def refuse_known(ledger: Ledger, parcel: Parcel, states: tuple[str, ...] = TAKEN) -> None:
    """Raises InputError, with the score, where the ledger has this content in one of the states."""
    for record in ledger.of(parcel.content):
        if record.state in states:
            raise InputError(f"the same content was submitted as {record.in_words()} ({record.what}): submit another"
                             if record.state in TAKEN else f"the same content is {record.state} already")  # fmt: skip


def cut_off(ledger: Ledger, parcel: Parcel) -> bool:
    """Whether sending this content began before and never came to an end, so that Kaggle may have it."""
    return [record.state for record in ledger.of(parcel.content)][-1:] == ["intent"]


def send(client: Client, ledger: Ledger, parcel: Parcel) -> Record:
    """Submit, once whatever happens, and return the record with Kaggle's reference; its score comes later.

    A submission that was cut off before is gone on with: it is looked for first. Raises InputError where this content
    was submitted already, RefusedError, and UnreachableError, after which a new call finds out.
    """
    with ledger.sending():
        refuse_known(ledger, parcel)
        earlier = ledger.of(parcel.content)
        going_on = earlier[-1].tag if earlier and earlier[-1].state in OPEN else None
        theirs = [row for row in listed(client) if _tag_of(row).startswith(_tag(parcel, ""))]
        for row in theirs:
            if _tag_of(row) == going_on:
                return note(ledger, adopt(ledger, row, **parcel.facts()), row)
            if row.status.name != "ERROR" and row.ref not in {record.ref for record in earlier}:
                record = note(ledger, adopt(ledger, row, **parcel.facts()), row)
                raise InputError(f"the same content was submitted from elsewhere as {record.in_words()}")
        check(client, 1, bool(parcel.kernel))
        tags = [record.tag for record in earlier] + [_tag_of(row) for row in theirs]
        return _send(client, ledger, parcel, going_on or new_tag(parcel, tags))


def _send(client: Client, ledger: Ledger, parcel: Parcel, tag: str) -> Record:
    def found() -> Any:
        try:
            return next((row for row in listed(client) if _tag_of(row) == tag), None)
        except RefusedError as error:  # a no to this question is none to the submission
            raise UnreachableError(f"it may have arrived ({error}): submit it again, it is looked for first") from None

    message = re.sub(r"[^ -~]|[|/]", "-", parcel.message)[:200]  # Kaggle has refused others, and might cut off the tag
    fields: dict[str, Any] = {"competitionName": TGS.slug, "submissionDescription": f"{message} {tag}"}
    if parcel.kernel:
        method, (owner, slug, version) = "CreateCodeSubmission", parcel.kernel.split("/")
        fields |= {"kernelOwner": owner, "kernelSlug": slug, "kernelVersion": int(version)}
        fields["fileName"] = "submission.csv"
    else:
        method, fields["blobFileTokens"] = "CreateSubmission", _upload(client, Path(parcel.file), parcel.content)
    ledger.add(tag, "intent", **parcel.facts())
    try:
        answer = client.once(method, found, **fields)
    except RefusedError as error:
        ledger.add(tag, "refused", error=str(error))
        raise
    if not answer.ref:
        raise UnreachableError("Kaggle took it but gave it no number: submit it again, it is looked for first")
    return ledger.add(tag, "sent", ref=answer.ref, date=_now())


def _upload(client: Client, path: Path, content: str) -> str:
    stat = path.stat()
    token = transfer.upload(
        lambda: client.ask("StartSubmissionUpload", competitionName=TGS.slug, fileName=path.name,
                           contentLength=stat.st_size, lastModifiedEpochSeconds=int(stat.st_mtime)),
        path,
    )  # fmt: skip
    if content_of(path) != content:
        raise InputError(f"{path} changed while it was sent, and nothing was submitted: submit it again")
    return token


def wait(client: Client, ledger: Ledger, record: Record) -> Record:
    """Ask for the score until it is there, or the error. Raises UnreachableError after PATIENCE seconds."""

    def look() -> Record | None:
        now = note(ledger, record, client.ask("GetSubmission", ref=record.ref))
        return None if now.state == "sent" else now

    found = poll(look, PATIENCE)
    if found is None:
        raise UnreachableError(f"{record.ref} is pending for {PATIENCE // 3600} hours: later, submit.py --status")
    return found


def refresh(client: Client, ledger: Ledger) -> None:
    """Bring the ledger up to Kaggle's list: what was pending or cut off, and submissions made elsewhere."""
    records = {record.tag: record for record in ledger.records()}
    by_ref = {record.ref: record for record in records.values()}
    for row in reversed(list(listed(client))):
        record = by_ref.get(row.ref)
        if record is None:
            cut_off = _tag_of(row) in records
            record = adopt(ledger, row, **({} if cut_off else {"message": row.description, "file": row.file_name}))
        note(ledger, record, row)


def new_tag(parcel: Parcel, taken: Iterable[str]) -> str:
    """A tag of the parcel's content that was not used yet: a submission that ended in error may be tried again."""
    numbers = [int(tag.rpartition("-")[2]) for tag in taken]
    return _tag(parcel, max(numbers, default=0) + 1)


def _tag(parcel: Parcel, number: object) -> str:
    return f"kit-{parcel.content[:12]}-{number}"


def listed(client: Client) -> Iterator[Any]:
    """The team's submissions on Kaggle, the newest first."""
    for answer in client.pages("ListSubmissions", competitionName=TGS.slug):
        yield from answer.submissions


def adopt(ledger: Ledger, row: Any, **facts: Any) -> Record:
    """Enter a submission that Kaggle has and the ledger has not, or not yet as sent."""
    date = row.date.isoformat(timespec="seconds") if row.date else ""
    return ledger.add(_tag_of(row), "sent", ref=row.ref, date=date, **facts)


def note(ledger: Ledger, record: Record, row: Any) -> Record:
    """Write down what Kaggle says of a submission, where that is news."""
    news: dict[str, Any] = {}
    if row.status.name == "ERROR":
        news = {"state": "error", "error": " ".join(row.error_description.split()) or "Kaggle gives no reason"}
    elif row.status.name == "COMPLETE":
        news = {"state": "complete", "public": _score(row.public_score), "private": _score(row.private_score)}
    if not news or replace(record, **news) == record:
        return record
    return ledger.add(record.tag, **news)


def _score(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _tag_of(row: Any) -> str:
    found = _TAG.search(row.description)
    return found[0] if found else f"ref-{row.ref}"


def content_of(path: Path) -> str:
    """What a submission file is known by: `submission.content_hash`. Raises SubmissionError."""
    try:
        return submission.content_hash(path.read_text())
    except (OSError, ValueError, csv.Error) as error:
        raise submission.SubmissionError(f"{path} cannot be read ({type(error).__name__}): build it again") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _tomorrow() -> str:
    now = datetime.now(UTC)
    left = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0) - now
    return f"at 00:00 UTC, in {left.total_seconds() / 3600:.1f} h"
