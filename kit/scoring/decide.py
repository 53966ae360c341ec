"""The decision of a run: its out-of-fold probabilities in, decision.json out; its test probabilities in, masks out."""

import numpy as np
import pandas as pd

from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.runs import Run, read_json
from kit.scoring.postprocess import CHUNK
from kit.scoring.threshold import CONSTANT_EMPTY, Decision, Tuning, tune


def tune_run(run: Run, tiles: Tiles) -> Tuning:
    """Tune on runs/NAME/oof.npy and write decision.json.

    Raises InputError where the run has no such predictions, or was trained on other tiles.
    """
    check_tiles(run, tiles)
    prob, ids = predictions(run, "oof", tiles, f"go on with python scripts/train.py --run {run.name} --resume")
    rows = rows_of(tiles.train_ids, ids, f"{run / 'oof_ids.csv'}")
    tuning = tune(prob, tiles.masks[rows], folds_of(run, ids), tiles.constant("train")[rows])
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
    prob, ids = predictions(run, "test", tiles, f"run python scripts/predict.py {run.name}")
    constant = tiles.constant("test")[rows_of(tiles.test_ids, ids, f"{run / 'test_ids.csv'}")]
    decision = decision_of(run)
    masks = np.empty(prob.shape, bool)
    for first in range(0, len(prob), CHUNK):
        part = slice(first, first + CHUNK)
        masks[part] = decision.masks(prob[part], constant[part])
    return list(ids), masks


def check_tiles(run: Run, tiles: Tiles) -> None:
    """Raises InputError where the run was trained on other tiles than these."""
    if tiles.fingerprint != read_json(run / "environment.json").get("fingerprint"):
        raise InputError(f"{run.path} was trained on other tiles than these: give its own data with --data")


def predictions(run: Run, split: str, tiles: Tiles, mend: str) -> tuple[np.ndarray, pd.Series]:
    """The run's probabilities (n, H, W) of "oof" or "test", memory-mapped, and their ids; each one is looked at.

    Raises InputError, ending in `mend` where that helps, for files that are missing, damaged or no probabilities: a NaN
    would pass for an empty mask.
    """
    path = run / f"{split}.npy"
    if not path.exists() or not (run / f"{split}_ids.csv").exists():
        raise InputError(f"{path} or its ids are missing: {mend}")
    try:
        prob = np.load(path, mmap_mode="r", allow_pickle=False)
        ids = pd.read_csv(run / f"{split}_ids.csv", dtype=str, keep_default_na=False)["id"]
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise InputError(f"{path} or its ids are damaged ({error}): {mend}") from None
    if prob.dtype.kind != "f" or prob.shape != (len(ids), *tiles.masks.shape[1:]) or ids.duplicated().any():
        raise InputError(f"{path} ({prob.dtype} {prob.shape}) and its {len(ids)} ids do not fit together: {mend}")
    for first in range(0, len(prob), CHUNK):
        part = prob[first : first + CHUNK]
        sound = ((part >= 0) & (part <= 1)).all(axis=(1, 2))
        if not sound.all():
            name = ids.iloc[first + int(np.argmin(sound))]
            raise InputError(f"{path}, id {name}: not a probability (NaN, or outside 0 to 1): train and predict again")
    return prob, ids


def folds_of(run: Run, ids: pd.Series) -> np.ndarray:
    """The fold of each id, (n,) int, from folds.csv. Raises InputError where it is damaged or lacks one."""
    try:
        table = pd.read_csv(run / "folds.csv", dtype={"id": str}, keep_default_na=False).set_index("id")
        folds = table["fold"].reindex(ids)
    except (ValueError, OSError, KeyError) as error:
        raise InputError(f"{run / 'folds.csv'} is damaged ({error}): restore it") from None
    if folds.isna().any():
        raise InputError(f"{run / 'folds.csv'} lacks id {ids.iloc[int(np.argmax(folds.isna()))]}: restore it")
    return folds.to_numpy(int)


def rows_of(known: np.ndarray, ids: pd.Series, where: str) -> np.ndarray:
    """Where each id stands among the known ones, (n,) int. Raises InputError, naming `where`, for one that does not."""
    rows = pd.Index(known).get_indexer(pd.Index(ids))
    if (rows < 0).any():
        raise InputError(
            f"{where}: id {ids.iloc[int(np.argmin(rows))]} is not in the data: "
            "give the run's own with --data, or predict again"
        )
    return rows
