"""Submissions that wait for a slot: the ledger's queued ones, sent best out-of-fold score first, as the day allows."""

from pathlib import Path

from kit.data.competition import TGS
from kit.errors import InputError, RefusedError
from kit.leaderboard.client import Client
from kit.leaderboard.ledger import OPEN, TAKEN, Ledger, Record
from kit.leaderboard.sending import Parcel, content_of, new_tag, refuse_known, send


def put(ledger: Ledger, parcel: Parcel) -> Record:
    """Queue a submission; nothing is asked of Kaggle. Raises InputError where its content is known already."""
    with ledger.sending():
        refuse_known(ledger, parcel, (*TAKEN, *OPEN))
        earlier = [record.tag for record in ledger.of(parcel.content)]
        return ledger.add(new_tag(parcel, earlier), "queued", **parcel.facts(), queued=True)


def waiting(ledger: Ledger) -> list[Record]:
    """What the queue has still to send, in its order."""
    records = [record for record in ledger.records() if record.queued and record.state in OPEN]
    return sorted(records, key=lambda record: -(record.oof if record.oof is not None else -1))


def work(client: Client, ledger: Ledger) -> list[Record]:
    """Send from the queue while there are slots; safe to be stopped at any moment and to be run twice at once.

    Returns what was sent, and what can never be: a file that is gone or changed, or one that Kaggle refused. Raises
    RefusedError, for other reasons than a day's limit, and UnreachableError; the queue then stays. InputError where
    there is no ledger: a cron line that runs in another folder must not pass for an empty queue.
    """
    if not ledger.path.exists():
        raise InputError(f"{ledger.path.absolute()} is not there, so nothing was queued here: go to the kit's folder")
    done: list[Record] = []
    for record in waiting(ledger):
        if not _slots(client):
            break
        try:
            done.append(send(client, ledger, _parcel(record)))
        except InputError as error:
            if ledger.record(record.tag).state in OPEN:  # else another process was quicker
                done.append(ledger.add(record.tag, "refused", error=str(error)))
        except RefusedError:
            if ledger.record(record.tag).state != "refused":  # it was no answer to this submission
                raise
            if not _slots(client):  # somebody took the last one meanwhile
                ledger.add(record.tag, "queued", error="")
                break
            done.append(ledger.record(record.tag))
    return done


def _slots(client: Client) -> int:
    return int(client.ask("GetSubmissionLimits", competitionName=TGS.slug).num_allowed_now)


def _parcel(record: Record) -> Parcel:
    """Raises InputError where the file is not what was queued."""
    if record.file and content_of(Path(record.file)) != record.content:
        raise InputError(f"{record.file} is not what was queued: queue it again")
    return Parcel(record.content, record.message, record.file, record.kernel, record.run, record.oof, queued=True)
