"""What the report of a run does not show because there is nothing yet to show it by, and what brings it."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from kit.data import placement
from kit.data.tiles import Tiles
from kit.leaderboard.ledger import Ledger
from kit.report import result_section
from kit.report.lr_find import TABLE
from kit.report.plates import Table
from kit.runs import RECIPE, Run, read_json


def tables(run: Run, tiles: Tiles, data: Path) -> list[Table]:
    """One table of the parts that are left out; none where all are there. Raises InputError for damaged files."""
    rows = list(_parts(run, tiles, data))
    frame = pd.DataFrame(rows, columns=["part", "brought by"])
    return [Table("absent", "What is not here, and what brings it?", frame)] if rows else []


def without_oof(run: Run) -> str:
    """What brings out-of-fold predictions to a run that has none."""
    if (run / "ensemble.json").exists():
        return "an ensemble of runs that have out-of-fold predictions"
    if read_json(run / "environment.json").get("folds") == [None]:  # trained on every tile
        return f"a run on folds: python scripts/train.py --recipe {_quoted(run / RECIPE)}"
    return f"python scripts/train.py --run {_quoted(run.path)} --resume"


def _parts(run: Run, tiles: Tiles, data: Path) -> Iterator[tuple[str, str]]:
    name, trained_here = _quoted(run.path), not (run / "ensemble.json").exists()
    if not (run / "oof.npy").exists():
        yield "result, tiles and how one is scored: out-of-fold predictions", without_oof(run)
    if trained_here and not (run / TABLE).exists():
        yield "learning-rate finder", f"python scripts/train.py --run {name} --resume --lr-find"
    if trained_here and len(result_section.predicted_folds(run, tiles)) < 2:
        yield "agreement between folds", f"python scripts/predict.py {name}, two folds being trained"
    if placement.read(data) is None:
        yield "mosaics", f"python scripts/mosaic.py --data {_quoted(data)}"
    if not Ledger().records():
        yield "submissions", f"python scripts/submit.py {name}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
