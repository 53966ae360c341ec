"""What scripts/submit.py does, but for the status: dry run, submit, queue, work the queue."""

import argparse
import contextlib
import shlex
from collections.abc import Iterable
from pathlib import Path

from kit import cli, runs
from kit.data import placement, tiles
from kit.errors import InputError, RefusedError, UnreachableError
from kit.leaderboard import sending, submission, waiting_list
from kit.leaderboard.client import Client, log_in
from kit.leaderboard.ledger import Ledger, Record
from kit.leaderboard.sending import Parcel
from kit.scoring.decide import decision_of, masks_of_test


def check(args: argparse.Namespace) -> None:
    """Raises InputError for a command line that says nothing, or two things at once."""
    if bool(args.what) + bool(args.kernel) + args.work_queue + args.status != 1:
        raise InputError("name runs or files, or give one of --kernel, --work-queue, --status: see --help")
    if args.queue and (args.work_queue or args.status or args.wait or args.dry_run):
        raise InputError("--queue only puts runs, files or a kernel on the queue: leave out the other flag")
    if bool(args.kernel) != (args.version is not None):
        raise InputError("--kernel and --version go together: push_kernel.py prints both")
    if args.dry_run and not args.what:
        raise InputError("--dry-run is for runs and files: leave it out")


def submit(args: argparse.Namespace) -> None:
    """Do what the command line asks for and print it. Raises InputError, RefusedError, UnreachableError."""
    ledger = Ledger()
    if args.work_queue:
        client = log_in()
        done = waiting_list.work(client, ledger)
        print(f"{len(waiting_list.waiting(ledger))} wait in the queue")
        outcome(client, ledger, done, args.wait)
        return
    parcels = [_parcel(what, args, ledger) for what in args.what]
    if args.kernel:
        parcels = [sending.of_kernel(args.kernel, args.version, args.message)]
    if args.dry_run:
        return
    for parcel in parcels:  # all before the first costs a slot
        _refuse_known(ledger, parcel)
    if args.queue:
        for parcel in parcels:
            print(f"queued: {waiting_list.put(ledger, parcel).what}; send with python scripts/submit.py --work-queue")
        return
    client = log_in()
    fresh = sum(not sending.cut_off(ledger, parcel) for parcel in parcels)  # the others may have arrived
    if fresh and (remark := sending.check(client, fresh, bool(args.kernel))):
        print(remark)
    sent = [send(client, ledger, parcel) for parcel in parcels]
    outcome(client, ledger, sent, args.wait)


def _refuse_known(ledger: Ledger, parcel: Parcel) -> None:
    """As `sending.refuse_known`, with the score that Kaggle may have by now, if it can be asked."""
    if any(record.state == "sent" for record in ledger.of(parcel.content)):
        with contextlib.suppress(InputError, RefusedError, UnreachableError):
            sending.refresh(log_in(), ledger)
    sending.refuse_known(ledger, parcel)


def _parcel(what: str, args: argparse.Namespace, ledger: Ledger) -> Parcel:
    """Build the submission of a run, or take a file; validated, and scored where the answers are known."""
    run = None if what.lower().endswith(".csv") else runs.find_run(what)
    data = cli.data_of_run(run, args.data) if run else cli.data_dir(args.data)
    answers = data / "demo_answers.csv"
    if answers.exists() and not args.dry_run:
        raise InputError(f"{data} is demo data, which Kaggle does not know: see its score with --dry-run")
    loaded = tiles.load(data)
    path = Path(what)
    if run:
        print(decision_of(run).in_words())
        masks = masks_of_test(run, loaded, placement.read(data))
        path = submission.write_of_run(run.name, *masks, list(loaded.test_ids))
    elif not args.dry_run:
        with contextlib.suppress(submission.SubmissionError):  # the validator says more of a file that cannot be read
            _refuse_known(ledger, sending.of_file(path))  # also with its rows in another order, which is no valid one
    submission.validate(path, list(loaded.test_ids))
    print(f"valid: {path} ({len(loaded.test_ids):,} tiles)")
    if answers.exists():
        print(f"score against {answers}: {submission.score(path, answers):.4f}")
    elif args.dry_run:
        print(f"send it: python scripts/submit.py {shlex.quote(what)} --wait")
    return sending.of_file(path, args.message, run.name if run else "", oof(run) if run else None)


def oof(run: runs.Run) -> float | None:
    """The out-of-fold score of a run under its decision: nested, or at 0.5 where that is what is used."""
    decision = decision_of(run)
    if decision.score is not None:
        return decision.score if decision.accepted else decision.baseline
    mean: float | None = runs.read_json(run / "scores.json").get("mean")
    return mean


def send(client: Client, ledger: Ledger, parcel: Parcel) -> Record:
    record = sending.send(client, ledger, parcel)
    print(f"submitted: {record.what} as {record.in_words()}")
    return record


def outcome(client: Client, ledger: Ledger, records: Iterable[Record], wait: bool) -> None:
    """Say what became of submissions, with `wait` not before it is known. Raises RefusedError where one failed."""
    failed = []
    for record in records:
        if wait and record.state == "sent":
            record = _waited(client, ledger, record)
        if record.state in ("error", "refused"):
            failed.append(f"{record.what}: {record.in_words()}")
        elif record.state == "sent":
            print(f"{record.what} is pending as {record.ref}; its score: python scripts/submit.py --status")
        else:
            print(f"{record.what}: {record.in_words()}")
    if failed:
        raise RefusedError("; ".join(failed))


def _waited(client: Client, ledger: Ledger, record: Record) -> Record:
    print(f"waiting for the score of {record.ref}, Ctrl-C costs nothing", flush=True)
    try:
        return sending.wait(client, ledger, record)
    except KeyboardInterrupt:
        print(f"{record.ref} stays submitted; its score: python scripts/submit.py --status")
        raise
