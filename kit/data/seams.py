"""Which tiles continue each other: for each border of a tile the border that goes on with it, and how sure that is.

What continues is learned from the tiles themselves. A cut inside a tile has two sides that do belong together, so it
shows which combination of the pixels nearest to a border agrees best with the same combination across the border, for
each wavelength along it: the leading pair of a canonical correlation analysis (Hotelling, Biometrika 28, 1936). Each
tile was stretched in contrast by itself, hence borders are compared by correlation, which gain and offset leave alone.
"""

import numpy as np
import pandas as pd
from scipy.fft import dct
from scipy.linalg import eigh

from kit.errors import InputError

STEPS = {"right": (0, 1), "below": (1, 0)}  # from a tile to its neighbour, in rows and columns
LOOP = 0.1  # share of the doubt that a closed 2x2 loop leaves
RATIO = 0.1  # by itself, of each seam of a loop; of weaker ones a loop may close by chance
SMALLEST = 16  # pixels a side; smaller tiles have no room for the cuts that teach
_DEPTH = 4  # pixels from the border inward that tell how a tile goes on
_SAMPLE = 2000  # tiles to learn from
_BLOCK = 512  # tiles compared with all others at a time: 45 MB for 22,000


def find(images: np.ndarray, mirrored: bool = False) -> pd.DataFrame:
    """The seams between tiles whose borders are each other's best match, images (N, H, W) uint8.

    Returns first, second (tiles by their number), side ("right" or "below": where the second lies, seen from the
    first) and confidence, 0 to 1. That is 1 - d1 / d2, the distance of the two borders against that of the next best
    pair with either of them (the ratio test of Lowe, IJCV 60, 2004, 7.1), and each 2x2 loop that closes takes nine
    tenths of its seams' doubt away. Tiles and borders of one grey value match nothing. mirrored: look for the second
    tile among the mirror images, where none can be right; so many seams of a confidence come about by chance.
    Raises InputError for images of another kind.
    """
    if images.ndim != 3 or images.dtype != np.uint8 or min(images.shape[1:]) < SMALLEST:
        raise InputError(
            f"images {images.shape} of {images.dtype} cannot be put together: "
            f"give grey tiles (N, H, W) of uint8, at least {SMALLEST} pixels a side"
        )
    lit = np.flatnonzero(images.min(axis=(1, 2)) < images.max(axis=(1, 2)))
    images = images[lit]
    partner, ratio = {}, {}
    for side in STEPS:
        near, far = borders(images, side)
        combination, weight = _learn(images[:: 1 + len(images) // _SAMPLE], side)
        if mirrored:
            _, far = borders(images[:, :, ::-1], side)
        partner[side], ratio[side] = _match(*(_describe(strip, combination, weight) for strip in (near, far)))
    loops = _closed_loops(*(np.where(ratio[side] >= RATIO, partner[side], -1) for side in STEPS))
    tables = []
    for side, second in partner.items():
        first = np.flatnonzero(second >= 0)
        confidence = 1 - (1 - ratio[side][first]) * LOOP ** loops[side][first]
        tables.append(pd.DataFrame({"first": lit[first], "second": lit[second[first]], "side": side,
                                    "confidence": confidence}))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def borders(images: np.ndarray, side: str, depth: int = _DEPTH) -> tuple[np.ndarray, np.ndarray]:
    """What meets at a seam: the tiles' right and left borders for "right", their bottoms and tops for "below".

    Each (N, length, depth) float32, the pixels ordered from the seam inward. images: (N, H, W).
    """
    upright = images if side == "right" else images.swapaxes(1, 2)
    near, far = upright[:, :, : -depth - 1 : -1], upright[:, :, :depth]
    return near.astype(np.float32), far.astype(np.float32)


def _learn(images: np.ndarray, side: str) -> tuple[np.ndarray, np.ndarray]:
    """For each wavelength along a border the best combination (F, depth) of its pixels, and its weight (F,).

    The weight falls with the square of what stays unexplained across a cut. On real tiles cut in two that found more
    of the other halves than the weight of a likelihood would, which falls with its first power.
    """
    length = images.shape[2 if side == "right" else 1]
    cuts = []
    for place in (3 * length // 10, length // 2, 7 * length // 10):
        before, after = (images[:, :, :place], images[:, :, place:]) if side == "right" else (
            images[:, :place], images[:, place:])  # fmt: skip
        cuts.append((borders(before, side)[0], borders(after, side)[1]))
    near, far = (_spectrum(np.concatenate(strips)) for strips in zip(*cuts, strict=True))
    power = np.sqrt((near**2 + far**2).mean(axis=(1, 2), keepdims=True)) + 1  # of each cut, so that all count alike
    near, far = near / power, far / power
    combination, weight = [], []
    for x, y in zip(near.swapaxes(0, 1), far.swapaxes(0, 1), strict=True):
        within, across = x.T @ x + y.T @ y, x.T @ y + y.T @ x
        within += (1e-3 * np.trace(within) / len(within) + 1e-9) * np.eye(len(within))
        correlation, vectors = eigh(across, within)  # the largest last
        rho = np.clip(correlation[-1], 0, 0.99)
        combination.append(vectors[:, -1])
        weight.append(rho / (1 - rho**2) ** 2)
    return np.array(combination), np.array(weight)


def _spectrum(strips: np.ndarray) -> np.ndarray:
    """Cosine transform along the border, (N, length, depth) -> (N, length - 1, depth), without the mean."""
    return dct(strips, axis=1, norm="ortho")[:, 1:]


def _describe(strips: np.ndarray, combination: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Unit vectors (N, F) float32 whose products say how well borders (N, length, depth) go on with one another.

    A border that varies by less than a grey level says nothing and becomes 0.
    """
    vectors = np.einsum("nfk,fk->nf", _spectrum(strips), combination) * np.sqrt(weight)
    plain = strips[:, :, 0].std(axis=1) < 1
    length = np.linalg.norm(vectors, axis=1)
    length[plain | (length == 0)] = np.inf
    return (vectors / length[:, None]).astype(np.float32)


def _match(near: np.ndarray, far: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mutual best matches of unit vectors (N, F): partner (N,), -1 where there is none, and 1 - d1 / d2 (N,)."""
    count = len(near)
    row_best, row_next, row_partner = np.zeros(count), np.zeros(count), np.full(count, -1)
    col_best, col_next, col_partner = np.zeros(count), np.zeros(count), np.full(count, -1)
    every = np.arange(count)
    for start in range(0, count, _BLOCK):
        block = every[start : start + _BLOCK]
        product = near[block] @ far.T
        product[block - start, block] = 0  # no tile continues itself; nor does one with a product of 0 or less
        best, partner = _take_best(product, 1)
        row_best[block], row_next[block] = best, np.maximum(product.max(axis=1), 0)
        row_partner[block] = partner
        product[block - start, partner] = best
        best, partner = _take_best(product, 0)
        col_next = np.maximum(np.minimum(best, col_best), np.maximum(col_next, product.max(axis=0)))
        col_partner = np.where(best > col_best, partner + start, col_partner)
        col_best = np.maximum(best, col_best)
    mutual = (row_best > 0) & (col_partner[row_partner] == every)
    second = np.maximum(row_next, col_next[row_partner])
    ratio = 1 - np.sqrt((1 - np.minimum(row_best, 1)) / (1 - np.minimum(second, 1) + 1e-9))
    kept = mutual & (ratio > 0)
    return np.where(kept, row_partner, -1), np.where(kept, ratio, 0)


def _take_best(product: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest products along an axis and where they are; they are set to 0 in place."""
    where = product.argmax(axis=axis)
    at = np.expand_dims(where, axis)
    best = np.take_along_axis(product, at, axis).squeeze(axis)
    np.put_along_axis(product, at, 0, axis)
    return best, where


def _closed_loops(right: np.ndarray, below: np.ndarray) -> dict[str, np.ndarray]:
    """How many 2x2 loops each seam is part of, by side (N,): right then below leads where below then right does."""
    first = np.flatnonzero((right >= 0) & (below >= 0))
    beside, under = right[first], below[first]
    closed = (below[beside] >= 0) & (below[beside] == right[under])
    first, beside, under = first[closed], beside[closed], under[closed]
    count = len(right)
    return {
        "right": np.bincount(np.concatenate([first, under]), minlength=count),
        "below": np.bincount(np.concatenate([first, beside]), minlength=count),
    }
