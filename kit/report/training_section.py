"""The report's chapter on the training: losses, scores and rates by epoch, and how several runs differ."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kit import recipe as recipes
from kit.errors import InputError
from kit.recipe import Recipe
from kit.report import csv_table, figures, rates
from kit.report.csv_table import FLAG, NUMBER, TEXT, WHOLE
from kit.report.lr_find import TABLE
from kit.report.plates import Plate, Section, Table
from kit.runs import Run

LABELS = ("name", "source", "published")  # keys of a recipe that no result depends on
SCORES = ("ensemble", "score out of fold", "standard deviation over folds", "folds", "training, tiles/s")
RUNNING = (
    "Training figures run over each epoch's own batches, augmented and as the net was before each step; "
    "pseudo-labelled tiles count against their labels."
)


def section(runs: Sequence[Run]) -> Section:
    """What there is of each run; one that was not trained here, such as an ensemble, is only in the table.

    Raises InputError for a damaged history.csv, lr_find.csv or recipe.toml.
    """
    parts: list[Plate | Table] = []
    if len(runs) > 1:
        parts += _side_by_side(runs)
    for run in runs:
        parts += _course(run, f"{run.name}: " if len(runs) > 1 else "")
    return Section("training", "Training", parts)


def _course(run: Run, prefix: str) -> Iterator[Plate]:
    """The plates of one run."""
    own = histories(run)
    if own:
        recipe, by_name = _recipe_of(run), {f"fold {_name(fold)}": table for fold, table in own.items()}
        _check_stages(run, recipe, own)
        yield Plate(f"{run.name}-loss", f"{prefix}Does the loss still fall, and does it fall on unseen tiles too?",
                    figures.losses(by_name), f"A panel for each loss. {RUNNING}")  # fmt: skip
        yield Plate(f"{run.name}-score", f"{prefix}How good was it after each epoch?", figures.scores(by_name), RUNNING)
        yield _rates(run, recipe, own, prefix)
    if (run / TABLE).exists():
        curve = _curve(run / TABLE)
        figure = figures.loss_against_rate(curve, _recipe_of(run).stages[0].lr)
        yield Plate(f"{run.name}-lr-find", f"{prefix}Which learning rate suits it?", figure,
                    "The suggestion is the middle of the longest fall of the loss, on this axis of rates.")  # fmt: skip


def _curve(path: Path) -> pd.DataFrame:
    """The learning-rate finder's table. Raises InputError for one that cannot be drawn."""
    curve = csv_table.read(path, {"lr": NUMBER, "loss": NUMBER, "suggested": FLAG})
    if curve["suggested"].sum() != 1 or not np.isfinite(curve[["lr", "loss"]]).all(axis=None):
        raise InputError(f"{path} is damaged: one row should be the suggested one, and lr and loss known in each; "
                         "delete it, or write it anew with train.py --lr-find")  # fmt: skip
    return curve


def _check_stages(run: Run, recipe: Recipe, own: dict[int | None, pd.DataFrame]) -> None:
    for fold, table in own.items():
        if not table["stage"].isin(range(len(recipe.stages))).all():
            raise InputError(
                f"{run.fold(fold) / 'history.csv'} has a stage {table['stage'].max() + 1} that {run / 'recipe.toml'} "
                "does not have: restore one of them"
            )


def _rates(run: Run, recipe: Recipe, own: dict[int | None, pd.DataFrame], prefix: str) -> Plate:
    by_fold = {fold: rates.by_step(recipe, table) for fold, table in own.items()}
    marks: dict[str, list[tuple[float, float]]] = {}
    for fold, table in by_fold.items():
        for what, points in rates.events(run, fold, recipe, table).items():
            marks.setdefault(what, []).extend(points)
    stages = [rates.in_words(number, stage) for number, stage in enumerate(recipe.stages)]
    figure = figures.learning_rates({_name(fold): table for fold, table in by_fold.items()}, stages, marks)
    return Plate(f"{run.name}-rate", f"{prefix}Which learning rate did each step have?", figure,
                 "Dotted lines part the stages.")  # fmt: skip


