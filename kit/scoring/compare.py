"""Which decision is best: each way of turning probabilities into masks, nested over folds, against a plain 0.5.

Every way learns on the other folds what it is scored with on this one. The best of those whose gain is outside noise
is taken, a simpler one among equals.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import pandas as pd

from kit.scoring import expected
from kit.scoring.decision import CONSTANT_EMPTY, FULL_EMPTY, HOLES, Decision
from kit.scoring.metric import average_precision, score_of_areas
from kit.scoring.postprocess import CHUNK, hole_areas, remove_small_components
from kit.scoring.threshold import (
    THRESHOLDS,
    Search,
    Tuning,
    best_of,
    bootstrap_interval,
    cross_fit,
    cross_fit_groups,
    score_table,
    search_of,
    tuning_of,
)

GATES = np.round(np.linspace(0.1, 0.9, 17), 2)  # probabilities of the empty head


@dataclass(frozen=True)
class Sample:
    """N out-of-fold tiles."""

    prob: np.ndarray  # (N, H, W) float
    true: np.ndarray  # (N, H, W) bool
    folds: np.ndarray  # (N,) int, the fold that each was held out in
    constant: np.ndarray  # (N,) bool: images of one grey, which are emptied throughout
    head: np.ndarray | None = None  # (N,) float: the empty head's probability that a tile is empty


@dataclass(frozen=True)
class Way:
    """One way of deciding: what it learns from all tiles, and its nested scores."""

    name: str
    decision: Decision
    scores: np.ndarray  # (N,)
    by_fold: Mapping[int, Decision]  # what it learns without each fold, which its scores there are of
    gain_low: float = 0.0  # 95 % interval of the mean gain over the first way, paired bootstrap over tiles
    gain_high: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """All that was compared."""

    ways: list[Way]  # the first is threshold 0.5 with every component kept
    used: Way
    tuning: Tuning  # of threshold and smallest component, for its figure

    @property
    def decision(self) -> Decision:
        """That of the way that is used, with the numbers that justify it; where it is the first, those of the best."""
        judged = self.used if self.used is not self.ways[0] else max(self.ways[1:], key=lambda way: way.scores.mean())
        return replace(
            self.used.decision, rules=(CONSTANT_EMPTY, *self.used.decision.rules), score=float(judged.scores.mean()),
            baseline=float(self.ways[0].scores.mean()), gain_low=judged.gain_low, gain_high=judged.gain_high,
            accepted=judged is self.used,
        )  # fmt: skip

    def table(self) -> pd.DataFrame:
        """A row for each way: name, score, gain, gain_low, gain_high, used."""
        baseline = self.ways[0].scores.mean()
        rows = [
            (way.name, way.scores.mean(), way.scores.mean() - baseline, way.gain_low, way.gain_high, way is self.used)
            for way in self.ways
        ]
        return pd.DataFrame(rows, columns=["name", "score", "gain", "gain_low", "gain_high", "used"])

    def with_rules(self, rules: tuple[str, ...], placement: str, scores: np.ndarray, seed: int = 0) -> "Comparison":
        """With mosaic rules, measured on `placement`, after the way that is used; scores (N,): after them too."""
        interval = bootstrap_interval(scores - self.ways[0].scores, np.random.default_rng(seed))
        decision = replace(self.used.decision, rules=self.used.decision.rules + rules, placement=placement)
        last = Way(f"{self.used.name}, mosaic rules", decision, scores, {}, *interval)
        return replace(self, ways=[*self.ways, last], used=last)


def compare(sample: Sample, seed: int = 0) -> Comparison:
    """Compare all ways of deciding; with a single fold, cross-fitted over five random groups of its tiles.

    Raises InputError for fewer than five tiles.
    """
    rng = np.random.default_rng(seed)
    groups = cross_fit_groups(sample.folds, rng)
    scores = score_table(sample.prob, sample.true, sample.constant)
    first = Way("threshold 0.50", Decision(), scores[:, THRESHOLDS.searchsorted(0.5), 0], {})
    ways = [first]
    for name, search in _searches(sample, scores).items():
        nested, by_fold = cross_fit(search, groups)
        found, _ = search(np.ones(len(groups), bool))
        ways.append(Way(name, found, nested, by_fold, *bootstrap_interval(nested - first.scores, rng)))
    used = max((way for way in ways if way is first or way.gain_low > 0), key=lambda way: way.scores.mean())
    return Comparison(ways, used, tuning_of(scores, groups, (CONSTANT_EMPTY,), rng))


def _searches(sample: Sample, scores: np.ndarray) -> dict[str, Search]:
    """The ways to compare, the simple ones first; scores (N, T, S): as of `score_table`."""
    searches = {
        "threshold": search_of(scores[:, :, :1]),
        "threshold, components": search_of(scores),
        "threshold, components, holes": _mend(sample, search_of(scores)),
    }
    if sample.head is not None:
        searches["threshold, components, empty head"] = _gate(sample, scores)
    return searches | {"greatest expected score": _expect(sample)}


def _mend(sample: Sample, first: Search) -> Search:
    """After the components that `first` finds: which holes to fill, and whether to empty full masks."""
    mended = cache(partial(_mended_scores, sample))

    def search(inside: np.ndarray) -> tuple[Decision, np.ndarray]:
        found, _ = first(inside)
        scores = mended(found.threshold, found.min_component)
        means = scores[inside].mean(axis=0)
        hole, full = np.unravel_index(int(means.argmax()), means.shape)
        rules = (FULL_EMPTY,) if full else ()
        return replace(found, min_hole=HOLES[hole], rules=rules), scores[:, hole, full]

    return search


def _mended_scores(sample: Sample, threshold: float, min_component: int) -> np.ndarray:
    """The score of each tile for each size of hole, full masks kept or emptied: (N, len(HOLES), 2)."""
    table = np.empty((len(sample.true), len(HOLES), 2))
    for start in range(0, len(table), CHUNK):
        chunk = slice(start, start + CHUNK)
        true = sample.true[chunk]
        above = (sample.prob[chunk] > np.float64(threshold)) & ~sample.constant[chunk, None, None]
        masks = remove_small_components(above, min_component)
        holes = hole_areas(masks)
        for h, size in enumerate(HOLES):
            filled = masks | ((holes > 0) & (holes < size))
            table[chunk, h, 0] = average_precision(filled, true)
            full = filled.all(axis=(1, 2))
            table[chunk, h, 1] = np.where(full, ~true.any(axis=(1, 2)), table[chunk, h, 0])
    return table


def _gate(sample: Sample, scores: np.ndarray) -> Search:
    """Threshold and smallest component, and tiles emptied where the empty head is sure enough."""
    assert sample.head is not None
    head = sample.head.astype(np.float64)
    emptied = ~sample.true.any(axis=(1, 2), keepdims=True)

    def gated(cut: float) -> np.ndarray:
        return np.where((head > cut)[:, None, None], emptied, scores)

    def search(inside: np.ndarray) -> tuple[Decision, np.ndarray]:
        means = np.array([gated(cut)[inside].mean(axis=0) for cut in GATES])
        tops = [best_of(mean) for mean in means]
        g = int(np.argmax([mean[top] for mean, top in zip(means, tops, strict=True)]))
        found, tile_scores = search_of(gated(GATES[g]))(inside)
        return replace(found, empty_above=float(GATES[g])), tile_scores

    return search


def _expect(sample: Sample) -> Search:
    """Each tile's mask of greatest expected score, after calibration."""
    areas = expected.areas_above(sample.prob, expected.LEVELS)
    shared = expected.areas_above(sample.prob, expected.LEVELS, sample.true)
    true_area = sample.true.sum(axis=(1, 2))
    # of each level set, and last of the empty mask
    scores = np.c_[score_of_areas(areas[:, 1:], true_area[:, None], shared[:, 1:]), true_area == 0]

    def search(inside: np.ndarray) -> tuple[Decision, np.ndarray]:
        learn = inside & ~sample.constant
        head = None if sample.head is None else sample.head[learn]
        calibration = expected.calibrate(areas[learn], shared[learn], true_area[learn], head)
        chosen = calibration.choose(areas, sample.head)
        chosen[sample.constant] = -1
        return Decision(calibration=calibration), scores[np.arange(len(scores)), chosen]

    return search
