"""Test probabilities of a run: each finished fold with its weights and TTA, then their mean; memory bounded."""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.nets.tta import Prediction, check_tta, mean_probability
from kit.recipe import Recipe
from kit.runs import Run, forget_pages, has_rows, read_json, write_json, write_probabilities, write_text
from kit.training.fold import fold_name, load_nets, weights_of

CHUNK = 512  # tiles held in memory at a time; of several nets, each one's weights are read once for so many


def predict(
    run: Run,
    recipe: Recipe,
    tiles: Tiles,
    tta: str | None = None,
    weights: str | None = None,
    deadline: float = math.inf,
) -> Path:
    """Write runs/NAME/test.npy, float16 (n, 101, 101), the mean over the finished folds, and test_ids.csv.

    Where the net says which tiles are empty, the mean of that goes into test_empty.npy, float16 (n,). Each fold's own
    are kept in fold_K, so a prediction that was cut goes on with the next fold. With folds that validate and a fold
    that trained on every tile, all count alike. `weights` is best, last, averaged or snapshots; without it each fold
    has those that its validation chose. With a `deadline` (of time.monotonic) only as many folds count as are done by
    then, but always one.
    Raises InputError when no fold is finished, or a fold has no such weights.
    """
    tta = check_tta(tta or recipe.tta)
    used = used_weights(run, weights)
    if weights:
        print("note: out-of-fold predictions and the decision stay those of the weights that validation chose")
    used = _predict_folds(run, recipe, tiles, used, tta, deadline)
    (run / "test_empty.npy").unlink(missing_ok=True)  # never beside a test.npy of other weights
    for name in _files(recipe):
        average([run.fold(fold) / name for fold in used], run / name)
    write_text(run / "test_ids.csv", pd.DataFrame({"id": tiles.test_ids}).to_csv(index=False))
    return run / "test.npy"


def average(parts: Sequence[Path], out: Path) -> None:
    """Write the mean of float16 probability files of one shape, summed in float32, a chunk at a time."""
    arrays = [np.load(part, mmap_mode="r", allow_pickle=False) for part in parts]

    def means() -> Iterator[np.ndarray]:
        for first in range(0, len(arrays[0]), CHUNK):
            yield sum(array[first : first + CHUNK].astype(np.float32) for array in arrays) / len(arrays)
            for array in arrays:
                forget_pages(array)

    write_probabilities(out, arrays[0].shape, means())


def used_weights(run: Run, weights: str | None = None) -> dict[int | None, str]:
    """The weights that each finished fold predicts with: the ones asked for, else those that validation chose.

    Raises InputError when no fold is finished, or one has no such weights.
    """
    if (run / "ensemble.json").exists():
        raise InputError(
            f"{run.path} is an ensemble and has no weights: name its runs with --run {run.name} to make it anew"
        )
    folds = run.finished_folds()
    if not folds:
        raise InputError(
            f"{run.path} has no finished fold yet: go on with python scripts/train.py --run {run.given} --resume"
        )
    return {fold: weights_of(run, fold, weights) for fold in folds}


def fold_probabilities(
    run: Run, recipe: Recipe, fold: int | None, images: np.ndarray, depth: np.ndarray, tta: str, weights: str
) -> Iterator[Prediction]:
    """Yield the mean over a fold's nets, chunk after chunk.

    images (N, H, W) uint8 and the relative depth (N,) float32 of each. One net is in memory; of several, it is filled
    anew for each chunk.
    """
    nets = load_nets(run, recipe, fold, weights)
    total = len(images) * len(run.weights(fold, weights))
    with tqdm(total=total, desc=f"fold {fold_name(fold)}", unit="tile", disable=None, leave=False) as bar:
        for first in range(0, len(images), CHUNK):
            part = slice(first, first + CHUNK)
            found = mean_probability(nets(), images[part], tta, depth[part], bar.update)
            forget_pages(images)
            yield found


def _files(recipe: Recipe) -> tuple[str, ...]:
    """What is written of the test tiles, by a fold and by the run."""
    return ("test.npy", "test_empty.npy") if recipe.salt.empty else ("test.npy",)


def _predict_folds(
    run: Run, recipe: Recipe, tiles: Tiles, used: dict[int | None, str], tta: str, deadline: float
) -> dict[int | None, str]:
    """Predict with the folds that a deadline leaves the time for; which they are."""
    done: dict[int | None, str] = {}
    slowest = 0.0
    for fold, name in used.items():
        started = time.monotonic()
        if done and started + slowest > deadline:
            print(f"time is up: {len(done)} of {len(used)} folds count", flush=True)
            break
        _predict_fold(run, recipe, tiles, fold, tta, name)
        done[fold] = name
        slowest = max(slowest, time.monotonic() - started)
    return done


def _predict_fold(run: Run, recipe: Recipe, tiles: Tiles, fold: int | None, tta: str, weights: str) -> None:
    """Write the fold's files, unless those made from the same weights, tiles and TTA are there."""
    folder, made_from = run.fold(fold), run.fold(fold) / "test.json"
    stamp = _stamp(run, recipe, tiles, fold, tta, weights)
    whole = all(has_rows(folder / name, len(tiles.test_ids)) for name in _files(recipe))
    if whole and made_from.exists() and read_json(made_from) == stamp:
        print(f"fold {fold_name(fold)}: predicted already")
        return
    made_from.unlink(missing_ok=True)
    images, depth = tiles.test_images, tiles.relative_depth("test")
    empty: list[np.ndarray] = []

    def chunks() -> Iterator[np.ndarray]:
        for found in fold_probabilities(run, recipe, fold, images, depth, tta, weights):
            empty.append(found.empty)
            yield found.prob

    write_probabilities(folder / "test.npy", images.shape, chunks())
    if recipe.salt.empty:
        write_probabilities(folder / "test_empty.npy", (len(images),), empty)
    write_json(made_from, stamp)
    print(f"fold {fold_name(fold)}: {len(images):,} tiles with {weights} weights and {tta} TTA", flush=True)


def _stamp(run: Run, recipe: Recipe, tiles: Tiles, fold: int | None, tta: str, weights: str) -> dict[str, Any]:
    """What a fold's test probabilities depend on."""
    stats = {path.name: path.stat() for path in run.weights(fold, weights)}
    return {
        "weights": weights,
        "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
        "snapshot_weights": recipe.snapshot_weights,
        "tta": tta,
        "data": tiles.fingerprint,
    }
