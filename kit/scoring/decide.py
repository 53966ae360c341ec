"""The decision of a run: its out-of-fold probabilities in, decision.json out; its test probabilities in, masks out."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from kit.data import folds as folding
from kit.data.placement import digest
from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.runs import Run, read_json, write_text
from kit.scoring.compare import Sample, compare
from kit.scoring.decision import CONSTANT_EMPTY, Decision
from kit.scoring.mosaic_gain import COLUMNS, Neighbours
from kit.scoring.postprocess import CHUNK
from kit.scoring.threshold import Tuning


@dataclass(frozen=True)
class Outcome:
    """What was decided for a run, and what it was chosen from."""

    decision: Decision
    ways: pd.DataFrame  # as of Comparison.table
    rules: pd.DataFrame  # as of Neighbours.judge; empty where no tile is placed
    tuning: Tuning  # of threshold and smallest component, for its figure

    def in_words(self) -> str:
        """A line for each way of deciding and each mosaic rule, and the decision with its reason."""
        lines = [f"{'out of fold':<42} score     gain  95 % interval"]
        for row in self.ways.itertuples():
            lines.append(f"{row.name:<42}{_gain(row)}{'  <- used' if row.used else ''}")
        for row in self.rules.itertuples():
            right = f"right {row.precision:.3f} on " if row.pairs else ""
            state = "used" if row.used else "not used"
            lines.append(f"mosaic rule {row.name:<30}{_gain(row)}  {right}{row.pairs} pairs, "
                         f"reaches {row.reach} other tiles, {state}")  # fmt: skip
        return "\n".join([*lines, self.decision.in_words()])


def _gain(row: Any) -> str:
    return f"{row.score:.4f}  {row.gain:+.4f}  {row.gain_low:+.4f} to {row.gain_high:+.4f}"


def tune_run(run: Run, tiles: Tiles, placement: pd.DataFrame | None = None) -> Outcome:
    """Compare all ways of deciding on runs/NAME/oof.npy; write decision.json and all that was compared, decision.csv.

    placement: the tiles' places in mosaics; without it mosaic rules are not tried. Raises InputError where the run has
    no such predictions, was trained on other tiles, or the placement is one of other tiles.
    """
    check_tiles(run, tiles)
    if placement is not None and not placement["id"].isin([*tiles.train_ids, *tiles.test_ids]).all():
        raise InputError("mosaic.csv places tiles that these data do not have: make it anew with scripts/mosaic.py")
    prob, ids = predictions(run, "oof", tiles, _mend_of_oof(run))
    rows = rows_of(tiles.train_ids, ids, f"{run / 'oof_ids.csv'}")
    constant, head = tiles.constant("train")[rows], empty_head(run, "oof", len(ids))
    found = compare(Sample(prob, tiles.masks[rows], folds_of(run, ids), constant, head))
    rules = pd.DataFrame(columns=COLUMNS)
    if placement is not None:
        near, scores = Neighbours(placement, tiles.train_ids, tiles.masks), pd.Series(found.used.scores, ids.to_numpy())
        rules = near.judge(scores)
        used = tuple(rules["name"][rules["used"]])
        if used:
            found = found.with_rules(used, near.placement, near.rescored(scores, used).to_numpy())
    outcome = Outcome(found.decision, found.table(), rules, replace(found.tuning, decision=found.decision))
    compared = outcome.ways if rules.empty else pd.concat([outcome.ways, rules])
    write_text(run / "decision.csv", compared.to_csv(index=False, float_format="%.6f"))
    outcome.decision.to_json(run / "decision.json")
    return outcome


def _mend_of_oof(run: Run) -> str:
    """What helps where a run has no out-of-fold predictions."""
    if (run / "ensemble.json").exists():
        return "a run of this ensemble has none, so threshold 0.5 stands: combine runs that have folds"
    if read_json(run / "environment.json").get("folds") == [None]:
        return "it was trained on every tile, so threshold 0.5 stands: tune a run of the same recipe that has folds"
    return f"go on with python scripts/train.py --run {run.given} --resume"


def decision_of(run: Run) -> Decision:
    """decision.json, or 0.5 with constant tiles empty where nothing was tuned."""
    path = run / "decision.json"
    return Decision.from_json(path) if path.exists() else Decision(rules=(CONSTANT_EMPTY,))


def masks_of_test(run: Run, tiles: Tiles, placement: pd.DataFrame | None = None) -> tuple[list[str], np.ndarray]:
    """The ids (n,) and masks (n, H, W) bool of the run's test tiles under its decision.

    Raises InputError where the run has no test predictions, or those of other tiles, or where its decision has mosaic
    rules and `placement` is not the table that they were measured on.
    """
    prob, ids = predictions(run, "test", tiles, f"run python scripts/predict.py {run.given}")
    constant = tiles.constant("test")[rows_of(tiles.test_ids, ids, f"{run / 'test_ids.csv'}")]
    decision = decision_of(run)
    head = needed_head(run, "test", len(ids), decision)
    masks = np.empty(prob.shape, bool)
    for first in range(0, len(prob), CHUNK):
        part = slice(first, first + CHUNK)
        masks[part] = decision.masks(prob[part], constant[part], None if head is None else head[part])
    if not decision.mosaic_rules:
        return list(ids), masks
    if placement is None or digest(placement) != decision.placement:
        state = "missing" if placement is None else "another than when they were measured"
        raise InputError(
            f"{run / 'decision.json'} has mosaic rules, but mosaic.csv is {state}: "
            f"run scripts/mosaic.py, then scripts/tune_threshold.py {run.given}"
        )
    near = Neighbours(placement, tiles.train_ids, tiles.masks)
    return list(ids), near.replaced(masks, list(ids), decision.mosaic_rules)


def needed_head(run: Run, split: str, count: int, decision: Decision) -> np.ndarray | None:
    """What the empty head says of "oof" or "test", (count,) float, where the decision needs it.

    Raises InputError where the run does not have that.
    """
    if not decision.needs_head:
        return None
    head = empty_head(run, split, count)
    if head is None:
        raise InputError(f"{run / f'{split}_empty.npy'}, which decision.json needs, is missing: predict, or tune again")
    return head


def check_tiles(run: Run, tiles: Tiles) -> None:
    """Raises InputError where the run was trained on other tiles than these."""
    if not run.made_on(tiles.fingerprint):
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


def empty_head(run: Run, split: str, count: int) -> np.ndarray | None:
    """What the net's empty head says of the run's tiles of "oof" or "test", (count,) float; None where it has none.

    Raises InputError where the file is damaged or does not fit the predictions.
    """
    path = run / f"{split}_empty.npy"
    if not path.exists():
        return None
    try:
        head = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it, or predict again") from None
    if head.dtype.kind != "f" or head.shape != (count,) or not ((head >= 0) & (head <= 1)).all():
        raise InputError(f"{path} does not hold {count} probabilities: delete it, or predict again")
    return head


def folds_of(run: Run, ids: pd.Series) -> np.ndarray:
    """The fold of each id, (n,) int, from folds.csv. Raises InputError where it is damaged or lacks one."""
    folds = folding.read(run / "folds.csv").set_index("id")["fold"].reindex(ids)
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