def _side_by_side(runs: Sequence[Run]) -> Iterator[Plate | Table]:
    note = "Keys of the recipes that differ, below the scores; an empty field is a key that a recipe does not have."
    yield Table("runs-compared", "How do the runs differ, and what did it bring?", differences(runs), note)
    known = {run.name: [table for table in histories(run).values() if table["score"].notna().any()] for run in runs}
    if sum(map(bool, known.values())) > 1:
        figure = figures.scores_of_runs({name: tables for name, tables in known.items() if tables})
        yield Plate("runs-scores", "Which run learns faster, and which gets further?", figure,
                    "Two trainings of one recipe differ by up to 0.008 on a fold.")  # fmt: skip


def differences(runs: Sequence[Run]) -> pd.DataFrame:
    """A column of text for each run: its scores and what they cost, then each key in which the recipes differ."""
    scores, keys = [_scores(run) for run in runs], [_keys(run) for run in runs]
    trained = [own for own in keys if own]
    said = [key for key in SCORES if any(score[key] for score in scores)]
    kept = [*said, *(key for key in dict.fromkeys(chain(*trained)) if _differs(key, trained))]
    columns = [score | own for score, own in zip(scores, keys, strict=True)]
    rows = [[column.get(key, "") for column in columns] for key in kept]
    table = pd.DataFrame(rows, columns=[run.name for run in runs])
    table.insert(0, "key", kept)
    return table


def _keys(run: Run) -> dict[str, str]:
    """What the run's recipe says; nothing for an ensemble, whose recipe says nothing."""
    return {} if (run / "ensemble.json").exists() else keys_of(_recipe_of(run))


def keys_of(recipe: Recipe) -> dict[str, str]:
    """Every key of a recipe, dotted, with its value as text."""
    return _flat(tomllib.loads(recipes.dumps(recipe)))


def _differs(key: str, columns: Sequence[Mapping[str, str]]) -> bool:
    """Whether the recipes have different values; of a stage that one lacks, its length and loss tell enough."""
    values = {column[key] for column in columns if key in column}
    lacking = key.endswith((".epochs", ".loss")) and not all(key in column for column in columns)
    return key not in LABELS and (len(values) > 1 or lacking)


def _scores(run: Run) -> dict[str, str]:
    scores = run.scores()
    folds = [entry for entry in scores["folds"].values() if "score" in entry]
    speed = [entry["tiles_per_second"] for entry in folds if "tiles_per_second" in entry]
    values = (
        _recipe_of(run).source if (run / "ensemble.json").exists() else "",
        f"{scores['mean']:.4f}" if "mean" in scores else "",
        f"{scores['std']:.4f}" if "std" in scores and len(folds) > 1 else "",
        str(len(folds) or ""),
        f"{sum(speed) / len(speed):.1f}" if speed else "",
    )
    return dict(zip(SCORES, values, strict=True))


def _flat(values: Any, prefix: str = "") -> dict[str, str]:
    """Each leaf of nested tables and lists as text, by its dotted key."""
    if not isinstance(values, dict | list):
        return {prefix: f"{values:.6g}" if isinstance(values, float) else str(values)}
    items = values.items() if isinstance(values, dict) else enumerate(values)
    flat: dict[str, str] = {}
    for key, value in items:
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def histories(run: Run) -> dict[int | None, pd.DataFrame]:
    """history.csv of each fold that has one, the one of all tiles (None) last. Raises InputError for a damaged one."""
    folds = [path.parent.name.removeprefix("fold_") for path in run.path.glob("fold_*/history.csv")]
    numbers = [*sorted(int(name) for name in folds if name.isdecimal()), *([None] if "none" in folds else [])]
    needed = {"epoch": WHOLE, "stage": WHOLE, "loss": TEXT, "tiles": WHOLE, "train_loss": NUMBER, "score": NUMBER}
    others = ("valid_loss", "train_score", "train_accuracy", "valid_accuracy")
    return {fold: csv_table.read(run.fold(fold) / "history.csv", needed, others) for fold in numbers}


def _recipe_of(run: Run) -> Recipe:
    return recipes.load(str(run / "recipe.toml"))


def _name(fold: int | None) -> str:
    return "none" if fold is None else str(fold)
