"""All submissions with their scores, and how far the out-of-fold score foretells them: a table and a picture."""

from pathlib import Path

import numpy as np
import pandas as pd

from kit.errors import InputError, RefusedError, UnreachableError
from kit.leaderboard import sending
from kit.leaderboard.client import log_in
from kit.leaderboard.ledger import Ledger, Record
from kit.report import figures

PICTURE = Path("submissions") / "status.png"
FEW = 3  # submissions; of fewer a correlation says nothing
OPEN_ENDS = {"queued": "waiting in the queue", "intent": "cut off: submit again", "sent": "pending on Kaggle"}


def show() -> None:
    """Ask Kaggle for news, then print every submission and draw the picture.

    Raises InputError, RefusedError or UnreachableError where it cannot be asked, after printing what was known before.
    """
    ledger = Ledger()
    trouble: Exception | None = None
    try:
        sending.refresh(log_in(), ledger)
    except (InputError, RefusedError, UnreachableError) as error:
        trouble = error
    records = sorted(ledger.records(), key=lambda record: record.date or record.time)
    print(in_words(records))
    scores = table(records)
    if scores[["public", "private"]].notna().any(axis=None):
        figures.save(figures.foretold(scores, agreement(scores)), PICTURE)
        print(f"written: {PICTURE}")
    if trouble:
        raise trouble


def table(records: list[Record]) -> pd.DataFrame:
    """The scores oof, public, private of each submission, float (NaN: not known)."""
    rows = [(record.oof, record.public, record.private) for record in records]
    return pd.DataFrame(rows, columns=["oof", "public", "private"], dtype=float)


def agreement(scores: pd.DataFrame) -> str:
    """How the leaderboard follows the out-of-fold score: correlation and mean difference, for public and private."""
    parts = []
    for name in ("public", "private"):
        both = scores[["oof", name]].dropna()
        if len(both) >= FEW and (both.nunique() > 1).all():
            gap = (both[name] - both["oof"]).mean()
            parts.append(f"{name}: correlation {np.corrcoef(both['oof'], both[name])[0, 1]:.2f}, {gap:+.4f} on average")
    return "; ".join(parts)


def in_words(records: list[Record]) -> str:
    """A line for each submission, what is open, and the agreement."""
    if not records:
        return "nothing was submitted yet: python scripts/submit.py RUN"
    lines = [f"{'sent (UTC)':<16}  {'state':<8}  {'oof':>7}  {'public':>7}  {'private':>7}  {'ref':>9}  what"]
    for record in records:
        scores = [f"{value:7.5f}" if value is not None else f"{'-':>7}"
                  for value in (record.oof, record.public, record.private)]  # fmt: skip
        day = (record.date or record.time)[:16].replace("T", " ")
        what = " ".join(": ".join(filter(None, [record.what, record.error])).split())  # others' messages may have lines
        lines.append("  ".join([f"{day:<16}", f"{record.state:<8}", *scores, f"{record.ref or '-':>9}", what]))
    states = [record.state for record in records]
    lines += [f"{states.count(state)} {words}" for state, words in OPEN_ENDS.items() if state in states]
    known = agreement(table(records))
    return "\n".join([*lines, f"out of fold against {known}" if known else
                      f"no correlation yet: it takes {FEW} submissions of runs, with scores that differ"])  # fmt: skip
