"""The first section of the report: how good each run is, what is special in its recipe, and what made it."""

from dataclasses import replace

import pandas as pd

from kit import recipe
from kit.errors import InputError
from kit.recipe import Recipe, Stage
from kit.report.plates import Section, Table
from kit.report.training_section import LABELS, keys_of
from kit.runs import RECIPE, Run, read_json
from kit.scoring import decide


def section(runs: list[Run]) -> Section:
    """Of each run the scores and what made it, of the first its recipe's differences. Raises InputError for a damaged
    file.
    """
    scores = pd.concat([_scores(run) for run in runs])
    made = pd.DataFrame({run.name: _made(run) for run in runs}).rename_axis("").reset_index()
    parts = [
        Table("scores", "How good is it?", scores, decide.decision_of(runs[0]).in_words().replace("\n", "; ")),
        *_recipe(runs[0]),
        Table("made", "What made it?", made),
    ]
    return Section("summary", "Summary", parts)


def _scores(run: Run) -> pd.DataFrame:
    record = run.scores()
    columns = {"score": "score", "weights": "weights", "epochs": "epochs", "seconds": "seconds"}
    rows = [[run.name, fold, *map(entry.get, columns)] for fold, entry in record["folds"].items()]
    if len(rows) != 1 and "mean" in record:  # an ensemble has no folds of its own
        spread = f"mean, deviation {record['std']:.4f}" if "std" in record else "all"
        rows.append([run.name, spread, record["mean"], "", None, None])
    return pd.DataFrame(rows, columns=["run", "fold", *columns])


def _recipe(run: Run) -> list[Table]:
    own = recipe.load(str(run / RECIPE))
    parent = recipe.load(own.name).parent if own.name in recipe.names() else ""
    frame = differences(recipe.load(parent) if parent else Recipe(), own)
    frame.columns = ["key", parent or "default", own.name]
    note = own.source and f"Source: {own.source}"
    return [Table("recipe", f"How does {own.name} differ from {parent or 'the defaults'}?", frame, note)]


def differences(one: Recipe, other: Recipe) -> pd.DataFrame:
    """The keys, dotted, in which two recipes differ, with the value of each: key, one, other (text).

    A stage that only one of them has is held against the default stage.
    """
    stages = max(len(one.stages), len(other.stages))
    padded = (replace(some, stages=(*some.stages, *[Stage()] * (stages - len(some.stages)))) for some in (one, other))
    first, second = map(keys_of, padded)
    rows = [(key, first[key], second[key]) for key in first if key not in LABELS and first[key] != second[key]]
    if len(one.stages) != len(other.stages):
        rows.insert(0, ("stages", str(len(one.stages)), str(len(other.stages))))
    return pd.DataFrame(rows, columns=["key", "one", "other"])


def _made(run: Run) -> dict[str, str]:
    """The command and the environment, by name."""
    command = run / "command.txt"
    facts = {"command": command.read_text("utf-8", "replace").strip() if command.exists() else ""}
    record = read_json(run / "environment.json")
    versions = record.pop("versions", {})
    if not isinstance(versions, dict):
        raise InputError(f"{run / 'environment.json'} is not what train.py wrote (versions): restore it")
    return facts | {name: str(value) for name, value in {**record, **versions}.items()}
