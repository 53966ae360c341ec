"""Masks of loose PNG files: tiles of the competition's size that belong to no data folder, as run lengths."""

from pathlib import Path

import numpy as np
import pandas as pd

from kit.data import png, rle
from kit.data.competition import TGS
from kit.errors import InputError
from kit.inference.predict import fold_probabilities, used_weights
from kit.nets.tta import check_tta
from kit.recipe import Recipe
from kit.runs import Run, write_text
from kit.scoring.decide import decision_of

CHUNK = 2048  # images whose mean over the folds is in memory: each fold's net is built once for so many
UNKNOWN_DEPTH = 0.5  # as relative_depth says it of a tile without one


def predict_images(run: Run, recipe: Recipe, folder: Path, tta: str | None = None, weights: str | None = None) -> Path:
    """Write FOLDER_masks.csv beside the folder: the columns of a submission, one row for each PNG, by file name.

    The masks are those of the run's decision, but for mosaic rules, on the mean over its finished folds. Raises
    InputError for a folder without PNGs, a file that is no tile, and a run without a finished fold.
    """
    tta, used, decision = check_tta(tta or recipe.tta), used_weights(run, weights), decision_of(run)
    names, images = read_folder(folder)
    texts: list[str] = []
    for first in range(0, len(images), CHUNK):
        chunk = images[first : first + CHUNK]
        depth = np.full(len(chunk), UNKNOWN_DEPTH, np.float32)
        prob, head = np.zeros(chunk.shape, np.float32), np.zeros(len(chunk), np.float32)
        for fold, name in used.items():
            done = 0
            for found in fold_probabilities(run, recipe, fold, chunk, depth, tta, name):
                part = slice(done, done + len(found.prob))
                prob[part] += found.prob / len(used)
                head[part] += found.empty / len(used)
                done = part.stop
        constant = chunk.min(axis=(1, 2)) == chunk.max(axis=(1, 2))
        texts += rle.encode_many(decision.masks(prob, constant, head if decision.needs_head else None))
    path = folder.resolve().with_name(f"{folder.resolve().name}_masks.csv")  # FOLDER.csv may be train.csv
    table = pd.DataFrame({TGS.id_column: names, TGS.mask_column: texts})
    write_text(path, table.to_csv(index=False))
    return path


def read_folder(folder: Path) -> tuple[list[str], np.ndarray]:
    """The names, without .png, and grey levels (N, 101, 101) uint8 of a folder's PNG files, by file name."""
    if not folder.is_dir():
        raise InputError(f"--images {folder} is no folder: give the one that holds the PNG files")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".png")
    if not paths:
        raise InputError(f"--images {folder} holds no .png file: give the folder of the images themselves")
    images = [
        png.read_image(path.read_bytes(), str(path), TGS.tile_shape, mixed=index > 0)
        for index, path in enumerate(paths)
    ]
    return [path.stem for path in paths], np.stack(images)
