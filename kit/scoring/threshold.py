"""Threshold and smallest component: found on out-of-fold predictions, kept only when shown to help.

The search is nested: what is chosen on the other folds is scored on this one, so the score it reports was not chosen
by the tiles it is measured on. A threshold searched and scored on the same tiles always looks better than 0.5.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from kit.errors import InputError
from kit.scoring.decision import CONSTANT_EMPTY, SIZES, Decision
from kit.scoring.metric import average_precision, sweep
from kit.scoring.postprocess import CHUNK, component_areas

THRESHOLDS = np.round(np.linspace(0.1, 0.9, 41), 2)
GROUPS = 5  # of the tiles of a single fold, for cross-fitting
RESAMPLES = 2000

# The score against the threshold is a jagged line with a broad top: the top of the line smoothed over +-0.04 moves
# less from one set of tiles to the next, and lies no lower.
_KERNEL = np.array([1, 2, 3, 2, 1]) / 9


# Given the tiles to look at, (N,) bool: what is best on them, and the score of every tile (N,) under it
Search = Callable[[np.ndarray], tuple[Decision, np.ndarray]]


@dataclass(frozen=True)
class Tuning:
    """What the search saw: the decision, and all that its figure shows."""

    decision: Decision
    candidate: tuple[float, int]  # threshold and smallest component found on all tiles, accepted or not
    by_fold: dict[int, tuple[float, int]]  # the same found without each fold
    baseline: float  # mean score at threshold 0.5 with every component kept
    thresholds: np.ndarray  # (T,)
    curve: np.ndarray  # (T,) mean score at each threshold with the candidate's smallest component
    band: np.ndarray  # (T,) half width of the 95 % band of the paired difference curve - baseline


def tune(
    prob: np.ndarray, true: np.ndarray, folds: np.ndarray, constant: np.ndarray | None = None, seed: int = 0
) -> Tuning:
    """Find threshold and smallest component on out-of-fold predictions, nested over folds.

    prob: (N, H, W) float; true: (N, H, W) bool; folds: (N,) int, the fold each tile was held out in; constant: (N,)
    bool, tiles whose image holds one grey value, which are then emptied throughout. With a single fold the search is
    cross-fitted over five random groups of its tiles. The decision stays at 0.5, 0 unless the lower end of the gain's
    bootstrap interval is above 0. Raises InputError for fewer than five tiles.
    """
    rng = np.random.default_rng(seed)
    groups = cross_fit_groups(folds, rng)
    return tuning_of(score_table(prob, true, constant), groups, () if constant is None else (CONSTANT_EMPTY,), rng)


def tuning_of(table: np.ndarray, groups: np.ndarray, rules: tuple[str, ...], rng: np.random.Generator) -> Tuning:
    """`tune` on a table of scores (N, T, S), as of `score_table`, held out by groups (N,)."""
    search = search_of(table)
    nested, by_fold = cross_fit(search, groups)
    baseline = table[:, THRESHOLDS.searchsorted(0.5), SIZES.index(0)]
    low, high = bootstrap_interval(nested - baseline, rng)
    found, _ = search(np.ones(len(table), bool))
    means = float(nested.mean()), float(baseline.mean())
    kept = found if low > 0 else Decision()
    decision = Decision(kept.threshold, kept.min_component, rules, *means, low, high, accepted=low > 0)
    curves = table[:, :, SIZES.index(found.min_component)]
    band = 1.96 * (curves - baseline[:, None]).std(0, ddof=1) / np.sqrt(len(table))
    return Tuning(decision, _pair(found), {group: _pair(one) for group, one in by_fold.items()}, means[1],
                  THRESHOLDS, curves.mean(0), band)  # fmt: skip


def _pair(found: Decision) -> tuple[float, int]:
    return found.threshold, found.min_component


def cross_fit_groups(folds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The group (N,) that each tile is held out with: its fold, or one of five random groups where all share one.

    Raises InputError for fewer than five tiles.
    """
    if len(folds) < GROUPS:
        raise InputError(
            f"{len(folds)} tiles are too few to tune a threshold on, {GROUPS} at least: predict more of them"
        )
    return folds if len(np.unique(folds)) > 1 else rng.permutation(len(folds)) % GROUPS


def cross_fit(search: Search, groups: np.ndarray) -> tuple[np.ndarray, dict[int, Decision]]:
    """The score of each tile (N,) under what is best on the other groups, and what that is, by group."""
    nested, found = np.empty(len(groups)), {}
    for group in np.unique(groups):
        inside = groups == group
        found[int(group)], scores = search(~inside)
        nested[inside] = scores[inside]
    return nested, found


def search_of(table: np.ndarray) -> Search:
    """The search of the best threshold and smallest component in a table of scores (N, T, S)."""

    def search(inside: np.ndarray) -> tuple[Decision, np.ndarray]:
        t, s = best_of(table[inside].mean(0))
        return Decision(float(THRESHOLDS[t]), SIZES[s]), table[:, t, s]

    return search


def score_table(prob: np.ndarray, true: np.ndarray, constant: np.ndarray | None) -> np.ndarray:
    """The score of each tile at each threshold and smallest component, (N, T, S); a chunk of tiles in memory."""
    table = np.empty((len(prob), len(THRESHOLDS), len(SIZES)))
    for start in range(0, len(prob), CHUNK):
        chunk = slice(start, start + CHUNK)
        values = prob[chunk].astype(np.float64)
        if constant is not None:
            values[constant[chunk]] = 0
        table[chunk] = sweep(values, true[chunk], THRESHOLDS)[:, :, None]
        for t, threshold in enumerate(THRESHOLDS):
            _score_sizes(values > threshold, true[chunk], table[chunk, t])
    return table


def _score_sizes(masks: np.ndarray, true: np.ndarray, scores: np.ndarray) -> None:
    """Write into scores (N, S) those of the tiles that lose a component at a size; the others keep theirs."""
    areas = component_areas(masks)
    smallest = np.where(masks, areas, np.iinfo(np.int32).max).min(axis=(1, 2))
    for s, size in enumerate(SIZES):
        changed = smallest < size
        scores[changed, s] = average_precision(areas[changed] >= size, true[changed])


def best_of(mean: np.ndarray) -> tuple[int, int]:
    """Indices of the best threshold and size in a table of mean scores (T, S); the smallest size among equals."""
    smooth = ndimage.convolve1d(mean, _KERNEL, axis=0, mode="nearest")
    size = int(smooth.max(axis=0).argmax())
    top = np.flatnonzero(smooth[:, size] > smooth[:, size].max() - 1e-9)
    return int(top[len(top) // 2]), size


def bootstrap_interval(gains: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile interval of the mean of gains (N,), resampling tiles."""
    means = [gains[rng.integers(len(gains), size=len(gains))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
