"""What each part of a run's decision changed: out-of-fold masks step by step, from threshold 0.5 to the last rule."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from kit.data.placement import digest
from kit.data.tiles import Tiles
from kit.runs import Run
from kit.scoring import decide, mosaic_rules
from kit.scoring.decision import CONSTANT_EMPTY, FULL_EMPTY, HOLES, Decision
from kit.scoring.metric import average_precision
from kit.scoring.mosaic_gain import Neighbours
from kit.scoring.postprocess import CHUNK

COLUMNS = ["tile", "rule", "before", "after", "added", "removed", "left"]


@dataclass(frozen=True)
class Judged:
    """The out-of-fold tiles of a run under its decision, (n,) each.

    The decision was chosen on these tiles, so their scores are a little better than the nested one.
    """

    ids: np.ndarray  # str
    rows: np.ndarray  # int, where each stands among the training tiles
    prob: np.ndarray  # (n, H, W) float16, memory-mapped
    masks: np.ndarray  # (n, H, W) bool, mosaic rules included where they can be
    scores: np.ndarray  # float
    changes: pd.DataFrame  # a row for each tile whose mask a rule changed, those of one tile in the order that they
    # happened: tile (0 .. n-1), rule, before, after (scores), added, removed, left (pixels of salt, the last after
    # it); the categories of `rule` are all parts of the decision in their order
    before: np.ndarray  # (changes, H, W) bool, the tile's mask before each change
    flipped: np.ndarray  # (changes, H, W) bool, the pixels that it changed
    left_out: list[str]  # mosaic rules of the decision that were measured on another placement than the one given


def judge(run: Run, tiles: Tiles, placement: pd.DataFrame | None) -> Judged:
    """Decide the run's out-of-fold tiles, a part of the decision after another.

    Mosaic rules are left out where `placement` is not what they were measured on. Raises InputError where the run has
    no out-of-fold predictions, or those of other tiles.
    """
    decide.check_tiles(run, tiles)
    prob, ids = decide.predictions(run, "oof", tiles, f"train {run.name} again")
    rows = decide.rows_of(tiles.train_ids, ids, f"{run / 'oof_ids.csv'}")
    decision = decide.decision_of(run)
    head, constant = decide.needed_head(run, "oof", len(ids), decision), tiles.constant("train")[rows]
    parts, last, left_out = list(parts_of(decision)), mosaic_rules.weakest_first(decision.mosaic_rules), []
    if placement is None or digest(placement) != decision.placement:
        last, left_out = [], last
    else:
        near = Neighbours(placement, tiles.train_ids, tiles.masks)
    masks, scores, changes = np.empty(prob.shape, bool), np.empty(len(prob)), []
    for first in range(0, len(prob), CHUNK):
        part = slice(first, first + CHUNK)
        true, own_head = tiles.masks[rows[part]], None if head is None else head[part]
        masks[part] = Decision().masks(prob[part])
        scores[part] = average_precision(masks[part], true)
        for name, grown in parts:
            after = grown.masks(prob[part], constant[part], own_head)
            changes += _put(name, after, masks[part], scores[part], true, first)
    for rule in last:
        after = near.replaced(masks, list(ids), [rule])
        changes += _put(rule, after, masks, scores, tiles.masks[rows], 0)
    table = pd.DataFrame([told for told, _ in changes], columns=COLUMNS)
    table = table.astype({name: float if name in ("before", "after") else int for name in COLUMNS if name != "rule"})
    table["rule"] = pd.Categorical(table["rule"], [*(name for name, _ in parts), *last])
    pairs = np.array([pair for _, pair in changes], bool).reshape(-1, 2, *masks.shape[1:])
    before, flipped = pairs[:, 0], pairs[:, 0] ^ pairs[:, 1]
    return Judged(ids.to_numpy(str), rows, prob, masks, scores, table, before, flipped, left_out)


def parts_of(decision: Decision) -> Iterator[tuple[str, Decision]]:
    """The decision as it grows from threshold 0.5, without mosaic rules: the name of each part, and what there is by
    then. Parts that it does not have are left out.
    """
    above = f"threshold {decision.threshold:.2f}" if decision.calibration is None else "greatest expected score"
    holes = "holes" if decision.min_hole == HOLES[-1] else f"holes under {decision.min_hole} pixels"
    parts: dict[str, dict] = {
        above: {"threshold": decision.threshold, "calibration": decision.calibration},
        "empty head": {"empty_above": decision.empty_above},
        f"components under {decision.min_component} pixels": {"min_component": decision.min_component},
        holes: {"min_hole": decision.min_hole},
    }
    rules = [rule for rule in (FULL_EMPTY, CONSTANT_EMPTY) if rule in decision.rules]
    parts |= {rule: {"rules": tuple(rules[: number + 1])} for number, rule in enumerate(rules)}
    grown = Decision()
    for name, values in parts.items():
        before, grown = grown, replace(grown, **values)
        if grown != before:
            yield name, grown


def _put(
    rule: str, after: np.ndarray, masks: np.ndarray, scores: np.ndarray, true: np.ndarray, first: int
) -> list[tuple[tuple, tuple[np.ndarray, np.ndarray]]]:
    """Put masks `after` in place of `masks`, their scores of `scores`; the changes as rows of COLUMNS, the tiles
    counted from `first`, each with the masks (H, W) before and after it.
    """
    own = np.flatnonzero((after != masks).any(axis=(1, 2)))
    old, was, new = scores[own], masks[own], after[own]
    masks[own], scores[own] = new, average_precision(new, true[own])
    pixels = [np.count_nonzero(each, axis=(1, 2)) for each in (new & ~was, was & ~new, new)]
    told = [(int(tile), rule, *numbers) for tile, *numbers in zip(first + own, old, scores[own], *pixels, strict=True)]
    return list(zip(told, zip(was, new, strict=True), strict=True))


def by_rule(changes: pd.DataFrame, count: int) -> pd.DataFrame:
    """What each rule did to `count` tiles: rule, changed, better, worse (tiles), gain (of the mean score)."""
    gain = changes["after"] - changes["before"]
    table = pd.DataFrame({"changed": 1, "better": gain > 0, "worse": gain < 0, "gain": gain / count})
    return table.groupby(changes["rule"], observed=False).sum().reset_index()
