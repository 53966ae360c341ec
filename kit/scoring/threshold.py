"""The decision that turns probabilities into masks: found on out-of-fold predictions, kept only when shown to help.

The search is nested: what is chosen on the other folds is scored on this one, so the score it reports was not chosen
by the tiles it is measured on. A threshold searched and scored on the same tiles always looks better than 0.5.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from scipy import ndimage

from kit.errors import InputError
from kit.runs import read_json, write_json
from kit.scoring.metric import average_precision, sweep
from kit.scoring.postprocess import CHUNK, component_areas, empty_constant, remove_small_components

THRESHOLDS = np.round(np.linspace(0.1, 0.9, 41), 2)
SIZES = (0, 5, 10, 20, 50, 100, 200)  # pixels, smallest component kept
CONSTANT_EMPTY = "constant-empty"
GROUPS = 5  # of the tiles of a single fold, for cross-fitting
RESAMPLES = 2000

# The score against the threshold is a jagged line with a broad top: the top of the line smoothed over +-0.04 moves
# less from one set of tiles to the next, and lies no lower.
_KERNEL = np.array([1, 2, 3, 2, 1]) / 9


@dataclass(frozen=True)
class Decision:
    """How probabilities become masks, and the numbers that justify it: runs/NAME/decision.json.

    `Decision()`, threshold 0.5 and every component kept, stands where nothing was tuned. Scores are means over tiles.
    """

    threshold: float = 0.5
    min_component: int = 0  # pixels
    rules: tuple[str, ...] = ()
    score: float | None = None  # of the tuned candidate, nested; this and the next three are None where not tuned
    baseline: float | None = None  # at threshold 0.5 with every component kept
    gain_low: float | None = None  # 95 % interval of score - baseline, paired bootstrap over tiles
    gain_high: float | None = None
    accepted: bool = False  # the gain is shown, so threshold and min_component are the tuned ones

    def masks(self, prob: np.ndarray, constant: np.ndarray | None = None) -> np.ndarray:
        """Probabilities (N, H, W) of any float type -> masks (N, H, W) bool; constant (N,) bool: images of one grey.

        Raises ValueError when the rules need `constant` and it is not given.
        """
        # float64 on the right: a plain 0.35 would be rounded to the float16 of the predictions
        masks = remove_small_components(prob > np.float64(self.threshold), self.min_component)
        if CONSTANT_EMPTY not in self.rules:
            return masks
        if constant is None:
            raise ValueError(f'the decision has the rule "{CONSTANT_EMPTY}": say which tiles are constant')
        return empty_constant(masks, constant)

    def in_words(self) -> str:
        """The decision and, where it was tuned, its reason on a second line."""
        components = f", components under {self.min_component} pixels removed" if self.min_component else ""
        choice = f"Threshold {self.threshold:.2f}{components}"
        if self.score is None:
            return choice
        reason = (
            f"nested score {self.score:.4f} against {self.baseline:.4f} at 0.50, "
            f"gain {self.gain_low:+.4f} to {self.gain_high:+.4f} (95 %)"
        )
        return f"{choice if self.accepted else 'Threshold stays at 0.50: no gain is shown'}\n{reason}"

    def to_json(self, path: Path | str) -> None:
        write_json(path, asdict(self))

    @classmethod
    def from_json(cls, path: Path | str) -> "Decision":
        """Raises InputError, naming the file, for one that `to_json` did not write."""
        values = read_json(path)
        try:
            decision = cls(**{**values, "rules": tuple(values["rules"])})
            known = set(values) == {field.name for field in fields(cls)} and set(decision.rules) <= {CONSTANT_EMPTY}
            whole = type(decision.min_component) is int and 0 <= decision.min_component <= max(SIZES)
            valid = known and whole and 0 < decision.threshold < 1
        except (TypeError, KeyError):
            valid = False
        if not valid:
            raise InputError(f"{path} does not hold a decision: write it anew with tune_threshold.py")
        return decision


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
    if len(prob) < GROUPS:
        raise InputError(
            f"{len(prob)} tiles are too few to tune a threshold on, {GROUPS} at least: predict more of them"
        )
    rng = np.random.default_rng(seed)
    scores = _score_table(prob, true, constant)
    groups = cross_fit_groups(folds, rng)
    nested, by_fold = _cross_fit(scores, groups)
    baseline = scores[:, THRESHOLDS.searchsorted(0.5), SIZES.index(0)]
    low, high = bootstrap_interval(nested - baseline, rng)
    t, s = _best(scores.mean(0))
    candidate = (float(THRESHOLDS[t]), SIZES[s])
    threshold, min_component = candidate if low > 0 else (0.5, 0)
    rules = () if constant is None else (CONSTANT_EMPTY,)
    means = float(nested.mean()), float(baseline.mean())
    decision = Decision(threshold, min_component, rules, *means, low, high, accepted=low > 0)
    band = 1.96 * (scores[:, :, s] - baseline[:, None]).std(0, ddof=1) / np.sqrt(len(prob))
    return Tuning(decision, candidate, by_fold, means[1], THRESHOLDS, scores[:, :, s].mean(0), band)


def cross_fit_groups(folds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The group (N,) that each tile is held out with: its fold, or one of five random groups where all share one."""
    return folds if len(np.unique(folds)) > 1 else rng.permutation(len(folds)) % GROUPS


def _cross_fit(scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, dict[int, tuple[float, int]]]:
    """The score of each tile (N,) under what is best on the other groups, and what that is, by group."""
    nested, found = np.empty(len(scores)), {}
    for group in np.unique(groups):
        inside = groups == group
        t, s = _best(scores[~inside].mean(0))
        nested[inside] = scores[inside, t, s]
        found[int(group)] = (float(THRESHOLDS[t]), SIZES[s])
    return nested, found


def _score_table(prob: np.ndarray, true: np.ndarray, constant: np.ndarray | None) -> np.ndarray:
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


def _best(mean: np.ndarray) -> tuple[int, int]:
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
