"""What a kernel does, called by scripts/kernel.py: find the inputs, train or only predict, write submission.csv.

Needs no network, writes nothing under input/, and keeps to its time limit: fewer epochs where the recipe's do not fit.
"""

import argparse
import os
import shutil
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pandas as pd

from kit import cli
from kit import recipe as recipes
from kit.data import cache, placement, tiles
from kit.data.competition import TGS
from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.leaderboard import submission
from kit.recipe import Recipe
from kit.runs import Run
from kit.scoring.decide import masks_of_test, tune_run
from kit.training import command

RUN_NAME = "kernel"  # of the run that is trained, under working/runs
RESERVE = 0.05  # of the time limit: reading, deciding, writing, and a machine that is slower later than at first
TIMED_TILES = 64


def run(root: Path, args: argparse.Namespace) -> None:
    """Write root/working/submission.csv, and where a net is trained root/working/runs/kernel.

    root: an absolute path. args: as scripts/kernel.py parses them. Raises InputError.
    """
    started = time.monotonic()
    deadline = started + (1 - RESERVE) * cli.seconds("--time-limit", args.time_limit)
    inputs, working = root / "input", root / "working"
    data = find_data(inputs)
    working.mkdir(parents=True, exist_ok=True)
    os.chdir(working)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["KIT_CACHE"] = scratch  # nothing can be written beside the data
        trained = _unpack(find(inputs, args.trained), data, Path(scratch)) if args.trained else None
        recipe = recipes.load(str(trained / "recipe.toml")) if trained else _recipe(args, inputs)
        loaded, places = tiles.load(data), placement.read(data)
        print(f"{data}: {len(loaded.train_ids):,} training and {len(loaded.test_ids):,} test tiles", flush=True)
        used = trained or _train(recipe, args.fold, data, loaded, places, deadline)

        from kit.inference.predict import predict

        predict(used, recipe, loaded, deadline=deadline)
        if not trained and (used / "oof.npy").exists():
            print(tune_run(used, loaded, places).in_words(), flush=True)
        ids, masks = masks_of_test(used, loaded, places)
        submission.write("submission.csv", ids, masks, list(loaded.test_ids))
    if not trained:
        _tidy(used)
    spent = (time.monotonic() - started) / 60
    print(f"written: {working / 'submission.csv'} ({len(ids):,} tiles) after {spent:.1f} minutes", flush=True)


def find(inputs: Path, pattern: str) -> Path:
    """The input of this name, however deep Kaggle has mounted its dataset. Raises InputError where there is none."""
    found = sorted(path for path in inputs.rglob(pattern) if path.is_file())
    if not found:
        raise InputError(f"no {pattern} under {inputs}: attach the dataset that push_kernel.py published, "
                         "and wait until Kaggle says that it is ready")  # fmt: skip
    return found[-1]


def find_data(inputs: Path) -> Path:
    """The folder of the competition's files: where train.csv lies beside test.zip or test/, wherever it is mounted.

    Of several, the one under the competition's own name. Raises InputError where there is none, or no telling.
    """
    found = []
    for folder, inner, files in os.walk(inputs):
        names = {*inner, *files}
        if names & {"train.csv", "train.csv.zip"} and names & {"test", "test.zip"}:
            found.append(Path(folder))
        inner[:] = sorted({*inner} - {"train", "test", "images", "masks"})  # thousands of files each
    chosen = [folder for folder in found if TGS.slug in folder.parts] or found
    if not chosen:
        raise InputError(f"no train.csv beside test.zip or test/ under {inputs}: attach the competition {TGS.slug}")
    if len(chosen) > 1:
        raise InputError(f"competition files are in {' and in '.join(map(str, chosen))}: attach one of them")
    return chosen[0]


