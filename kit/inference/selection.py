"""How much each of several predictions should count: greedy selection on out-of-fold scores, kept only where it gains.

Selection with replacement (Caruana et al., "Ensemble selection from libraries of models", ICML 2004, sections 2 and
2.1) works on the competition's own score and gives weights that are multiples of a small fraction: there is less to
overfit than in a fit of real numbers. The search is nested, as that of the threshold is: what the other folds choose
is scored on this one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from kit.scoring.threshold import bootstrap_interval, cross_fit_groups

ROUNDS = 10

Counts = tuple[int, ...]  # how often each run was chosen
Score = Callable[[Counts], np.ndarray]  # the score of each tile (N,) under the mean with these weights


@dataclass(frozen=True)
class Selection:
    """What the search found, and whether it is shown to beat equal weights. R runs, N tiles."""

    weights: np.ndarray  # (R,) for new tiles, summing to 1; equal where no gain is shown
    by_tile: np.ndarray  # (N, R) for the tiles themselves: what the other folds chose, or equal
    nested: float  # mean score with what the other folds chose
    equal: float  # mean score with equal weights
    gain_low: float  # 95 % interval of nested - equal, paired bootstrap over tiles
    gain_high: float

    @property
    def accepted(self) -> bool:
        return self.gain_low > 0

    def in_words(self) -> str:
        """What was decided about the weights, with its reason."""
        choice = "these weights" if self.accepted else "equal weights, as no gain is shown"
        return (
            f"{choice}: nested score of those found {self.nested:.4f} against {self.equal:.4f} of equal ones, "
            f"gain {self.gain_low:+.4f} to {self.gain_high:+.4f} (95 %)"
        )


def choose(score: Score, n_runs: int, folds: np.ndarray) -> Selection:
    """Search weights of `n_runs` runs, nested over the folds (N,) int of the tiles; one fold is split at random."""
    score = cache(score)
    rng = np.random.default_rng(0)
    groups = cross_fit_groups(folds, rng)
    by_tile, nested = np.empty((len(folds), n_runs)), np.empty(len(folds))
    for group in np.unique(groups):
        inside = groups == group
        counts = select(score, n_runs, ~inside)
        by_tile[inside], nested[inside] = shares(counts), score(counts)[inside]
    equal = score((1,) * n_runs)
    low, high = bootstrap_interval(nested - equal, rng)
    weights = shares(select(score, n_runs, np.ones(len(folds), bool)))
    if low <= 0:
        weights, by_tile = shares((1,) * n_runs), np.full_like(by_tile, 1 / n_runs)
    return Selection(weights, by_tile, float(nested.mean()), float(equal.mean()), low, high)


def select(score: Score, n_runs: int, inside: np.ndarray) -> Counts:
    """The counts that selection finds best on the tiles `inside`, (N,) bool.

    Each round adds the run that helps most, the first one being the best run; of all rounds the best is kept, the
    earliest among equals.
    """
    counts, best, highest = (0,) * n_runs, (0,) * n_runs, -1.0
    for _ in range(ROUNDS):
        wider = [tuple(count + (run == added) for run, count in enumerate(counts)) for added in range(n_runs)]
        values = [score(option)[inside].mean() for option in wider]
        counts = wider[int(np.argmax(values))]
        if max(values) > highest + 1e-9:
            best, highest = counts, max(values)
    return best


def shares(counts: Counts) -> np.ndarray:
    """Counts as weights that sum to 1."""
    return np.array(counts) / sum(counts)
