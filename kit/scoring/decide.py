"""The decision of a run: its out-of-fold probabilities in, decision.json out; its test probabilities in, masks out."""

import numpy as np
import pandas as pd

from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.runs import Run
from kit.scoring.postprocess import CHUNK
from kit.scoring.threshold import CONSTANT_EMPTY, Decision, Tuning, tune


def tune_run(run: Run, tiles: Tiles) -> Tuning:
    """Tune on runs/NAME/oof.npy and write decision.json. Raises InputError where the run has no such predictions."""
    prob, ids = _predictions(run, "oof", "train a fold that validates: python scripts/train.py --fold 0")
    rows = _rows(tiles.train_ids, ids, f"{run / 'oof_ids.csv'}")
    table = pd.read_csv(run / "folds.csv", dtype={"id": str}, keep_default_na=False).set_index("id")
    tuning = tune(prob, tiles.masks[rows], table.loc[ids, "fold"].to_numpy(), tiles.constant("train")[rows])
    tuning.decision.to_json(run / "decision.json")
    return tuning


def decision_of(run: Run) -> Decision:
    """decision.json, or 0.5 with constant tiles empty where nothing was tuned."""
    path = run / "decision.json"
    return Decision.from_json(path) if path.exists() else Decision(rules=(CONSTANT_EMPTY,))


def test_masks(run: Run, tiles: Tiles) -> tuple[list[str], np.ndarray]:
    """The ids (n,) and masks (n, H, W) bool of the run's test tiles under its decision.

    Raises InputError where the run has no test predictions, or those of other tiles.
    """
    prob, ids = _predictions(run, "test", f"run python scripts/predict.py {run.name}")
    constant = tiles.constant("test")[_rows(tiles.test_ids, ids, f"{run / 'test_ids.csv'}")]
    decision = decision_of(run)
    masks = np.empty(prob.shape, bool)
    for first in range(0, len(prob), CHUNK):
        part = slice(first, first + CHUNK)
        masks[part] = decision.masks(prob[part], constant[part])
    return list(ids), masks


def _predictions(run: Run, split: str, mend: str) -> tuple[np.ndarray, pd.Series]:
    path = run / f"{split}.npy"
    if not path.exists() or not (run / f"{split}_ids.csv").exists():
        raise InputError(f"{path} is missing: {mend}")
    try:
        prob = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}): {mend}") from None
    ids = pd.read_csv(run / f"{split}_ids.csv", dtype=str, keep_default_na=False)["id"]
    if len(ids) != len(prob):
        raise InputError(f"{path} has {len(prob)} tiles and its ids {len(ids)}: {mend}")
    return prob, ids


def _rows(known: np.ndarray, ids: pd.Series, where: str) -> np.ndarray:
    rows = pd.Index(known).get_indexer(pd.Index(ids))
    if (rows < 0).any():
        raise InputError(
            f"{where}: id {ids.iloc[int(np.argmin(rows))]} is not in the data: give the run's own with --data"
        )
    return rows
