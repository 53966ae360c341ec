"""What scripts/train.py does: flags become a recipe, a recipe becomes a run, a run is trained or resumed.

torch is imported only when flags and data have been found good: a mistyped flag should not take five seconds to say so.
"""

import argparse
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pandas as pd

from kit import cli, machine, runs
from kit import recipe as recipes
from kit.data import folds as folding
from kit.data import placement
from kit.data import tiles as tile_files
from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.recipe import Recipe
from kit.runs import Run

Trained = TypeVar("Trained")

RECIPE_FLAGS = (
    "arch",
    "recipe",
    "epochs",
    "lr",
    "bs",
    "limit",
    "seed",
    "no_pretrained",
    "weights",
    "time_budget",
    "set",
)


NOT_BESIDE_OTHERS = "--time-budget and --bs auto try steps alone on a device: leave them out, or --per-device"


@dataclass(frozen=True)
class Manner:
    """How folds are trained: no part of the recipe, as nothing but rounding may depend on it (fewer threads a fold)."""

    tensorboard: bool = False
    per_device: int = 1  # folds at a time on each GPU, or on the cores where there is none


def named_recipe(args: argparse.Namespace) -> Recipe:
    """What --recipe, --set and --arch name. Raises InputError for bad keys and values."""
    recipe = recipes.load(args.recipe or "baseline", args.set)
    return replace(recipe, net=replace(recipe.net, encoder=args.arch)) if args.arch else recipe


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe that the flags of scripts/train.py describe. Raises InputError for bad keys and values."""
    recipe = named_recipe(args)
    if args.no_pretrained:
        recipe = recipe.from_scratch()
    if args.weights:
        recipe = replace(recipe, net=replace(recipe.net, weights=str(Path(args.weights).resolve())))
    for flag in ("epochs", "lr", "bs", "limit"):
        value = getattr(args, flag)
        if value not in (None, "auto") and not 0 < value < math.inf:
            raise InputError(f"--{flag} must be above 0 and finite, not {value}")
    if args.epochs is not None:
        recipe = recipe.scaled(args.epochs)
    if args.lr is not None:
        recipe = recipe.with_lr(args.lr)
    if args.bs == "auto":
        recipe = recipe.with_auto_bs()
    elif args.bs is not None:
        recipe = recipe.with_bs(args.bs)
    if args.limit is not None:
        recipe = replace(recipe, limit=args.limit)
    if args.seed is not None:
        recipe = replace(recipe, seed=args.seed)
    if recipe.pseudo_run:  # "latest" may be another run when this one is resumed
        recipe = replace(recipe, pseudo_run=str(runs.find_run(recipe.pseudo_run).path))
    return recipes.check(recipe)


def folds_of(text: str, n_folds: int) -> list[int | None]:
    """ "0", "0,2", "all" or "none" as fold numbers. Raises InputError."""
    if text in ("all", "none"):
        return [None] if text == "none" else list(range(n_folds))
    try:
        chosen = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--fold {text!r} is not understood: give 0, or 0,2, or all, or none") from None
    if len(set(chosen)) < len(chosen) or not all(0 <= fold < n_folds for fold in chosen):
        raise InputError(f"--fold {text!r} must name different folds of 0 to {n_folds - 1}")
    return list(chosen)


def train(args: argparse.Namespace) -> Run:
    """Start a run or go on with one, and print what was written."""
    manner = manner_of(args)
    return _resume(args, manner) if args.resume else _start(args, manner)


def manner_of(args: argparse.Namespace) -> Manner:
    """What the flags of scripts/train.py say of it. Raises InputError."""
    check_tensorboard(args)
    check_per_device(args.per_device)
    return Manner(args.tensorboard, args.per_device)


def check_per_device(number: int) -> None:
    """Raises InputError for fewer than one."""
    if number < 1:
        raise InputError(f"--per-device must be 1 or more, not {number}")


def check_tensorboard(args: argparse.Namespace) -> None:
    """Raises InputError where --tensorboard is asked for and its package is not there."""
    if args.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise InputError("--tensorboard needs its package: pip install tensorboard")


def _start(args: argparse.Namespace, manner: Manner) -> Run:
    recipe = recipe_of(args)
    which = folds_of(args.fold or "0", recipe.data.folds)
    seconds = cli.seconds("--time-budget", args.time_budget) if args.time_budget else None
    data = cli.data_dir(args.data)
    tiles = tile_files.load(data)
    run = runs.new_run(args.run or runs.default_name(recipe.name, recipe.net.encoder or recipe.net.decoder))
    table = deal(data, recipe, tiles)

    from kit.training import parallel

    each = seconds and seconds / parallel.turns(len(which))
    start(run, recipe, tiles, data, table, which, each, manner)
    return run


def start(
    run: Run,
    recipe: Recipe,
    tiles: Tiles,
    data: Path,
    table: pd.DataFrame,
    which: Sequence[int | None],
    seconds: float | None = None,
    manner: Manner = Manner(),
    resumed_as: str = "",
) -> None:
    """Train the folds `which` of a new run with the folds `table` (id, fold), each in `seconds` if given.

    `data` is where the tiles were read, `resumed_as` the run that --resume goes on with if that is another. Exits with
    130 when stopped.
    """
    from kit.training import auto_batch, budget, parallel, pseudo
    from kit.training.learner import make_learner

    if manner.per_device > 1 and (seconds or any(stage.micro_bs == recipes.AUTO for stage in recipe.stages)):
        raise InputError(NOT_BESIDE_OTHERS)
    count = parallel.at_once(len(which), manner.per_device)
    # everything that can be refused is refused before a file is made
    with parallel.share_of_cores(0, count):
        learner = make_learner(recipe, tiles, which[0], table)
        for fold in which[1:] if recipe.pseudo_run else ():
            pseudo.load(recipe, tiles, fold, table["id"][table["fold"] == fold].tolist())
        recipe = auto_batch.resolve(recipe, learner)
        if seconds:
            recipe = budget.fit_to(recipe, learner, seconds, parallel.turns(len(which)))
    if count > 1:  # each fold's process makes its own, and needs what this one takes of the first GPU
        learner = None
    with run.lock():
        runs.write_text(run / "folds.csv", table.to_csv(index=False))
        record(run, runs.RECIPE, recipe, tiles, data, which)
        work = (run, recipe, tiles, table, which, data)
        _finish(run, lambda flags: parallel.train_folds(*work, flags, manner, learner), resumed_as, manner)


def record(run: Run, kind: str, recipe: Recipe, tiles: Tiles, data: Path, which: Sequence[int | None]) -> None:
    """Write what was asked for and where; the recipe, in the file `kind`, comes last: by it the run is found."""
    request = {"data": str(data.resolve()), "fingerprint": tiles.fingerprint, "folds": which}
    runs.write_text(run / "command.txt", runs.command_line() + "\n")
    runs.write_json(run / "environment.json", request | runs.environment())
    runs.write_text(run / kind, recipes.dumps(recipe))


def _resume(args: argparse.Namespace, manner: Manner) -> Run:
    run = runs.find_run(args.run or "latest")
    if (run / "ensemble.json").exists():
        raise InputError(f"{run.path} is an ensemble, which is not trained: name one of its runs")
    recipe, tiles = reopen(run, runs.RECIPE, args)
    which = folds_of(args.fold, recipe.data.folds) if args.fold else None
    go_on(run, recipe, tiles, cli.data_of_run(run, args.data), which, manner)
    return run


def reopen(run: Run, kind: str, args: argparse.Namespace) -> tuple[Recipe, Tiles]:
    """What a run goes on with: its recipe, in the file `kind`, and its tiles. Raises InputError for other ones."""
    given = [flag for flag in RECIPE_FLAGS if getattr(args, flag) not in (None, False, [])]
    if given:
        raise InputError(f"--resume goes on with the recipe of {run.path}: leave out --{given[0].replace('_', '-')}")
    recipe = recipes.load(str(run / kind))
    data = cli.data_of_run(run, args.data)
    tiles = tile_files.load(data)
    if not run.made_on(tiles.fingerprint):
        raise InputError(
            f"{data} is not the data that {run.path} was trained on: give that with --data, or start a new run"
        )
    return recipe, tiles


def go_on(
    run: Run,
    recipe: Recipe,
    tiles: Tiles,
    data: Path,
    which: Sequence[int | None] | None = None,
    manner: Manner = Manner(),
    resumed_as: str = "",
) -> None:
    """Train the folds of a run that are not done yet, or those of `which`. Exits with 130 when stopped; see `start`."""
    request = runs.read_json(run / "environment.json")
    table, count = folding.read(run / "folds.csv"), len(tiles.train_ids)
    if len(table) != min(recipe.limit or count, count):
        raise InputError(f"{run / 'folds.csv'} lists {len(table)} tiles, not those it was begun with: restore it")
    which = request["folds"] if which is None else which
    with run.lock():
        from kit.training import parallel

        asked = request["folds"] + [fold for fold in which if fold not in request["folds"]]
        runs.write_json(run / "environment.json", request | {"folds": asked})
        work = (run, recipe, tiles, table, which, data)
        _finish(run, lambda flags: parallel.train_folds(*work, flags, manner), resumed_as, manner)


def prepared(run: Run, data: Path) -> tuple[Recipe, Tiles, pd.DataFrame]:
    """Recipe, tiles and folds of a run that another process has begun."""
    return recipes.load(str(run / runs.RECIPE)), tile_files.load(data), folding.read(run / "folds.csv")


def deal(data: Path, recipe: Recipe, tiles: Tiles) -> pd.DataFrame:
    """The recipe's folds (id, fold). Raises InputError where mosaic.csv of the data folder is needed and missing."""
    placed = placement.read(data) if recipe.data.folds_by == "mosaic" else None
    if recipe.data.folds_by == "mosaic" and placed is None:
        raise InputError(f"folds by mosaic need mosaic.csv: make it with scripts/mosaic.py --data {data}")

    from kit.training.learner import make_folds

    return make_folds(recipe, tiles, placed)


