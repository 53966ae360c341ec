"""For each tile the mask, the empty one included, of the greatest expected score under the metric.

What is not known is modelled as simply as calibrated probabilities allow. A tile is empty with a probability of its
own. If it is not, its truth is one of the map's level sets, {prob > u}, with u drawn at random: then a pixel is salt
with probability P(u < prob), so the law of u is no more than the calibration curve of the pixel probabilities. (The
other simple model, pixels that err by themselves, is far from masks: over 10,000 pixels it leaves no doubt at all.)

Under this model the best mask is made of the most probable pixels: of all masks of one area, that one has the largest
overlap with every level set. So a tile's candidates are its level sets and the empty mask, and the expected score of
each is a sum. Independent pixels lead to a level set with a threshold of the tile's own, too, for Dice and for IoU (Dai
and Li, "RankSEG", JMLR 24, 2023, theorem 1 and RankIoU); choosing by expected IoU instead of a fixed threshold is due
to Nowozin, "Optimal decisions from probabilistic models: the intersection-over-union case", CVPR 2014.

No truth is quite a level set, so the model's scores are too high: a second calibration turns them into those that the
out-of-fold tiles had. A mask with salt scores only where the tile is not empty, the empty mask only where it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, logit

from kit.scoring.metric import score_of_areas

LEVELS = expit(np.linspace(-6, 6, 49))  # evenly spread logits: half of a net's certain pixels lie beyond 0.9
CHUNK = 256  # tiles at a time: 5 MB for all pairs of level sets
_RIDGE = 1.0


@dataclass(frozen=True)
class Calibration:
    """What out-of-fold tiles teach about a net's probabilities; plain numbers, kept in decision.json. K levels."""

    levels: tuple[float, ...]  # (K,) probabilities, ascending: the thresholds to choose from
    salt: tuple[float, ...]  # (K + 1,) of a tile with salt, the share of salt below the first level, above it, ...
    expected: tuple[float, ...]  # ascending: of a tile with salt, the score that the model expects, and ...
    actual: tuple[float, ...]  # ... the mean score that such tiles had
    empty: tuple[float, ...]  # weights of `_features` in the log-odds that a tile is empty

    @property
    def needs_head(self) -> bool:
        """Whether `thresholds` must be given what the net's empty head says."""
        return len(self.empty) == len(self.levels) + 3

    @classmethod
    def of(cls, values: Mapping[str, ArrayLike]) -> "Calibration":
        """From the values of its fields, as JSON has them. ValueError where they do not fit together."""
        arrays = {field.name: np.array(values[field.name], np.float64) for field in fields(cls)}
        levels, knots = arrays["levels"], len(arrays["expected"])
        sound = (
            set(values) == set(arrays)
            and all(array.ndim == 1 and np.isfinite(array).all() for array in arrays.values())
            and 0 < levels[0] <= levels[-1] < 1
            and all((np.diff(arrays[name]) >= 0).all() for name in ("levels", "salt", "expected", "actual"))
            and len(arrays["salt"]) == len(levels) + 1
            and knots == len(arrays["actual"]) > 0
            and len(arrays["empty"]) - len(levels) in (2, 3)
        )
        if not sound:
            raise ValueError("not a calibration")
        return cls(**{name: tuple(array.tolist()) for name, array in arrays.items()})

    def thresholds(self, prob: np.ndarray, head: np.ndarray | None = None) -> np.ndarray:
        """The threshold of each tile, (N,) float64; infinite where the empty mask is expected to score most.

        prob: (N, H, W) float; head: (N,), the empty head's probability that a tile is empty, where it was learnt with.
        """
        chosen = self.choose(areas_above(prob, self.levels), head)
        return np.append(self.levels, np.inf)[chosen]

    def choose(self, areas: np.ndarray, head: np.ndarray | None = None) -> np.ndarray:
        """The index of the best level of each tile, (N,) int; K for the empty mask. areas: as of `areas_above`."""
        best, worth, p_empty = self.weigh(areas, head)
        return np.where(p_empty > (1 - p_empty) * worth, len(self.levels), best)

    def weigh(self, areas: np.ndarray, head: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each tile: its best level's index (N,), that one's expected score if there is salt, P(tile is empty)."""
        best, expected = best_levels(areas, self.salt)
        p_empty = expit(_features(areas, expected, head if self.needs_head else None) @ self.empty)
        return best, np.interp(expected, self.expected, self.actual), p_empty


def calibrate(
    areas: np.ndarray, shared: np.ndarray, true_area: np.ndarray, head: np.ndarray | None = None
) -> Calibration:
    """Learn from out-of-fold tiles how far to trust a net; see the top of this file.

    areas, shared: (N, K + 1) int, pixels above each of LEVELS, all of them and those that are salt, as of
    `areas_above`; true_area: (N,) int; head: (N,), what the net's empty head says, or None.
    """
    with_salt = true_area > 0
    salt = _salt_shares(areas[with_salt], shared[with_salt])
    best, expected = best_levels(areas, salt)
    own = np.arange(len(areas)), best + 1
    scores = score_of_areas(areas[own], true_area, shared[own])
    knots = _isotonic(expected[with_salt], scores[with_salt])
    weights = _logistic(_features(areas, expected, head), ~with_salt)
    return Calibration.of({"levels": LEVELS, "salt": salt, "expected": knots[0], "actual": knots[1], "empty": weights})


def areas_above(prob: np.ndarray, levels: ArrayLike, masks: np.ndarray | None = None) -> np.ndarray:
    """Pixels above no level, above the first, the second ...: (N, K + 1) int; only those of masks where given.

    prob: (N, H, W) float, compared as float64; levels: (K,), ascending; masks: (N, H, W) bool.
    """
    levels = np.asarray(levels)
    areas = np.empty((len(prob), len(levels) + 1), np.int64)
    for index, tile in enumerate(prob):
        pixels = tile.ravel() if masks is None else tile[masks[index]]
        above = np.bincount(np.searchsorted(levels, pixels.astype(np.float64)), minlength=len(levels) + 1)
        areas[index] = above[::-1].cumsum()[::-1]
    return areas


def expected_scores(areas: np.ndarray, salt: ArrayLike) -> np.ndarray:
    """The expected score of each tile's level sets, (N, K), given that the tile has salt.

    The truth is the whole tile or one of the level sets, each with the step of `salt` there; with what is left to 1
    the map shows nothing of it. A level set without pixels scores nothing.
    """
    chance = np.diff(np.asarray(salt), prepend=0)
    scores = np.empty((len(areas), len(chance) - 1))
    for first in range(0, len(areas), CHUNK):
        part = areas[first : first + CHUNK]
        pred, true = part[:, 1:, None], part[:, None, :]
        scores[first : first + CHUNK] = score_of_areas(pred, true, np.minimum(pred, true)) @ chance
    return np.where(areas[:, 1:] > 0, scores, 0)


def best_levels(areas: np.ndarray, salt: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The index (N,) of each tile's best level, the middle one among equals, and its expected score (N,)."""
    scores = expected_scores(areas, salt)
    highest = scores.max(axis=1)
    equal = scores > highest[:, None] - 1e-9
    middle = (equal.sum(axis=1) + 1) // 2
    return (equal.cumsum(axis=1) == middle[:, None]).argmax(axis=1), highest


def _salt_shares(areas: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """The share of salt among the pixels between two levels, (K + 1,), ascending as it must be."""
    pixels, salt = (-np.diff(counts.sum(axis=0), append=0) for counts in (areas, shared))
    return isotonic_regression(salt / np.maximum(pixels, 1), weights=np.maximum(pixels, 1)).x


def _isotonic(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knots of a line that never falls, from the blocks of the isotonic regression of y (N,) on x (N,)."""
    if not len(x):
        return np.zeros(1), np.zeros(1)
    values, place, counts = np.unique(np.round(x, 9), return_inverse=True, return_counts=True)
    fit = isotonic_regression(np.bincount(place, y) / counts, weights=counts)
    first = fit.blocks[:-1]
    centres = np.add.reduceat(values * counts, first) / np.add.reduceat(counts, first)
    return centres, fit.x[first]


def _features(areas: np.ndarray, expected: np.ndarray, head: np.ndarray | None) -> np.ndarray:
    """What tells an empty tile, (N, F): 1, the area above each level, the best expected score, the head's log-odds."""
    columns = [np.ones(len(areas)), *np.log1p(areas[:, 1:]).T, expected]
    if head is not None:
        columns.append(logit(np.clip(head.astype(np.float64), 1e-3, 1 - 1e-3)))
    return np.stack(columns, axis=1)


def _logistic(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weights (F,) of the ridge logistic regression of labels (N,) bool on features (N, F).

    The first feature is 1. The penalty is on the weights of the others in units of their spread.
    """
    spread = features.std(axis=0)
    spread[spread < 1e-9] = 1  # rounding
    scaled = features / spread
    penalty = np.full(len(spread), _RIDGE)
    penalty[0] = 1e-3  # keeps the weights finite where all labels are alike

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        z = scaled @ weights
        value = np.logaddexp(0, z).sum() - z[labels].sum() + (penalty * weights**2).sum() / 2
        return value, scaled.T @ (expit(z) - labels) + penalty * weights

    def hessian(weights: np.ndarray) -> np.ndarray:
        p = expit(scaled @ weights)
        return (scaled.T * (p * (1 - p))) @ scaled + np.diag(penalty)

    return minimize(loss, np.zeros(len(spread)), jac=True, hess=hessian, method="trust-exact").x / spread
