"""Trainings as a user does them, by scripts/train.py in a process of its own; what is there is not trained again."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.runs import Run
from kit.scoring.decide import rows_of

TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"


def check_minutes(given: float | None, default: float) -> float:
    """Raises InputError."""
    if given is not None and not 0 < given < math.inf:
        raise InputError(f"--minutes must be above 0 and finite, not {given:g}")
    return given or default


def flags(recipe: str, data: Path, minutes: float, fold: int, seed: int) -> list[str]:
    """Those of scripts/train.py that every training has; it runs in another folder, so paths are whole."""
    recipe = str(Path(recipe).resolve()) if recipe.endswith(".toml") else recipe
    chosen = ["--recipe", recipe, "--data", str(data.resolve()), "--fold", str(fold), "--seed", str(seed)]
    return [*chosen, "--time-budget", f"{60 * minutes:g}s"]


def run_of(folder: Path, name: str, fold: int, flags: list[str]) -> Run:
    """The run folder/runs/NAME: trained with these flags, or gone on with, or as it is where the fold is finished.

    Raises InputError for what train.py refuses.
    """
    run = Run(folder / "runs" / name)
    if fold in run.finished_folds():
        return run
    started = (run / "recipe.toml").exists()
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(TRAIN), "--run", name, *(["--resume"] if started else flags)]
    if subprocess.run(command, cwd=folder, check=False).returncode:
        raise InputError(f"scripts/train.py did not finish {run.path}, its reason stands above")
    return run


def read_ids(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"id": str}, keep_default_na=False)


def validation(run: Run, tiles: Tiles, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """What the run predicts of its fold, (N, 101, 101) float16 probabilities, and the masks, (N, 101, 101) bool."""
    path = run.fold(fold) / "valid_ids.csv"
    rows = rows_of(tiles.train_ids, read_ids(path)["id"], str(path))
    return np.load(run.fold(fold) / "valid.npy"), tiles.masks[rows]
