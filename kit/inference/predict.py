"""Test probabilities of a run: each finished fold with its weights and TTA, then their mean; memory bounded."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.nets.tta import check_tta, probabilities
from kit.recipe import Recipe
from kit.runs import Run, forget_pages, read_json, write_json, write_probabilities, write_text
from kit.training.fold import fold_name, load_nets

CHUNK = 512  # tiles held in memory at a time while folds are averaged
NETS_CHUNK = 512  # the same while nets are: each net's weights are read once for so many tiles


def predict(run: Run, recipe: Recipe, tiles: Tiles, tta: str | None = None, weights: str | None = None) -> Path:
    """Write runs/NAME/test.npy, float16 (n, 101, 101), the mean over the finished folds, and test_ids.csv.

    Each fold is kept as fold_K/test.npy, so a prediction that was cut goes on with the next fold. With folds that
    validate and a fold that trained on every tile, all count alike. `weights` is best, last, averaged or snapshots;
    without it each fold has those that its validation chose.
    Raises InputError when no fold is finished, or a fold has no such weights.
    """
    tta = check_tta(tta or recipe.tta)
    used = used_weights(run, weights)
    if weights:
        print("note: out-of-fold predictions and the decision stay those of the weights that validation chose")
    parts = [_predict_fold(run, recipe, tiles, fold, tta, name) for fold, name in used.items()]
    path = run / "test.npy"
    average(parts, path)
    write_text(run / "test_ids.csv", pd.DataFrame({"id": tiles.test_ids}).to_csv(index=False))
    return path


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
            f"{run.path} has no finished fold yet: go on with python scripts/train.py --run {run.name} --resume"
        )
    entries = read_json(run / "scores.json")["folds"]
    chosen = {fold: entries[fold_name(fold)]["weights"] for fold in folds}
    if weights is None:
        return chosen
    for fold in folds:
        there = entries[fold_name(fold)]["candidates"]
        if weights not in there:
            where = f"fold {fold_name(fold)} of {run.path}"
            raise InputError(f"{where} has no {weights!r} weights: choose one of {', '.join(there)}")
    return dict.fromkeys(folds, weights)


def fold_probabilities(
    run: Run, recipe: Recipe, fold: int | None, images: np.ndarray, depth: np.ndarray, tta: str, weights: str
) -> Iterator[np.ndarray]:
    """Yield the mean probability over a fold's nets, (b, H, W) float32 in [0, 1], chunk after chunk.

    images (N, H, W) uint8 and the relative depth (N,) float32 of each. One net is in memory, filled anew for chunks.
    """
    nets = load_nets(run, recipe, fold, weights)
    total = len(images) * len(run.weights(fold, weights))
    with tqdm(total=total, desc=f"fold {fold_name(fold)}", unit="tile", disable=None, leave=False) as bar:
        for first in range(0, len(images), NETS_CHUNK):
            part = slice(first, first + NETS_CHUNK)
            mean = np.zeros(images[part].shape, np.float32)
            for weight, net in nets():
                done = 0
                for prob in probabilities(net, images[part], tta, depth[part] if net.needs_depth else None):
                    mean[done : done + len(prob)] += weight * prob
                    done += len(prob)
                    bar.update(len(prob))
            forget_pages(images)
            yield mean


def _predict_fold(run: Run, recipe: Recipe, tiles: Tiles, fold: int | None, tta: str, weights: str) -> Path:
    """fold_K/test.npy, made unless one made from the same weights, tiles and TTA is there."""
    path, made_from = run.fold(fold) / "test.npy", run.fold(fold) / "test.json"
    stamp = _stamp(run, recipe, tiles, fold, tta, weights)
    if path.exists() and made_from.exists() and read_json(made_from) == stamp:
        print(f"fold {fold_name(fold)}: predicted already")
        return path
    made_from.unlink(missing_ok=True)
    images, depth = tiles.test_images, tiles.relative_depth("test")
    write_probabilities(path, images.shape, fold_probabilities(run, recipe, fold, images, depth, tta, weights))
    write_json(made_from, stamp)
    print(f"fold {fold_name(fold)}: {len(images):,} tiles with {weights} weights and {tta} TTA", flush=True)
    return path


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
