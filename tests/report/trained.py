"""Run directories as a training leaves them, their numbers made up, for the tests of the report."""

from pathlib import Path

import numpy as np
import pandas as pd

from kit import recipe as recipes
from kit.recipe import Recipe
from kit.runs import Run, write_json, write_text
from kit.training.schedules import SCHEDULES, Position, monitored, plan, tiles_drawn


def history_of(recipe: Recipe, n_tiles: int, seed: int = 0) -> pd.DataFrame:
    """history.csv of a fold with so many training tiles; its rates are those of the epochs' last steps."""
    rng, rows = np.random.default_rng(seed), []
    for epoch in plan(recipe, n_tiles):
        stage = recipe.stages[epoch.stage]
        done = 1 - 0.8 ** (epoch.number + 1)
        values = monitored(stage, [row for row in rows if row["stage"] == epoch.stage])
        position = Position(epoch.first_step + epoch.steps - 1, epoch.cycle_steps, values)
        noise = rng.normal(0, 0.01, 4)
        rows.append(
            {
                "epoch": epoch.number,
                "stage": epoch.stage,
                "loss": stage.loss,
                "lr": SCHEDULES[stage.schedule](stage, position).lr,
                "tiles": epoch.steps * min(stage.bs, tiles_drawn(stage, n_tiles, 0)),
                "train_loss": (1 + epoch.stage) * (1 - 0.9 * done) + noise[0],
                "valid_loss": (1 + epoch.stage) * (1 - 0.8 * done) + noise[1],
                "score": 0.8 * done + noise[2],
                "train_score": 0.9 * done + noise[3],
                "train_accuracy": 0.95 * done,
                "valid_accuracy": 0.9 * done,
                "seconds": 10.0 * (epoch.number + 1),
            }
        )
    return pd.DataFrame(rows)


def trained(path: Path, recipe: Recipe, folds: int = 1, n_tiles: int = 240) -> Run:
    """A run whose folds have histories and scores, without weights."""
    run = Run(path)
    write_text(run / "recipe.toml", recipes.dumps(recipe))
    entries = {}
    for fold in range(folds):
        history = history_of(recipe, n_tiles, fold)
        write_text(run.fold(fold) / "history.csv", history.to_csv(index=False))
        entries[str(fold)] = {"weights": "best", "score": history["score"].max(), "tiles_per_second": 40.0}
    scores = [entry["score"] for entry in entries.values()]
    write_json(run / "scores.json", {"folds": entries, "mean": np.mean(scores), "std": np.std(scores)})
    return run
