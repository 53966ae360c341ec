"""What scripts/predict.py does: the test tiles or loose files, with one run or with several that become an ensemble."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from kit import cli
from kit import recipe as recipes
from kit.data import tiles as tile_files
from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.inference.ensemble import check, combine, open_run
from kit.inference.export import export
from kit.inference.images import predict_images
from kit.inference.predict import predict, used_weights
from kit.recipe import Recipe
from kit.runs import Run


def predict_runs(members: Sequence[Run], args: argparse.Namespace) -> None:
    """Predict with the runs named on the command line, and print what was written. Raises InputError."""
    several = len(members) > 1
    if (args.images or args.export) and several:
        raise InputError(f"{'--images' if args.images else '--export'} takes one run: name the best")
    if args.images and args.export:
        raise InputError("--images and --export are two commands: give one of them")
    if (args.run or args.vote) and (args.images or not several):
        raise InputError("--run and --vote are for an ensemble of test predictions: name several runs, no --images")
    if several and not args.run:
        raise InputError("several runs make an ensemble: give it a name with --run")
    if args.images:
        path = predict_images(members[0], _recipe_of(members[0]), Path(args.images), args.tta, args.weights)
        print(f"written: {path}")
        return
    if args.export:
        path = export(members[0], _recipe_of(members[0]), args.tta, args.weights)
        print(f"written: {path}")
        print("in Python: torch.export.load(path).module() takes uint8 tiles (B, 101, 101), gives probabilities")
        return
    together = open_run(args.run) if several else None
    data = cli.data_of_run(members[0], args.data)
    tiles = tile_files.load(data)
    if together:
        check(together, members, tiles)
        for run in members:  # all before the first is predicted
            if not (run / "ensemble.json").exists():
                used_weights(run, args.weights)
    for run in members:
        _predict_run(run, tiles, args, several)
    if together:
        with together.lock():
            print(combine(together, members, tiles, data, args.vote).in_words())
    written = together or members[0]
    print(f"written: {written / 'test.npy'}")
    following = "tune_threshold.py" if (written / "oof.npy").exists() else "submit.py --dry-run"
    print(f"next: python scripts/{following} {written.given}")


def _predict_run(run: Run, tiles: Tiles, args: argparse.Namespace, several: bool) -> None:
    if several and (run / "ensemble.json").exists():  # its predictions were made with it
        return
    if several:
        print(run.path)
    if not run.made_on(tiles.fingerprint):
        print(f"note: these are not the tiles that {run.path} was trained on; its decision is of those")
    with run.lock():
        predict(run, _recipe_of(run), tiles, args.tta, args.weights)


def _recipe_of(run: Run) -> Recipe:
    return recipes.load(str(run / "recipe.toml"))
