"""The tiles of the report, worst first: what is known of each, its image, truth, probability and predicted mask."""

import numpy as np
import pandas as pd
from scipy.special import xlogy

from kit.data import folds
from kit.data.tiles import Tiles
from kit.report import changes, measures
from kit.report.changes import COLUMNS, Judged
from kit.report.plates import Gallery, Section, Table
from kit.runs import Run
from kit.scoring import decide, metric
from kit.scoring.postprocess import CHUNK


def of_run(run: Run, tiles: Tiles, judged: Judged) -> Section:
    """The out-of-fold tiles of a run under its decision, and what the decision's rules changed.

    The tiles' table: `facts`, and fold, predicted (share of salt), score, iou, wrong (pixels), uncertainty (bits per
    pixel). Raises InputError for a damaged folds.csv.
    """
    table = facts(tiles, judged.rows).assign(
        fold=decide.folds_of(run, pd.Series(judged.ids)),
        predicted=judged.masks.mean(axis=(1, 2)),
        score=judged.scores,
        iou=measures.iou(judged.masks, tiles.masks[judged.rows]),
        wrong=np.count_nonzero(judged.masks != tiles.masks[judged.rows], axis=(1, 2)),
        uncertainty=entropy(judged.prob),
    )
    order = worst_first(table)
    layers = {
        "image": tiles.train_images[judged.rows[order]],
        "truth": tiles.masks[judged.rows[order]],
        "probability": judged.prob[order],
        "mask": judged.masks[order],
    }
    moved = judged.changes.assign(tile=np.argsort(order)[judged.changes["tile"]])
    gallery = Gallery("tiles", "Which tiles fail, and how?", table.iloc[order].reset_index(drop=True), layers, moved,
                      {"before": judged.before, "flipped": judged.flipped}, _note(judged))  # fmt: skip
    return Section("gallery", "Tiles", [gallery, *_rules(judged)])


def of_data(tiles: Tiles) -> Section:
    """All training tiles, of which the truth alone is known."""
    rows = np.arange(len(tiles.train_ids))
    layers = {"image": tiles.train_images, "truth": tiles.masks}
    gallery = Gallery("tiles", "What do the training tiles look like?", facts(tiles, rows), layers,
                      pd.DataFrame(columns=COLUMNS).astype({"rule": "category"}), {})  # fmt: skip
    return Section("gallery", "Tiles", [gallery])


def facts(tiles: Tiles, rows: np.ndarray) -> pd.DataFrame:
    """What the data say of training tiles: id, kind, coverage (share of salt), class (0 to 10), depth (feet)."""
    masks = tiles.masks[rows]
    return pd.DataFrame({
        "id": tiles.train_ids[rows],
        "kind": metric.kind_of(masks),
        "coverage": masks.mean(axis=(1, 2)),
        "class": folds.coverage_class(masks),
        "depth": tiles.train_depth[rows].astype(float),
    })  # fmt: skip


def entropy(prob: np.ndarray) -> np.ndarray:
    """The mean binary entropy of the pixels of each tile, bits (n,), of probabilities (n, H, W)."""
    found = np.empty(len(prob))
    for first in range(0, len(prob), CHUNK):
        p = prob[first : first + CHUNK].astype(np.float32)
        found[first : first + CHUNK] = -(xlogy(p, p) + xlogy(1 - p, 1 - p)).mean(axis=(1, 2)) / np.log(2)
    return found


def worst_first(table: pd.DataFrame) -> np.ndarray:
    """The order (n,) int by score; among equals by IoU, then the most wrong pixels, then the id."""
    return np.lexsort((table["id"], -table["wrong"], table["iou"], table["score"]))


def _note(judged: Judged) -> str:
    note = "Out-of-fold predictions under the run's decision, which was chosen on these tiles."
    if judged.left_out:
        note += f" Without {', '.join(judged.left_out)}: mosaic.csv is not the one that it was measured on."
    return note


def _rules(judged: Judged) -> list[Table]:
    if judged.changes["rule"].cat.categories.empty:
        return []
    table = changes.by_rule(judged.changes, len(judged.ids))
    table.columns = ["part of the decision", "tiles changed", "better", "worse", "gain of the mean score"]
    note = "From threshold 0.50 on, each part after the one before it. The tiles of each: the filter Show above."
    return [Table("rules", "What did each part of the decision change?", table, note)]
