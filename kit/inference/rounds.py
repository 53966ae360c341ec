"""`iterate`: a run labels the test tiles, its recipe is trained again on the labels, and so on; each round is a run."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kit import cli
from kit import recipe as recipes
from kit.data import tiles as tile_files
from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.inference import pseudo
from kit.recipe import Recipe
from kit.runs import Run, read_json, write_json
from kit.scoring import decide
from kit.scoring.metric import average_precision
from kit.scoring.threshold import bootstrap_interval
from kit.training import command
from kit.training import pseudo as labels


def train(args: argparse.Namespace) -> None:
    """Train as the flags of scripts/train.py say, and then the rounds that the recipe asks for."""
    run = command.train(args)
    recipe = recipes.load(str(run / "recipe.toml"))
    if not recipe.iterate:
        return
    data = cli.data_of_run(run, args.data)
    try:
        _rounds(run, recipe, tile_files.load(data), data, args.tensorboard)
    except (KeyboardInterrupt, SystemExit):
        print(f"all rounds go on with: python scripts/train.py --run {run.name} --resume", file=sys.stderr)
        raise


def _rounds(first: Run, recipe: Recipe, tiles: Tiles, data: Path, tensorboard: bool) -> None:
    """Every round that is not done yet; what each has gained goes into rounds.json of the first run."""
    which = read_json(first / "environment.json")["folds"]
    previous, rows = first, []
    for number in range(1, recipe.iterate + 1):
        run = Run(first.path.with_name(f"{first.name}-round{number}"))
        own = replace(recipe, pseudo_run=str(previous.path), iterate=0)
        print(f"round {number} of {recipe.iterate}: {run.path} on labels of {previous.path}", flush=True)
        _label(previous, tiles, which)
        _train(run, own, previous, tiles, data, which, tensorboard)
        rows.append({"run": str(run.path), "labels_of": str(previous.path)} | gain(previous, run, tiles))
        write_json(first / "rounds.json", rows)
        print(f"round {number} of {recipe.iterate}: {_in_words(rows[-1])}", flush=True)
        previous = run


def _label(run: Run, tiles: Tiles, which: Sequence[int | None]) -> None:
    """The labels of these folds, unless they are there."""
    missing = [fold for fold in which if not (labels.folder(run, fold) / "rows.csv").exists()]
    if not missing:
        print(f"{run.path} has labelled the test tiles already")
        return
    from kit.inference.predict import predict

    with run.lock():
        predict(run, recipes.load(str(run / "recipe.toml")), tiles)
        for fold in missing:
            print(pseudo.label([run], tiles, fold, pseudo.Options()), flush=True)


def _train(
    run: Run, recipe: Recipe, previous: Run, tiles: Tiles, data: Path, which: Sequence[int | None], tensorboard: bool
) -> None:
    """Start a round, or go on with it; its time budget is that of the first run."""
    if not (run / "recipe.toml").exists():
        seconds = cli.seconds("time_budget", recipe.time_budget.split()[0]) if recipe.time_budget else None
        command.start(run, recipe, tiles, data, labels.fold_table(previous), which, seconds, tensorboard)
        return
    own = recipes.load(str(run / "recipe.toml"))
    if own.pseudo_run != recipe.pseudo_run:
        raise InputError(f"{run.path} is no round of this training: rename it, and go on with --resume")
    command.go_on(run, own, tiles, which, tensorboard)


def gain(before: Run, after: Run, tiles: Tiles) -> dict[str, Any]:
    """The score of two runs on the out-of-fold tiles that both have, and the gain with its interval.

    At threshold 0.5; the interval is a paired bootstrap over tiles. Empty where a run has no such tiles.
    """
    if not all((run / "oof.npy").exists() for run in (before, after)):
        return {}
    old, new = (_scores(run, tiles) for run in (before, after))
    both = pd.concat([old, new], axis=1, join="inner").to_numpy()
    differences = both[:, 1] - both[:, 0]
    low, high = bootstrap_interval(differences, np.random.default_rng(0))
    means = {"before": both[:, 0].mean(), "after": both[:, 1].mean(), "gain": differences.mean()}
    return {key: round(float(value), 5) for key, value in (means | {"low": low, "high": high}).items()}


def _scores(run: Run, tiles: Tiles) -> pd.Series:
    """The score of each out-of-fold tile, by id."""
    prob, ids = decide.predictions(run, "oof", tiles, f"go on with python scripts/train.py --run {run.name} --resume")
    true = tiles.masks[decide.rows_of(tiles.train_ids, ids, f"{run / 'oof_ids.csv'}")]
    return pd.Series(average_precision(np.asarray(prob > 0.5), true), index=ids)


def _in_words(row: dict[str, Any]) -> str:
    if "gain" not in row:
        return "no out-of-fold tiles, so no gain to show"
    interval = f"{row['low']:+.4f} to {row['high']:+.4f}, 95 % over tiles"
    return f"score {row['before']:.4f} -> {row['after']:.4f}, gain {row['gain']:+.4f} ({interval})"
