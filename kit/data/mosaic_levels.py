"""Grey levels of placed tiles: each was stretched in contrast by itself, and here that is undone across the seams."""

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, identity
from scipy.sparse.linalg import spsolve

from kit.data import seams
from kit.data.mosaic import neighbours


def levels(images: np.ndarray, placement: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Gain and offset (M,), (M,) of the M rows of a placement: gain * image + offset goes on across the seams.

    images (N, H, W) uint8; placement as of kit.data.mosaic.solve. A seam says how the gains of its tiles compare, by
    the spread of what meets there, and then how their offsets do; least squares over all seams, first of the logarithms
    of the gains and then of the offsets. Of each mosaic the mean logarithm and the mean offset are 0, for no seam
    tells them.
    """
    first, second, near, far = _meeting(images, placement)
    spread = near.std(axis=1), far.std(axis=1)
    trust = np.maximum(_correlation(near, far), 0) * (np.minimum(*spread) > 1)  # a plain border tells no gain
    steps = np.log(np.maximum(spread[1], 1e-9) / np.maximum(spread[0], 1e-9))
    gain = np.exp(_potential(first, second, steps, trust, len(placement)))
    steps = gain[second] * far.mean(axis=1) - gain[first] * near.mean(axis=1)
    return gain, _potential(first, second, steps, np.ones(len(steps)), len(placement))


def seam_step(images: np.ndarray, placement: pd.DataFrame, gain: np.ndarray, offset: np.ndarray) -> float:
    """Mean absolute step in grey levels from a pixel to the next one across the seams of a placement."""
    steps = []
    for side in seams.STEPS:
        first, second = neighbours(placement, side)
        near, far = (strip[:, :, 0] for strip in seams.borders(images[placement["tile"]], side, 1))
        near, far = (
            line[rows] * gain[rows, None] + offset[rows, None] for line, rows in ((near, first), (far, second))
        )
        steps.append(np.abs(near - far).ravel())
    return float(np.concatenate(steps).mean())


def lay_out(stack: np.ndarray, rows: np.ndarray, cols: np.ndarray, blank: float | bool) -> np.ndarray:
    """One picture of tiles (n, H, W) that lie at rows (n,) and cols (n,), counted from 0; `blank` where none lies."""
    height, width = stack.shape[1:]
    picture = np.full(((rows.max() + 1) * height, (cols.max() + 1) * width), blank, stack.dtype)
    for tile, top, left in zip(stack, rows * height, cols * width, strict=True):
        picture[top : top + height, left : left + width] = tile
    return picture


def _meeting(images: np.ndarray, placement: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of all seams the rows of both tiles, and what each says of the line between: half a pixel beyond its own."""
    parts = []
    for side in seams.STEPS:
        first, second = neighbours(placement, side)
        strips = seams.borders(images[placement["tile"]], side, 2)
        near, far = (1.5 * strip[:, :, 0] - 0.5 * strip[:, :, 1].astype(float) for strip in strips)
        parts.append((first, second, near[first], far[second]))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))  # type: ignore[return-value]


def _correlation(near: np.ndarray, far: np.ndarray) -> np.ndarray:
    near, far = near - near.mean(axis=1, keepdims=True), far - far.mean(axis=1, keepdims=True)
    power = np.sqrt((near**2).sum(axis=1) * (far**2).sum(axis=1))
    return (near * far).sum(axis=1) / np.maximum(power, 1e-9)


def _potential(first: np.ndarray, second: np.ndarray, steps: np.ndarray, trust: np.ndarray, count: int) -> np.ndarray:
    """The values (count,) whose differences first - second are nearest to the steps; of least norm, so around 0."""
    every = np.arange(len(first))
    differences = coo_array(
        (np.concatenate([trust, -trust]), (np.concatenate([every, every]), np.concatenate([first, second]))),
        shape=(len(first), count),
    ).tocsc()
    # the little on the diagonal decides what the differences leave open, the level of each mosaic
    return spsolve((differences.T @ differences + 1e-6 * identity(count)).tocsc(), differences.T @ (trust * steps))
