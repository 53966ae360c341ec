"""The submissions of the report, from the ledger alone: Kaggle is not asked."""

import pandas as pd

from kit.leaderboard.ledger import Ledger
from kit.report import figures, standing
from kit.report.plates import Plate, Section, Table

COLUMNS = {"sent (UTC)": "date", "state": "state", "out of fold": "oof", "public": "public", "private": "private",
           "what": "what"}  # fmt: skip


def section() -> Section:
    """Every submission with its scores, and how far the out-of-fold score foretells them; empty where none was sent."""
    records = sorted(Ledger().records(), key=lambda record: record.date or record.time)
    scores = standing.table(records)
    parts: list[Plate | Table] = []
    if scores[["public", "private"]].notna().any(axis=None):
        figure = figures.foretold(scores, standing.agreement(scores))
        parts.append(Plate("foretold", "Does the out-of-fold score foretell the leaderboard?", figure))
    if records:
        frame = pd.DataFrame(
            [[getattr(record, key) for key in COLUMNS.values()] for record in records], columns=[*COLUMNS]
        )
        note = "As the ledger knows it: python scripts/submit.py --status asks Kaggle for news."
        parts.append(Table("submissions", "What was submitted, with which score?", frame, note))
    return Section("submissions", "Submissions", parts)
