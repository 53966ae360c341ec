"""What scripts/train.py --pretext does: the flags' recipe becomes a pretext run, which is trained or resumed.

torch is imported only when flags and data have been found good, as in kit.training.command.
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kit import cli, runs
from kit import recipe as recipes
from kit.data import tiles as tile_files
from kit.errors import InputError
from kit.recipe import Recipe, Stage
from kit.runs import Run
from kit.training import command

if TYPE_CHECKING:
    from fastai.learner import Learner

    from kit.training.pretext import Restored

LOSS = "restore"  # the stage's name of it; it is no loss of masks, so a training refuses it
KEPT = ("lr", "encoder_lr", "bs", "micro_bs", "optimiser", "weight_decay", "normalise")  # of the recipe's first stage


def train(args: argparse.Namespace) -> tuple[Run, "Restored | None"]:
    """Start a pretext run or go on with one; no pictures where it was finished before. Exits with 130 when stopped."""
    if args.fold or args.per_device != 1:
        flag = "--fold" if args.fold else "--per-device"
        raise InputError(f"--pretext trains on all tiles and knows no folds: leave out {flag}")
    command.check_tensorboard(args)
    return _resume(args) if args.resume else _start(args)


def _start(args: argparse.Namespace) -> tuple[Run, "Restored | None"]:
    asked = command.recipe_of(args)
    recipe = recipe_for(asked)
    _check_settings(args.set, asked, recipe)
    seconds = cli.seconds("--time-budget", args.time_budget) if args.time_budget else None
    data = cli.data_dir(args.data)
    tiles = tile_files.load(data)
    run = runs.new_run(args.run or runs.default_name(f"pretext-{recipe.name}", recipe.net.encoder))

    from kit.training import auto_batch, budget, pretext

    learn = pretext.make_learner(recipe, tiles)
    recipe = auto_batch.resolve(recipe, learn)
    if seconds:
        recipe = budget.fit_to(recipe, learn, seconds)
    with run.lock():
        command.record(run, runs.PRETEXT, recipe, tiles, data, [])
        return run, _train(run, recipe, learn, args.tensorboard)


def _resume(args: argparse.Namespace) -> tuple[Run, "Restored | None"]:
    run = runs.find_run(args.run or "latest", runs.PRETEXT)
    recipe, tiles = command.reopen(run, runs.PRETEXT, args)
    with run.lock():
        from kit.training import pretext

        if (run / "encoder.safetensors").exists():
            pretext.tidy(run)
            print(f"{run.path} is done already")
            return run, None
        return run, _train(run, recipe, pretext.make_learner(recipe, tiles), args.tensorboard)


def recipe_for(recipe: Recipe) -> Recipe:
    """The recipe's net, input and augmentation in one one-cycle stage, with the first stage's optimiser and rate.

    The epochs are those of all stages together. What belongs to masks is left out: heads, pseudo-labels, sampling.
    Raises InputError for a net without an encoder.
    """
    if not recipe.net.encoder:
        raise InputError(f"decoder {recipe.net.decoder} is a net without an encoder to pretrain: choose another recipe")
    first = recipe.stages[0]
    return replace(
        recipe,
        stages=(Stage(epochs=recipe.epochs, loss=LOSS, **{key: getattr(first, key) for key in KEPT}),),
        data=replace(recipe.data, sampling="uniform"),
        salt=replace(recipe.salt, deep=0.0, deep_nonempty=False, empty=0.0, gating=False, nonempty=0.0),
        tta="none",
        pseudo_run="",
        pseudo_half="both",
        iterate=0,
    )


def _check_settings(settings: Iterable[str], asked: Recipe, recipe: Recipe) -> None:
    """Raises InputError for a --set of what pretraining has no use for."""
    for setting in settings:
        key = setting.partition("=")[0].strip()
        if _at(recipe, key) != _at(asked, key):
            raise InputError(
                f"--set {key} has no meaning for --pretext, which trains without masks in one stage: leave it out "
                "(--epochs, --lr, --bs and the keys of data and net have)"
            )


def _at(value: Any, key: str) -> Any:
    """The value at a dotted key of a recipe; None where there are fewer stages."""
    for part in key.split("."):
        if part.isdecimal():
            value = value[int(part)] if int(part) < len(value) else None
        else:
            value = getattr(value, part, None)
    return value


def _train(run: Run, recipe: Recipe, learn: "Learner", tensorboard: bool) -> "Restored":
    """Train to the end, and say what was learnt and what comes next."""
    from kit.training import pretext

    trivial = ", ".join(f"{name} {error:.4f}" for name, error in learn.metrics[0].trivial.items())
    print(f"{learn.dls.train.n:,} tiles to train on, {learn.dls.valid.n:,} held out, where the error without a net is: "
          f"{trivial}; the score is the share of the smaller that is gone", flush=True)  # fmt: skip
    outcome = command.or_exit(lambda: pretext.train(run, recipe, learn, tensorboard), f"--pretext --run {run.given}")
    print(outcome.in_words())
    print(f"written: {run.path}")
    name = recipe.name if recipe.name in recipes.names() else f"{recipe.name}.toml"
    print(f"next: python scripts/train.py --recipe {name} --arch {recipe.net.encoder} "
          f"--weights {run / 'encoder.safetensors'}")  # fmt: skip
    return outcome.restored
