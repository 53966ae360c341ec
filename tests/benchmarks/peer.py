"""A recipe of the kit against the plain U-Net of segmentation_models.pytorch: the same fold, minutes and seed.

The peer's minutes are those of its loop, nothing held back; the kit's are the --time-budget of scripts/train.py, as a
user gives it. Both train from random weights, one after the other, each in a process of its own. What they predict
stays in a folder, and what is there is not trained again: a second call repeats the comparison alone.
"""

import argparse
import math
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from kit import cli
from kit.data.tiles import Tiles, load
from kit.errors import InputError
from kit.runs import Run, read_json, write_json, write_probabilities, write_text
from kit.scoring.decide import rows_of
from kit.scoring.metric import average_precision
from kit.scoring.threshold import bootstrap_interval
from tests.benchmarks import smp_unet

TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"


def main(args: argparse.Namespace) -> None:
    """`scripts/benchmark.py --peer`. Raises InputError."""
    if not 0 < args.minutes < math.inf:
        raise InputError(f"--minutes must be above 0 and finite, not {args.minutes:g}")
    data = cli.data_dir(args.data)
    folder = Path(args.out or f"runs/peer-{args.minutes:g}m-fold{args.fold}-seed{args.seed}")
    print(compare(load(data), data, args.recipe, args.minutes, args.fold, args.seed, folder))
    print(f"written: {folder}")


def compare(tiles: Tiles, data: Path, recipe: str, minutes: float, fold: int, seed: int, folder: Path) -> str:
    """Train what `folder` lacks, and give a table of both scores with the gap and its 95 % interval.

    Written are folder/runs/RECIPE, an ordinary run, and folder/peer.npy, peer_ids.csv, peer.json.
    Raises InputError for what train.py refuses, and for a peer in the folder that had other tiles.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _kit(data, recipe, minutes, fold, seed, folder)
    table = _ids(run / "folds.csv")
    _peer(tiles, table, minutes, fold, seed, folder)
    ids = _ids(run.fold(fold) / "valid_ids.csv")["id"]
    if not ids.equals(_ids(folder / "peer_ids.csv")["id"]):
        raise InputError(f"the peer in {folder} was trained on another fold than the recipe: choose another --out")
    masks = tiles.masks[rows_of(tiles.train_ids, ids, str(run.fold(fold) / "valid_ids.csv"))]
    own, peer = np.load(run.fold(fold) / "valid.npy"), np.load(folder / "peer.npy")
    costs = read_json(run / "scores.json")["folds"][str(fold)], read_json(folder / "peer.json")
    scores = [average_precision(prob > 0.5, masks) for prob in (own, peer)]
    rows = [
        f"| {name} | {score.mean():.4f} | {cost['tiles_per_second']:.1f} | {cost['seconds']:.0f} |"
        for name, score, cost in zip((run.name, "segmentation_models.pytorch"), scores, costs, strict=True)
    ]
    return "\n".join(["| system | score | tiles/s | training, s |", "|---|---|---|---|", *rows, "", gap(*scores)])


def gap(own: np.ndarray, peer: np.ndarray) -> str:
    """The gap of the mean of two scores of the same tiles, (N,) each, in words."""
    low, high = bootstrap_interval(own - peer, np.random.default_rng(0))
    return (
        f"gap {(own - peer).mean():+.4f}, 95 % interval {low:+.4f} to {high:+.4f} "
        f"(paired bootstrap over {len(own):,} tiles)"
    )


def _kit(data: Path, recipe: str, minutes: float, fold: int, seed: int, folder: Path) -> Run:
    """The run of the recipe, trained as a user does it, or gone on with."""
    run = Run(folder / "runs" / Path(recipe).stem)
    if fold in run.finished_folds():
        return run
    if (run / "recipe.toml").exists():
        flags = ["--resume"]
    else:
        recipe = str(Path(recipe).resolve()) if recipe.endswith(".toml") else recipe
        flags = ["--recipe", recipe, "--no-pretrained", "--data", str(data.resolve()), "--fold", str(fold)]
        flags += ["--seed", str(seed), "--time-budget", f"{60 * minutes:g}s"]
    command = [sys.executable, str(TRAIN), "--run", run.name, *flags]
    if subprocess.run(command, cwd=folder, check=False).returncode:
        raise InputError(f"scripts/train.py did not finish {run.path}, its reason stands above")
    return run


def _peer(tiles: Tiles, table: pd.DataFrame, minutes: float, fold: int, seed: int, folder: Path) -> None:
    """The peer's files, made on the kit's own folds (id, fold) unless they are there."""
    if (folder / "peer.json").exists():
        return
    rows = rows_of(tiles.train_ids, table["id"], "folds.csv")
    is_valid = (table["fold"] == fold).to_numpy()
    job = tiles.train_images[rows], tiles.masks[rows], is_valid, 60 * minutes, seed
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        trained = pool.submit(smp_unet.train, *job).result()
    write_probabilities(folder / "peer.npy", trained.prob.shape, [trained.prob])
    write_text(folder / "peer_ids.csv", table[["id"]][is_valid].to_csv(index=False))
    write_json(
        folder / "peer.json",
        {"minutes": minutes, "seed": seed, "seconds": trained.seconds, "tiles_per_second": trained.rate},
    )


def _ids(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"id": str}, keep_default_na=False)
