"""What the tests of labels and of rounds share: planted runs that label, and the truth of demo tiles."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from kit import recipe as recipes
from kit.data.rle import decode_many
from kit.runs import Run, read_json, write_json, write_probabilities, write_text
from tests.small import TINY, easy_tiles, tiny_recipe

TILES = easy_tiles(40, 30)
FOLDS = np.arange(40) % 4
CONSTANT = 7
IMAGES = TILES.test_images.copy()
IMAGES[CONSTANT] = 0
MASKS = np.arange(101)[None, :, None] >= 101 - 10 * (np.arange(40) % 11)[:, None, None]  # every class of coverage
TILES = replace(TILES, test_images=IMAGES, masks=np.broadcast_to(MASKS, TILES.masks.shape).copy())


def some_prob(seed: int) -> np.ndarray:
    """Salt at the bottom with a blurred top, high or not: of every class of coverage, sure and unsure."""
    rng = np.random.default_rng(seed)
    top = np.linspace(-20, 121, 30)[:, None, None] + rng.normal(0, 2, (30, 1, 101))
    blur = np.random.default_rng(9).uniform(0.5, 60, (30, 1, 1))
    return (1 / (1 + np.exp(-(np.arange(101)[None, :, None] - top) / blur))).astype(np.float16)


def made(name: str, seed: int = 0, folds: np.ndarray = FOLDS, fold: int | None = 0, **record) -> Run:
    """A run whose one fold is trained and predicted; `record` is what its pseudo.json says."""
    run = Run(f"runs/{name}")
    settings = ["stages.0.pseudo=mix", "pseudo_run=before"] if record else []
    write_text(run / "recipe.toml", recipes.dumps(tiny_recipe(*settings)))
    write_json(run / "environment.json", {"data": ".", "fingerprint": TILES.fingerprint, "folds": [fold]})
    write_json(
        run / "scores.json", {"folds": {run.fold(fold).name[5:]: {"weights": "last", "candidates": {"last": 0.5}}}}
    )
    write_text(run.fold(fold) / "last.safetensors", "")
    table = pd.DataFrame({"id": TILES.train_ids, "fold": folds})
    write_text(run / "folds.csv", table.to_csv(index=False))
    write_text(run.fold(fold) / "valid_ids.csv", table[["id"]][table["fold"] == fold].to_csv(index=False))
    prob = some_prob(seed)
    write_probabilities(run.fold(fold) / "test.npy", prob.shape, [prob])
    write_json(run.fold(fold) / "test.json", {"weights": "last", "tta": "hflip", "data": TILES.fingerprint})
    if record:
        write_json(run.fold(fold) / "pseudo.json", {"seen": ["a"], "tiles": ["b"]} | record)
    return run


def labels_of(run: Run, fold: str = "fold_0") -> tuple[pd.DataFrame, np.ndarray, dict]:
    here = run / "pseudo" / fold
    table = pd.read_csv(here / "rows.csv", dtype={"id": str}, index_col="id")
    return table, np.load(here / "masks.npy"), read_json(here / "source.json")


TRAIN = ("train.py", "--recipe", str(TINY), "--epochs", "2")
MIX = ("--set", "stages.0.pseudo=mix", "--set", "stages.1.pseudo=only")


def answers(data: Path) -> tuple[list[str], np.ndarray]:
    """The ids and true masks of the test tiles."""
    table = pd.read_csv(data / "demo_answers.csv", dtype=str, keep_default_na=False)
    return table["id"].tolist(), decode_many(table["rle_mask"].tolist(), (101, 101))
