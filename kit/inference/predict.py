"""Test probabilities of a run: each finished fold with its chosen weights and TTA, then their mean; memory bounded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.nets.tta import check_tta, probabilities
from kit.recipe import Recipe
from kit.runs import Run, read_json, write_json, write_probabilities, write_text
from kit.training.fold import fold_name, load_net

CHUNK = 512  # tiles held in memory at a time while folds are averaged


def predict(run: Run, recipe: Recipe, tiles: Tiles, tta: str | None = None) -> Path:
    """Write runs/NAME/test.npy, float16 (n, 101, 101), the mean over the finished folds, and test_ids.csv.

    Each fold is kept as fold_K/test.npy, so a prediction that was cut goes on with the next fold. With folds that
    validate and a fold that trained on every tile, all count alike.
    Raises InputError when no fold is finished.
    """
    tta = check_tta(tta or recipe.tta)
    folds = run.finished_folds()
    if not folds:
        raise InputError(
            f"{run.path} has no finished fold yet: go on with python scripts/train.py --run {run.name} --resume"
        )
    parts = [_predict_fold(run, recipe, tiles, fold, tta) for fold in folds]
    path = run / "test.npy"
    average(parts, path)
    write_text(run / "test_ids.csv", pd.DataFrame({"id": tiles.test_ids}).to_csv(index=False))
    return path


def average(parts: list[Path], out: Path) -> None:
    """Write the mean of float16 probability files of one shape, summed in float32, a chunk at a time."""
    arrays = [np.load(part, mmap_mode="r", allow_pickle=False) for part in parts]
    firsts = range(0, len(arrays[0]), CHUNK)
    means = (sum(array[first : first + CHUNK].astype(np.float32) for array in arrays) / len(arrays) for first in firsts)
    write_probabilities(out, arrays[0].shape, means)


def _predict_fold(run: Run, recipe: Recipe, tiles: Tiles, fold: int | None, tta: str) -> Path:
    """fold_K/test.npy, made unless one made from the same weights, tiles and TTA is there."""
    path, made_from = run.fold(fold) / "test.npy", run.fold(fold) / "test.json"
    stamp = _stamp(run, tiles, fold, tta)
    if path.exists() and made_from.exists() and read_json(made_from) == stamp:
        print(f"fold {fold_name(fold)}: predicted already")
        return path
    made_from.unlink(missing_ok=True)
    net = load_net(run, recipe, fold)
    images = tiles.test_images
    with tqdm(total=len(images), desc=f"fold {fold_name(fold)}", unit="tile", disable=None, leave=False) as bar:
        write_probabilities(path, images.shape, _shown(probabilities(net, images, tta), bar))
    write_json(made_from, stamp)
    print(f"fold {fold_name(fold)}: {len(images):,} tiles with {tta} TTA", flush=True)
    return path


def _shown(parts: Iterator[np.ndarray], bar: tqdm) -> Iterator[np.ndarray]:
    for part in parts:
        bar.update(len(part))
        yield part


def _stamp(run: Run, tiles: Tiles, fold: int | None, tta: str) -> dict[str, Any]:
    """What a fold's test probabilities depend on."""
    used = read_json(run / "scores.json")["folds"][fold_name(fold)]["weights"]
    weights = (run.fold(fold) / f"{used}.safetensors").stat()
    return {
        "weights": used,
        "size": weights.st_size,
        "mtime_ns": weights.st_mtime_ns,
        "tta": tta,
        "data": tiles.fingerprint,
    }
