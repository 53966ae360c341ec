"""What exactly is scored: the competition's mean average precision over thresholds of intersection over union (IoU).

For one tile, the share of the thresholds 0.50, 0.55, ..., 0.95 that the IoU of predicted and true salt exceeds; two
empty masks score 1, one empty mask 0. The score of a set is the mean over its tiles
(https://www.kaggle.com/competitions/tgs-salt-identification-challenge/overview/evaluation).

An IoU exactly at a threshold is a miss, so whole numbers of pixels are compared: I / U > n / d becomes
I * d > n * U. In floating point rounding would decide: np.linspace(0.5, 0.95, 10) has 0.8999999999999999 for 0.9.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from kit.data.competition import TGS

KINDS = ("empty", "tiny", "vertical", "large", "ordinary")
_THRESHOLDS = tuple(Fraction(str(threshold)) for threshold in TGS.iou_thresholds)
_TINY = 100  # pixels: about 7 % of the masks with salt, where one pixel decides several thresholds


def average_precision(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The score of each tile, float64 (N,) in [0, 1], of masks pred and true, both bool (N, H, W).

    ValueError when the shapes or types are others.
    """
    pred, true = _masks("pred", pred), _masks("true", true)
    _same_shape("pred", pred, true)
    # One flat count per tile is many times faster than a count along axes.
    areas = np.array(
        [[np.count_nonzero(p), np.count_nonzero(t), np.count_nonzero(p & t)] for p, t in zip(pred, true, strict=True)]
    )
    return score_of_areas(*areas.reshape(-1, 3).T)


def mean_average_precision(pred: np.ndarray, true: np.ndarray) -> float:
    """The competition's score of masks pred and true, both bool (N, H, W), N at least 1: the mean over tiles."""
    if not len(pred):
        raise ValueError("there are no tiles to score")
    return float(average_precision(pred, true).mean())


def sweep(prob: np.ndarray, true: np.ndarray, thresholds: ArrayLike) -> np.ndarray:
    """The score of each tile at each probability threshold: float64 (N, T).

    prob (N, H, W) is any real type without NaN; true is bool (N, H, W); thresholds (T,), in prob's unit and any
    order. A pixel is salt where prob > threshold with both taken as float64, to which every type here converts
    exactly: a float16 array against a Python number would round the threshold to float16 and move pixels that lie
    on it. Memory beyond the arguments is one tile's masks.
    """
    prob, true = np.asarray(prob), _masks("true", true)
    cuts = np.asarray(thresholds, np.float64)
    _same_shape("prob", prob, true)
    if prob.dtype.kind not in "fiu":
        raise ValueError(f"prob must be real numbers, not {prob.dtype}: give probabilities, not masks")
    if cuts.ndim != 1 or np.isnan(cuts).any():
        raise ValueError(f"thresholds must be numbers in one dimension, not NaN nor of shape {cuts.shape}")
    scores = np.empty((len(prob), len(cuts)))
    for index, (tile, mask) in enumerate(zip(prob, true, strict=True)):
        tile = tile.astype(np.float64)
        if np.isnan(tile).any():
            raise ValueError(f"prob of tile {index} is NaN in places: the net that made it has diverged")
        preds = [tile > cut for cut in cuts]
        area = np.array([np.count_nonzero(pred) for pred in preds])
        shared = np.array([np.count_nonzero(pred & mask) for pred in preds])
        scores[index] = score_of_areas(area, int(np.count_nonzero(mask)), shared)
    return scores


def kind_of(true: np.ndarray) -> np.ndarray:
    """The kind of each true mask, bool (N, H, W), as text (N,): the first of KINDS that holds.

    "empty"; "tiny", at most 100 pixels; "vertical", all rows alike but not all salt (an artefact of how the masks
    were drawn); "large", more than half of the tile; "ordinary", any other.
    """
    true = _masks("true", true)
    size = true.shape[1] * true.shape[2]
    area = np.array([np.count_nonzero(mask) for mask in true], np.int64)
    vertical = (true == true[:, :1]).all(axis=(1, 2)) & (area < size)
    return np.select([area == 0, area <= _TINY, vertical, 2 * area > size], KINDS[:-1], KINDS[-1])


def score_of_areas(pred_area: np.ndarray, true_area: np.ndarray | int, shared: np.ndarray) -> np.ndarray:
    """The score, float64, of masks known by their areas and the area that they share, integers of shapes that fit."""
    union = pred_area + true_area - shared
    hits = sum(hits_of_areas(union, shared))
    return np.where(union == 0, 1.0, hits / len(_THRESHOLDS))


def hits_of_areas(union: np.ndarray, shared: np.ndarray) -> list[np.ndarray]:
    """For each threshold of the competition, ascending, whether the IoU is above it: bool of the areas' shape."""
    return [shared * threshold.denominator > threshold.numerator * union for threshold in _THRESHOLDS]


def _masks(name: str, masks: np.ndarray) -> np.ndarray:
    masks = np.asarray(masks)
    if masks.dtype != bool or masks.ndim != 3:
        raise ValueError(
            f"{name} must be bool masks of shape (N, H, W), not {masks.dtype} of shape {masks.shape}: "
            "compare first (mask > 0, prob > threshold)"
        )
    return masks


def _same_shape(name: str, array: np.ndarray, true: np.ndarray) -> None:
    if array.shape != true.shape:
        raise ValueError(f"{name} has shape {array.shape} and true {true.shape}: they must be alike")