def or_exit(train: Callable[[], Trained | None], flags: str) -> Trained:
    """What `train` gives; where that is false or Ctrl-C came, exit and say that train.py goes on with these flags."""
    _warn_of_others()
    try:
        done = train()
    except KeyboardInterrupt:
        done = None
    if not done:
        print(f"stopped and saved; go on with: python scripts/train.py {flags} --resume")
        sys.exit(cli.INTERRUPTED)
    return done


def _warn_of_others() -> None:
    """On a CPU, say where other processes keep the cores busy: threads of a step wait for the slowest of them."""
    from kit.training.learner import device

    crowding = machine.crowding() if device() == "cpu" else ""
    if crowding:
        print(f"warning: {crowding}, which slows this training down: better one after the other", file=sys.stderr)


def _finish(run: Run, train: Callable[[str], bool], resumed_as: str, manner: Manner) -> None:
    """Train, and say what there is and what comes next; Ctrl-C at any time leaves a run that can be resumed.

    `train` is given the flags that --resume goes on with.
    """
    flags = f"--run {resumed_as or run.given}"
    if manner.per_device > 1:
        flags += f" --per-device {manner.per_device}"
    or_exit(lambda: train(flags), flags)
    scores = run.scores()
    if "mean" in scores:
        count = sum("score" in fold for fold in scores["folds"].values())
        print(
            f"out-of-fold score {scores['mean']:.4f}"
            + (f" +- {scores['std']:.4f} over {count} folds" if count > 1 else "")
        )
    print(f"written: {run.path}")
    print(f"next: python scripts/predict.py {run.given}")
