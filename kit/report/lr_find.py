"""What scripts/train.py --lr-find does: the loss against the learning rate, as a table, a picture and a suggestion."""

import argparse

from kit import cli, runs
from kit.data import folds as folding
from kit.data import tiles as tile_files
from kit.errors import InputError
from kit.report import figures
from kit.training import command

TABLE, PICTURE = "lr_find.csv", "lr_find.png"  # of a run: lr, loss, suggested; drawn


def find(args: argparse.Namespace) -> None:
    """Write runs/NAME/lr_find.csv and lr_find.png, for a new run or with --resume for one that is there; train nothing.

    Raises InputError for bad flags, before a file is made.
    """
    for flag in ("pretext", "time_budget", "tensorboard"):
        if getattr(args, flag):
            raise InputError(f"--lr-find trains nothing: leave out --{flag.replace('_', '-')}")
    if args.per_device != 1:
        raise InputError("--lr-find trains nothing: leave out --per-device")
    if args.resume:
        run = runs.find_run(args.run or "latest")
        recipe, tiles = command.reopen(run, runs.RECIPE, args)
        table = folding.read(run / "folds.csv")
    else:
        recipe = command.recipe_of(args)
        data = cli.data_dir(args.data)
        tiles = tile_files.load(data)
        run = runs.new_run(args.run or runs.default_name(recipe.name, recipe.net.encoder or recipe.net.decoder))
        table = command.deal(data, recipe, tiles)
    fold = command.folds_of(args.fold or "0", recipe.data.folds)[0]

    from kit.training import auto_batch, lr_finder
    from kit.training.learner import make_learner

    learn = make_learner(recipe, tiles, fold, table)
    recipe = auto_batch.resolve(recipe, learn)
    stage = recipe.stages[0]
    with run.lock():
        curve = lr_finder.curve(learn, recipe)
        runs.write_text(run / TABLE, curve.to_csv(index=False))
        figures.save(figures.loss_against_rate(curve, stage.lr), run / PICTURE)
    if not args.resume:
        print("in the report of a run it is drawn after train.py --run NAME --resume --lr-find")
    print(f"suggested: --lr {curve['lr'][curve['suggested']].item():.1e} (the recipe has {stage.lr:.1e})")
    print(f"written: {run / TABLE}, {run / PICTURE}")