def _unpack(package: Path, data: Path, scratch: Path) -> Run:
    """The run in a file of package.pack_run; its mosaic.csv goes where the data folder's is looked for."""
    folder = scratch / "run"
    try:
        zipfile.ZipFile(package).extractall(folder)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{package} is damaged ({error}): publish the run again with push_kernel.py") from None
    if (folder / "mosaic.csv").exists():
        place = cache.places(data)[-1]
        place.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / "mosaic.csv", place / "mosaic.csv")
    print(f"predicting with {package}", flush=True)
    return Run(folder)


def _recipe(args: argparse.Namespace, inputs: Path) -> Recipe:
    """The recipe to train, its encoder weights those of an input, or of the hub, or random."""
    recipe = command.named_recipe(args)
    if not recipe.net.pretrained or not recipe.net.encoder:
        return recipe
    pattern = args.weights or f"encoder-{recipe.net.encoder}-*"
    if args.weights or any(inputs.rglob(pattern)):
        path = find(inputs, pattern)
        print(f"encoder weights: {path}", flush=True)
        return replace(recipe, net=replace(recipe.net, weights=str(path)))
    from kit.training.learner import make_net

    try:
        make_net(recipe)
        return recipe
    except InputError as error:  # no internet: better a weaker net than none
        print(f"note: no {pattern} is attached, so this begins with random weights ({error})", flush=True)
        return recipe.from_scratch()


def _train(recipe: Recipe, fold: str, data: Path, loaded: Tiles, places: pd.DataFrame | None, deadline: float) -> Run:
    """Train into working/runs/kernel: the recipe's epochs, or as many as leave the time to predict."""
    from kit.training import auto_batch, budget, parallel
    from kit.training.learner import make_folds, make_learner

    which = command.folds_of(fold, recipe.data.folds)
    table = make_folds(recipe, loaded, places)
    to_predict = _seconds_to_predict(recipe, loaded)
    turns = parallel.turns(len(which))
    each = (deadline - time.monotonic() - len(which) * to_predict) / turns
    if each <= 0:
        raise InputError(f"predicting takes {to_predict:.0f} s a fold, which leaves no time to train: "
                         "give a longer --time-limit, or fewer folds")  # fmt: skip
    with parallel.share_of_cores(0, parallel.at_once(len(which))):
        learner = make_learner(recipe, loaded, which[0], table)
        recipe = auto_batch.resolve(recipe, learner)
        fitting = budget.fit_to(recipe, learner, each, turns)
    del learner  # the training makes its own, and needs the memory
    if fitting.epochs >= recipe.epochs:
        print(f"the recipe's own {recipe.epochs:g} epochs are fewer, and are what is trained", flush=True)
        fitting = recipe
    run = Run(Path("runs") / RUN_NAME)
    command.start(run, fitting, loaded, data, table, which)
    return run


def _seconds_to_predict(recipe: Recipe, loaded: Tiles) -> float:
    """Seconds that one fold's prediction of the test tiles will take, measured on a few of them."""
    from kit.nets.tta import mean_probability
    from kit.training.learner import make_net

    net, depth = make_net(recipe.from_scratch()), loaded.relative_depth("test")
    seconds = 0.0
    for _ in range(2):  # the first warms up
        started = time.monotonic()
        mean_probability([(1.0, net)], loaded.test_images[:TIMED_TILES], recipe.tta, depth[:TIMED_TILES])
        seconds = time.monotonic() - started
    times = max(1, recipe.stages[-1].snapshots)
    return times * seconds * len(loaded.test_ids) / min(TIMED_TILES, len(loaded.test_ids))


def _tidy(run: Run) -> None:
    """Delete what a fold has that nobody needs at home: the output of a kernel is downloaded, and may be gigabytes."""
    for lock in (".lock", ".scores.lock"):
        (run / lock).unlink(missing_ok=True)
    for name, fold in run.scores()["folds"].items():
        folder = run / f"fold_{name}"
        kept = set(run.weights(None if name == "none" else int(name), fold["weights"]))
        weights = set(folder.rglob("*.safetensors"))
        for path in (weights - kept) | {folder / file for file in ("test.npy", "test_empty.npy", "test.json")}:
            path.unlink(missing_ok=True)
