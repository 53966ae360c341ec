"""What the report's figures count: overlap, errors by distance, calibration, agreement; arrays in, tables out."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import ndimage

from kit.data.folds import coverage_class
from kit.scoring.metric import KINDS, average_precision, kind_of
from kit.scoring.postprocess import CHUNK
from kit.scoring.threshold import bootstrap_interval

DISTANCES = (1, 2, 3, 4, 6, 9, 13, 20, 30)  # pixels, where the bands begin
TWENTIETHS = 20


def overlap(pred: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that each pair of masks (N, H, W) bool shares, and those that either has: int (N,) each."""
    return np.count_nonzero(pred & true, axis=(1, 2)), np.count_nonzero(pred | true, axis=(1, 2))


def iou(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair of masks (N, H, W) bool: float (N,), 1 where both are empty."""
    shared, either = overlap(pred, true)
    return np.where(either > 0, shared / np.maximum(either, 1), 1.0)


def iou_steps(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """How often masks overlap how well: counts (21,), of an IoU of 0, and of (0, 0.05], (0.05, 0.10] to (0.95, 1].

    Whole numbers are compared, as the score does: an IoU of 0.5 is no hit at 0.5, and is counted below it.
    """
    shared, either = overlap(pred, true)
    steps = np.where(either > 0, -(-TWENTIETHS * shared // np.maximum(either, 1)), TWENTIETHS)
    return np.bincount(steps, minlength=TWENTIETHS + 1)


def by_group(pred: np.ndarray, true: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """The mean score of each kind of tile and of each coverage class: by, group, tiles, score, low, high.

    low, high: the 95 % interval, by a bootstrap over the group's tiles.
    """
    scores, rng, rows = average_precision(pred, true), np.random.default_rng(seed), []
    kinds, classes = kind_of(true), coverage_class(true)
    coverages = ["empty", *(f"{10 * k - 10} to {10 * k} %" for k in range(1, 11))]
    groups = [("kind", name, kinds == name) for name in KINDS]
    groups += [("coverage", name, classes == number) for number, name in enumerate(coverages)]
    for by, name, inside in groups:
        if inside.any():
            rows.append((by, name, int(inside.sum()), scores[inside].mean(), *bootstrap_interval(scores[inside], rng)))
    return pd.DataFrame(rows, columns=["by", "group", "tiles", "score", "low", "high"])


def error_by_distance(pred: np.ndarray, true: np.ndarray) -> pd.DataFrame:
    """Wrong pixels by distance to the true boundary: salt (bool), distance (where the band begins), pixels, wrong.

    A pixel's distance is that to the nearest one of the other kind, so 1 is beside the boundary. Only tiles that have
    salt and background have one.
    """
    counts = np.zeros((2, 2, len(DISTANCES)), np.int64)  # salt, wrong, band
    for own, mask in zip(pred, true, strict=True):
        if mask.any() and not mask.all():
            distance = ndimage.distance_transform_edt(mask) + ndimage.distance_transform_edt(~mask)
            band = np.searchsorted(DISTANCES, distance, side="right") - 1
            np.add.at(counts, (mask.astype(int), (own != mask).astype(int), band), 1)
    rows = [(bool(salt), distance, int(counts[salt, :, band].sum()), int(counts[salt, 1, band]))
            for salt in (0, 1) for band, distance in enumerate(DISTANCES)]  # fmt: skip
    return pd.DataFrame(rows, columns=["salt", "distance", "pixels", "wrong"])


def reliability(prob: np.ndarray, true: np.ndarray, bins: int) -> pd.DataFrame:
    """How often it was so where it was said with a probability: prob, share, count, of each bin that has any.

    prob (N, ...) of any float type, memory-mapped too; true, bool of its shape. prob and share are means over the bin.
    """
    count, said, seen = np.zeros((3, bins))
    for first in range(0, len(prob), CHUNK):
        values = np.asarray(prob[first : first + CHUNK], np.float64).ravel()
        which = np.minimum((values * bins).astype(int), bins - 1)
        count += np.bincount(which, minlength=bins)
        said += np.bincount(which, values, bins)
        seen += np.bincount(which, np.asarray(true[first : first + CHUNK]).ravel(), bins)
    there = count > 0
    return pd.DataFrame(
        {"prob": said[there] / count[there], "share": seen[there] / count[there], "count": count[there].astype(int)}
    )


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error, Guo et al., arXiv 1706.04599, eq. 3: how far off what was said is on average."""
    return float(np.average((table["prob"] - table["share"]).abs(), weights=table["count"]))


def agreement(masks: Sequence[np.ndarray]) -> np.ndarray:
    """The IoU of the masks (n, H, W) bool that each two of F nets give the same tiles: float (F, F, n)."""
    found = np.ones((len(masks), len(masks), len(masks[0])))
    for a, b in combinations(range(len(masks)), 2):
        found[a, b] = found[b, a] = iou(masks[a], masks[b])
    return found
