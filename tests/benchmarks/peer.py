"""A recipe of the kit against the plain U-Net of segmentation_models.pytorch: the same fold, minutes and seed.

The peer's minutes are those of its loop, nothing held back; the kit's are the --time-budget of scripts/train.py, as a
user gives it. Both train from random weights, one after the other, each in a process of its own. What they predict
stays in a folder, and what is there is not trained again: a second call repeats the comparison alone.
"""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from kit import cli
from kit.data.tiles import Tiles, load
from kit.errors import InputError
from kit.runs import read_json, write_json, write_probabilities, write_text
from kit.scoring.decide import rows_of
from kit.scoring.metric import average_precision
from kit.scoring.threshold import bootstrap_interval
from tests.benchmarks import smp_unet
from tests.benchmarks.trained import check_minutes, flags, read_ids, run_of, validation


def main(args: argparse.Namespace) -> None:
    """`scripts/benchmark.py --peer`. Raises InputError."""
    minutes = check_minutes(args.minutes, default=15)
    data = cli.data_dir(args.data)
    folder = Path(args.out or f"runs/peer-{minutes:g}m-fold{args.fold}-seed{args.seed}")
    print(compare(load(data), data, args.recipe or "cpu", minutes, args.fold, args.seed, folder))
    print(f"written: {folder}")


def compare(tiles: Tiles, data: Path, recipe: str, minutes: float, fold: int, seed: int, folder: Path) -> str:
    """Train what `folder` lacks, and give a table of both scores with the gap and its 95 % interval.

    Written are folder/runs/RECIPE, an ordinary run, and folder/peer.npy, peer_ids.csv, peer.json.
    Raises InputError for what train.py refuses, and for a peer in the folder that had other tiles.
    """
    chosen = flags(recipe, data, minutes, fold, seed)
    run = run_of(folder, Path(recipe).stem, fold, [*chosen, "--no-pretrained"])
    _peer(tiles, read_ids(run / "folds.csv"), minutes, fold, seed, folder)
    if not read_ids(run.fold(fold) / "valid_ids.csv")["id"].equals(read_ids(folder / "peer_ids.csv")["id"]):
        raise InputError(f"the peer in {folder} was trained on another fold than the recipe: choose another --out")
    own, masks = validation(run, tiles, fold)
    peer = np.load(folder / "peer.npy")
    costs = run.scores()["folds"][str(fold)], read_json(folder / "peer.json")
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
