"""Training tiles dealt into folds, and how much of a validation fold has neighbours in its training folds.

The test tiles were drawn at random from the same mosaics as the training tiles, so folds that ignore the mosaics
("coverage", "random", "depth") are exposed as the test set is and estimate the leaderboard. Folds that keep each
mosaic whole ("mosaic") estimate the score on new ground. `exposure` says how far a choice of folds is one or the other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from kit.errors import InputError

if TYPE_CHECKING:
    from kit.data.tiles import Tiles


def read(path: Path) -> pd.DataFrame:
    """A run's folds.csv, (id, fold). Raises InputError."""
    try:
        table = pd.read_csv(path, dtype={"id": str, "fold": int}, keep_default_na=False)[["id", "fold"]]
    except (ValueError, OSError, KeyError, OverflowError) as error:
        raise InputError(f"{path} is missing or damaged ({error}): restore it") from None
    if table.empty or table["fold"].min() < 0:
        raise InputError(f"{path} is damaged ({'no rows' if table.empty else 'a fold below 0'}): restore it")
    if table["id"].duplicated().any():
        raise InputError(f"{path} has id {table['id'][table['id'].duplicated()].iloc[0]} twice: restore it")
    return table


def make(
    tiles: Tiles, n_folds: int, by: str = "coverage", seed: int = 0, placement: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Deal the training tiles into folds 0 .. n_folds - 1: a DataFrame (id, fold) in the order of tiles.train_ids.

    by "random": sizes differ by at most 1. "coverage": so do the counts of each of the 11 classes of `coverage_class`.
    "depth": each n_folds tiles that follow one another in depth go to different folds; tiles without a depth are dealt
    at random. "mosaic": a mosaic of `placement` (id, mosaic, ...) stays whole; a tile without a placement stands alone.
    The same arguments give the same folds. Raises InputError.
    """
    if by not in _DEALS:
        raise InputError(f"there are no folds by {by!r}: choose one of {', '.join(_DEALS)}")
    if not 2 <= n_folds <= len(tiles.train_ids):
        raise InputError(
            f"{n_folds} folds for {len(tiles.train_ids)} training tiles: ask for at least 2, and at most one per tile"
        )
    fold = _DEALS[by](tiles, n_folds, np.random.default_rng(seed), placement)
    return pd.DataFrame({"id": tiles.train_ids, "fold": fold})


def coverage_class(masks: np.ndarray) -> np.ndarray:
    """Tenths of the tile that are salt, rounded up: int (N,), 0 (empty) to 10, of masks bool (N, H, W).

    These are the 11 classes by which the competition's kernels stratified. The rounding is done in whole pixels.
    """
    area = np.count_nonzero(masks, axis=(1, 2))
    return -(-10 * area // (masks.shape[1] * masks.shape[2]))


def exposure(folds: pd.DataFrame, placement: pd.DataFrame) -> pd.DataFrame:
    """How exposed each fold's validation tiles are to the other folds, one row per fold and one for "all".

    folds is (id, fold), placement (id, mosaic, row, col); tiles that have no placement count as not exposed. Columns:
    fold (text), tiles (count), neighbour (share of them with one of their four neighbours in a training fold),
    mosaic (share of them with any tile of their mosaic in a training fold).
    """
    _check(placement, ["id", "mosaic", "row", "col"], folds["id"])
    table = folds.merge(placement, on="id", how="left")
    cells = {
        (mosaic, row, col): fold
        for mosaic, row, col, fold in table[["mosaic", "row", "col", "fold"]].dropna().itertuples(index=False)
    }

    def near(tile) -> bool:
        sides = [(tile.row - 1, tile.col), (tile.row + 1, tile.col), (tile.row, tile.col - 1), (tile.row, tile.col + 1)]
        return any(cells.get((tile.mosaic, *side), tile.fold) != tile.fold for side in sides)

    table["neighbour"] = [near(tile) for tile in table.itertuples()]
    table["mosaic"] = table.groupby("mosaic")["fold"].transform("nunique") > 1
    groups = [*((str(fold), rows) for fold, rows in table.groupby("fold")), ("all", table)]
    return pd.DataFrame(
        [(name, len(rows), rows["neighbour"].mean(), rows["mosaic"].mean()) for name, rows in groups],
        columns=["fold", "tiles", "neighbour", "mosaic"],
    )


def _by_random(tiles: Tiles, n_folds: int, rng: np.random.Generator, _: pd.DataFrame | None) -> np.ndarray:
    return _deal(rng.permutation(len(tiles.train_ids)), n_folds)


def _by_coverage(tiles: Tiles, n_folds: int, rng: np.random.Generator, _: pd.DataFrame | None) -> np.ndarray:
    # One deck, class after class and shuffled within each, keeps both the classes and the whole even.
    classes = coverage_class(tiles.masks)
    return _deal(np.lexsort((rng.random(len(classes)), classes)), n_folds)


def _by_depth(tiles: Tiles, n_folds: int, rng: np.random.Generator, _: pd.DataFrame | None) -> np.ndarray:
    depth = np.asarray(tiles.train_depth, np.float64)
    if np.isnan(depth).all():
        raise InputError("folds by depth, but no training tile has a depth: add depths.csv, or use folds by coverage")
    order = np.lexsort((rng.random(len(depth)), depth))  # NaN sorts last, in random order
    # Shuffled inside each hand of n_folds tiles, or fold 0 would hold the shallowest tile of every hand.
    hand = np.arange(len(order)) // n_folds
    return _deal(order[np.lexsort((rng.random(len(order)), hand))], n_folds)


def _by_mosaic(tiles: Tiles, n_folds: int, rng: np.random.Generator, placement: pd.DataFrame | None) -> np.ndarray:
    if placement is None:
        raise InputError(
            "folds by mosaic need a placement table (id, mosaic, row, col): give one, or use folds by coverage"
        )
    ids = pd.Series(tiles.train_ids)
    _check(placement, ["id", "mosaic"], ids)
    mosaic = ids.map(placement.set_index("id")["mosaic"])
    alone = "alone-" + ids  # text, which no number of a mosaic equals
    group = pd.factorize(mosaic.astype(object).where(mosaic.notna(), alone))[0]
    if group.max() + 1 < n_folds:
        raise InputError(
            f"{group.max() + 1} mosaics cannot make {n_folds} folds: ask for fewer, or for folds by coverage"
        )
    return _pack(group, coverage_class(tiles.masks), n_folds, rng)[group]


def _pack(group: np.ndarray, classes: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each group: largest group first, each to the fold whose load it resembles least.

    A load counts tiles in all and by coverage class. Adding a group's counts to a load raises the sum of squares by a
    constant plus twice their product, so the smallest product keeps both sizes and classes even.
    """
    counts = np.zeros((group.max() + 1, 12), np.int64)
    np.add.at(counts, (group, classes), 1)
    counts[:, 11] = counts.sum(axis=1)
    load = np.zeros((n_folds, 12), np.int64)
    fold = np.zeros(len(counts), np.int64)
    for index in np.lexsort((rng.random(len(counts)), -counts[:, 11])):
        fold[index] = np.argmin(load @ counts[index])
        load[fold[index]] += counts[index]
    return fold


def _deal(order: np.ndarray, n_folds: int) -> np.ndarray:
    """Fold of each tile when tiles are dealt in this order, as cards are."""
    fold = np.empty(len(order), np.int64)
    fold[order] = np.arange(len(order)) % n_folds
    return fold


def _check(placement: pd.DataFrame, columns: list[str], ids: pd.Series) -> None:
    missing = [column for column in columns if column not in placement]
    if missing:
        raise InputError(f"the placement table has no column {missing[0]!r}: it needs {', '.join(columns)}")
    if placement["id"].duplicated().any():
        twice = placement.loc[placement["id"].duplicated(), "id"].iloc[0]
        raise InputError(f"the placement table places tile {twice} twice: keep one of the two rows")
    if not placement["id"].isin(ids).any():
        raise InputError("the placement table has none of the training tiles: make it anew from this data")


_DEALS: dict[str, Callable[..., np.ndarray]] = {
    "coverage": _by_coverage,
    "random": _by_random,
    "depth": _by_depth,
    "mosaic": _by_mosaic,
}
KINDS = tuple(_DEALS)
