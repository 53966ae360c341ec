"""Which encoder? The same decoder, tiles and minutes for each, trained one after another; a table and a picture.

Minutes are equal, not epochs: a light encoder sees more tiles. An encoder whose training is finished is not trained
again, and one that was cut is gone on with, so a comparison can be stopped at any moment.
"""

import argparse
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kit import cli
from kit import recipe as recipes
from kit.data.tiles import Tiles, load
from kit.errors import InputError
from kit.nets.model import parameter_count
from kit.report import figures
from kit.runs import Run, read_json, write_json, write_text
from kit.scoring.metric import average_precision
from kit.scoring.threshold import bootstrap_interval
from kit.training.learner import make_net
from tests.benchmarks.side import hardware
from tests.benchmarks.trained import check_minutes, flags, run_of, validation

ENCODERS = ("resnet18", "resnet34", "seresnext50_32x4d", "legacy_xception", "efficientnet_b0", "convnext_tiny")
RECIPE = Path(__file__).with_name("encoders.toml")


def main(args: argparse.Namespace) -> None:
    """`scripts/benchmark.py encoders`. Raises InputError."""
    minutes = check_minutes(args.minutes, default=10)
    data = cli.data_dir(args.data)
    folder = Path(args.out or f"runs/encoders-{minutes:g}m-fold{args.fold}-seed{args.seed}")
    recipe = args.recipe or str(RECIPE)
    print(compare(load(data), data, recipe, minutes, args.fold, args.seed, args.limit, folder))
    print(f"written: {folder}/encoders.csv, encoders.md, encoders.png")


def compare(
    tiles: Tiles, data: Path, recipe: str, minutes: float, fold: int, seed: int, limit: int | None, folder: Path
) -> str:
    """Train each encoder that `folder` lacks, on `limit` tiles or (None) all, and give the table of all.

    Written are folder/runs/ENCODER, ordinary runs, and after each of them encoders.csv, encoders.md and encoders.png.
    Raises InputError for what train.py refuses, and for a folder that was begun with other settings.
    """
    settings = {"minutes": minutes, "fold": fold, "seed": seed, "limit": limit, "tiles": tiles.fingerprint}
    _claim(folder, settings | {"hardware": hardware(), "recipe": recipes.dumps(recipes.load(recipe))})
    chosen = flags(recipe, data, minutes, fold, seed) + (["--limit", str(limit)] if limit is not None else [])
    costs, scores = {}, {}
    for name in ENCODERS:
        print(f"\n{name}", flush=True)
        run = run_of(folder, name, fold, [*chosen, "--arch", name])
        prob, masks = validation(run, tiles, fold)
        costs[name], scores[name] = _cost(run, fold), average_precision(prob > 0.5, masks)
        text = _write(folder, summary(costs, scores), len(masks), f"{minutes:g} minutes each, {hardware()}")
    return text


def _write(folder: Path, table: pd.DataFrame, n_tiles: int, title: str) -> str:
    """The table as CSV, in words and as a picture; gives the words."""
    text = markdown(table, n_tiles)
    write_text(folder / "encoders.csv", table.to_csv(index=False))
    write_text(folder / "encoders.md", text)
    figures.save(figures.score_against_speed(table, title), folder / "encoders.png")
    return text


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Write down what this folder compares, which must be what the trainings in it began with."""
    path = folder / "settings.json"
    begun = read_json(path) if any(folder.glob("runs/*/recipe.toml")) else settings
    if "recipe" in begun:  # with keys that recipes have got since then
        begun["recipe"] = recipes.dumps(recipes.from_dict(tomllib.loads(begun["recipe"])))
    others = [key for key in settings if begun.get(key) != settings[key]]
    if others:
        raise InputError(f"{folder} was begun with another {', '.join(others)}: choose another --out")
    write_json(path, settings)


def _cost(run: Run, fold: int) -> dict[str, Any]:
    """What the training of a fold took; the rate is over all its seconds, validation included."""
    recipe = recipes.load(str(run / "recipe.toml"))
    entry = run.scores()["folds"][str(fold)]
    history = pd.read_csv(run.fold(fold) / "history.csv")
    steps = history["tiles"] / [recipe.stages[stage].bs for stage in history["stage"]]
    return {
        "parameters": parameter_count(make_net(recipe.from_scratch())),
        "steps": round(steps.sum()),
        "seconds": entry["seconds"],
        "tiles_per_second": entry["tiles_per_second"],
    }


def summary(costs: dict[str, dict[str, Any]], scores: dict[str, np.ndarray]) -> pd.DataFrame:
    """A row for each encoder, the best first, from what it took and the scores (N,) of the same N tiles.

    score_low, score_high: the 95 % interval of the score, by bootstrap over tiles. gap: to the best one's score, with
    its own, paired interval: that the tiles differ in difficulty is not in it.
    """
    best = max(scores.values(), key=np.mean)
    rows = []
    for name, each in scores.items():
        low, high = bootstrap_interval(each, np.random.default_rng(0))
        gap_low, gap_high = bootstrap_interval(each - best, np.random.default_rng(0))
        score = {"score": each.mean(), "score_low": low, "score_high": high}
        gap = {"gap": (each - best).mean(), "gap_low": gap_low, "gap_high": gap_high}
        rows.append({"encoder": name, **costs[name], **score, **gap})
    return pd.DataFrame(rows).sort_values("score", ascending=False, ignore_index=True).round(5)


def markdown(table: pd.DataFrame, n_tiles: int) -> str:
    """The table of `summary` for a reader."""
    lines = ["| encoder | score (95 %) | behind the best (95 %) | tiles/s | parameters | steps |", "|---" * 6 + "|"]
    for row in table.itertuples():
        score = f"{row.score:.3f} ({row.score_low:.3f} to {row.score_high:.3f})"
        gap = f"{row.gap:+.3f} ({row.gap_low:+.3f} to {row.gap_high:+.3f})" if row.Index else "-"
        cost = f"{row.tiles_per_second:.1f} | {row.parameters:,} | {row.steps:,}"
        lines.append(f"| {row.encoder} | {score} | {gap} | {cost} |")
    note = f"Intervals are bootstraps over {n_tiles:,} validation tiles, of one training each: another one differs too."
    return "\n".join([*lines, "", note, ""])
