"""`iterate`: a run labels the test tiles, its recipe is trained again on the labels, and so on; each round is a run."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kit import cli, runs
from kit import recipe as recipes
from kit.data import folds as folding
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
from kit.training.command import Manner


def train(args: argparse.Namespace) -> None:
    """Train as the flags of scripts/train.py say, and then the rounds that the recipe asks for.

    Raises InputError before the first training where a round's name is taken by another training's.
    """
    (_check_rounds if args.resume else _check_names)(args)
    run = command.train(args)
    recipe = recipes.load(str(run / "recipe.toml"))
    if not recipe.iterate:
        return
    data = cli.data_of_run(run, args.data)
    try:
        _rounds(run, recipe, tile_files.load(data), data, command.manner_of(args))
    except KeyboardInterrupt:  # between trainings: a training that is stopped says so itself
        print(f"stopped; go on with: python scripts/train.py --run {run.given} --resume", file=sys.stderr)
        raise


def _round(first: Run, number: int) -> Run:
    """Where a round is; round 0 is the first training itself."""
    return Run(first.path.with_name(f"{first.name}-round{number}")) if number else first


def _check_names(args: argparse.Namespace) -> None:
    """Raises InputError where a new training would find a round that is there before it: an earlier training's."""
    if not args.run:  # its name will have the time in it
        return
    first = runs.new_run(args.run)  # a run that is there is resumed, and its rounds are its own
    for number in range(1, command.recipe_of(args).iterate + 1):
        taken = _round(first, number).path
        if taken.exists():
            raise InputError(f"{taken} is of an earlier training: rename or delete it, or choose another --run")


def _check_rounds(args: argparse.Namespace) -> None:
    """Raises InputError where a round that is there is not what this training makes: it would count as done."""
    first = runs.find_run(args.run or "latest")
    count = recipes.load(str(first / "recipe.toml")).iterate
    there = [number for number in range(1, count + 1) if (_round(first, number) / "recipe.toml").exists()]
    if not there:
        return
    tiles = tile_files.load(cli.data_of_run(first, args.data))
    for number in there:
        run = _round(first, number)
        differs = _difference(run, _round(first, number - 1), first, tiles)
        if differs:
            raise InputError(f"{run.path} is no round of this training ({differs}): rename it, and --resume again")


def _difference(run: Run, previous: Run, first: Run, tiles: Tiles) -> str:
    """What keeps a run from being the round that follows `previous` in the training of `first`; "" where nothing does.

    A fold's labels are looked at where it has begun to train on them.
    """
    own = recipes.load(str(run / "recipe.toml"))
    if Path(own.pseudo_run).resolve() != previous.path.resolve():
        return f"its labels are those of {own.pseudo_run or 'no run'}, not of {previous.path}"
    if _alike(own) != _alike(recipes.load(str(first / "recipe.toml"))):
        return "its recipe differs"
    folds, asked = folding.read(run / "folds.csv"), read_json(run / "environment.json")
    if not folds.equals(folding.read(first / "folds.csv")):
        return "its folds.csv differs"
    if not first.made_on(asked["fingerprint"]):
        return "it was trained on other data"
    for fold in asked["folds"]:
        here = labels.folder(previous, fold)
        if not (run.fold(fold) / "pseudo.json").exists():
            continue
        if not (here / "rows.csv").exists():
            return f"{here}, which it trained on, is not there"
        found = labels.load(own, tiles, fold, folds["id"][folds["fold"] == fold].tolist())
        if found.record["digest"] != labels.record_of(run, fold).get("digest"):
            return f"it trained on other labels than those in {here}"
    return ""


def _alike(recipe: Recipe) -> Recipe:
    """What the rounds of a training have in common: a time budget gives each its own length."""
    stages = recipe.stages
    if recipe.time_budget:
        stages = tuple(replace(stage, epochs=1.0, steps=0) for stage in stages)
    return replace(recipe, pseudo_run="", iterate=0, time_budget="", stages=stages)


def _rounds(first: Run, recipe: Recipe, tiles: Tiles, data: Path, manner: Manner) -> None:
    """Every round that is not done yet; what each has gained goes into rounds.json of the first run."""
    which = read_json(first / "environment.json")["folds"]
    previous, rows = first, []
    for number in range(1, recipe.iterate + 1):
        run = _round(first, number)
        own = replace(recipe, pseudo_run=str(previous.path), iterate=0)
        print(f"round {number} of {recipe.iterate}: {run.path} on labels of {previous.path}", flush=True)
        _label(previous, first, tiles, which)
        _train(run, own, first, tiles, data, which, manner)
        rows.append({"run": str(run.path), "labels_of": str(previous.path)} | gain(previous, run, tiles))
        write_json(first / "rounds.json", rows)
        print(f"round {number} of {recipe.iterate}: {_in_words(rows[-1])}", flush=True)
        previous = run


def _label(run: Run, first: Run, tiles: Tiles, which: Sequence[int | None]) -> None:
    """The labels of these folds, unless they are there."""
    missing = [fold for fold in which if not (labels.folder(run, fold) / "rows.csv").exists()]
    if not missing:
        print(f"{run.path} has labelled the test tiles already")
        return
    from kit.inference.predict import predict

    with run.lock():
        predict(run, recipes.load(str(run / "recipe.toml")), tiles)
        try:
            print(pseudo.label([run], tiles, missing, pseudo.Options()), flush=True)
        except InputError as error:
            raise InputError(f"{error}, then python scripts/train.py --run {first.name} --resume") from None


def _train(
    run: Run,
    recipe: Recipe,
    first: Run,
    tiles: Tiles,
    data: Path,
    which: Sequence[int | None],
    manner: Manner,
) -> None:
    """Start a round of the training of `first`, or go on with it; its time budget is that of the first run."""
    if (run / "recipe.toml").exists():
        command.go_on(run, recipes.load(str(run / "recipe.toml")), tiles, data, which, manner, first.name)
        return
    seconds = cli.seconds("time_budget", recipe.time_budget.split()[0]) if recipe.time_budget else None
    command.start(run, recipe, tiles, data, folding.read(first / "folds.csv"), which, seconds, manner, first.name)


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
    prob, ids = decide.predictions(run, "oof", tiles, f"go on with python scripts/train.py --run {run.given} --resume")
    true = tiles.masks[decide.rows_of(tiles.train_ids, ids, f"{run / 'oof_ids.csv'}")]
    return pd.Series(average_precision(np.asarray(prob > 0.5), true), index=ids)


def _in_words(row: dict[str, Any]) -> str:
    if "gain" not in row:
        return "no out-of-fold tiles, so no gain to show"
    interval = f"{row['low']:+.4f} to {row['high']:+.4f}, 95 % over tiles"
    return f"score {row['before']:.4f} -> {row['after']:.4f}, gain {row['gain']:+.4f} ({interval})"
