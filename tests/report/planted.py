"""A run whose out-of-fold probabilities are planted, so that it is known what each part of its decision changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from kit import recipe
from kit.data.tiles import Tiles
from kit.runs import Run, write_json, write_probabilities, write_text
from kit.scoring.decision import Decision
from tests.small import easy_tiles

DECISION = Decision(threshold=0.4, min_component=20, rules=("full-empty", "constant-empty"), min_hole=100)


def planted_tiles() -> Tiles:
    """40 tiles with easy truths, of which the last three are empty and constant, and every third has no depth."""
    tiles = easy_tiles()
    images, masks, depth = tiles.train_images.copy(), tiles.masks.copy(), tiles.train_depth.copy()
    images[-3:], masks[-3:], depth[::3] = 0, False, np.nan
    return replace(tiles, train_images=images, masks=masks, train_depth=depth)


def planted_run(folder: Path, tiles: Tiles, decision: Decision = DECISION) -> Run:
    """A run of two folds, the tiles in another order than in the data; each part of DECISION changes a tile or two."""
    run, order = Run(folder), np.random.default_rng(1).permutation(len(tiles.train_ids))
    prob = np.where(tiles.masks, 0.9, 0.1)
    prob[0] = 0.45  # salt everywhere with threshold 0.4 alone, so full, so empty
    prob[1, :3, :3] = 0.9  # an island of 9 pixels, or more salt at the top
    prob[2, 97, 50] = 0.2  # a hole
    prob[-1, 20:60, 20:60] = 0.8  # salt on a constant tile
    prob = np.random.default_rng(2).uniform(-0.04, 0.04, prob.shape) + prob
    write_probabilities(run / "oof.npy", prob.shape, [prob[order]])
    write_text(run / "oof_ids.csv", pd.DataFrame({"id": tiles.train_ids[order]}).to_csv(index=False))
    folds = pd.DataFrame({"id": tiles.train_ids, "fold": np.arange(len(order)) % 2})
    write_text(run / "folds.csv", folds.to_csv(index=False))
    write_text(run / "recipe.toml", recipe.dumps(recipe.load("demo", ["net.stem=no-pool"])))
    write_text(run / "command.txt", "python scripts/train.py --recipe demo\n")
    write_json(
        run / "environment.json", {"fingerprint": tiles.fingerprint, "folds": [0, 1], "versions": {"numpy": "2"}}
    )
    entry = {"weights": "best", "candidates": {"best": 0.9}, "score": 0.9, "epochs": 3, "seconds": 12.5}
    write_json(run / "scores.json", {"folds": {"0": entry, "1": entry | {"score": 0.8}}, "mean": 0.85, "std": 0.05})
    decision.to_json(run / "decision.json")
    return run
