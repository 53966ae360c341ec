"""Rules that mend masks after the threshold: islands and holes go, full masks and tiles of one grey value are empty."""

import numpy as np
from scipy import ndimage

CHUNK = 128  # tiles labelled at once: 5 MB of labels, near the processor

# 4-connected inside a tile, not connected to the next tile of the stack
_STRUCTURE = np.zeros((3, 3, 3), dtype=bool)
_STRUCTURE[1] = ndimage.generate_binary_structure(2, 1)


def component_areas(masks: np.ndarray) -> np.ndarray:
    """For each pixel the size, in pixels, of the 4-connected component that it belongs to; 0 on the background.

    masks: (N, H, W) bool, each tile by itself. Returns (N, H, W) int32, so give large stacks in chunks.
    """
    areas, _ = ndimage.label(masks, _STRUCTURE)
    labels = areas[masks]
    areas[masks] = np.bincount(labels)[labels]
    return areas


def remove_small_components(masks: np.ndarray, min_pixels: int) -> np.ndarray:
    """Masks without their 4-connected components of fewer than `min_pixels` pixels: (N, H, W) bool -> the same."""
    kept = masks.copy()
    if min_pixels > 1:
        for start in range(0, len(masks), CHUNK):
            chunk = slice(start, start + CHUNK)
            kept[chunk] = component_areas(masks[chunk]) >= min_pixels
    return kept


def hole_areas(masks: np.ndarray) -> np.ndarray:
    """For each pixel the size, in pixels, of the hole that it belongs to; 0 on salt and where there is no hole.

    A hole is a 4-connected component of background that does not reach the tile's edge. masks: (N, H, W) bool, each
    tile by itself. Returns (N, H, W) int, so give large stacks in chunks.
    """
    labels, count = ndimage.label(~masks, _STRUCTURE)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        areas[edge] = 0
    areas[0] = 0
    return areas[labels]


def fill_small_holes(masks: np.ndarray, min_pixels: int) -> np.ndarray:
    """Masks with their holes of fewer than `min_pixels` pixels filled: (N, H, W) bool -> the same."""
    filled = masks.copy()
    if min_pixels > 1:
        for start in range(0, len(masks), CHUNK):
            chunk = slice(start, start + CHUNK)
            areas = hole_areas(masks[chunk])
            filled[chunk] |= (areas > 0) & (areas < min_pixels)
    return filled


def empty_full(masks: np.ndarray) -> np.ndarray:
    """Masks (N, H, W) bool, emptied where they fill their tile.

    The interpreters of TGS drew the top of the salt: a tile wholly below it is labelled empty, and none is full.
    """
    return masks & ~masks.all(axis=(1, 2), keepdims=True)


def empty_constant(masks: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """Masks (N, H, W) bool, emptied on the tiles whose image holds one grey value only, `constant` (N,) bool.

    Such a tile shows nothing; in the TGS training set none of them has salt.
    """
    return masks & ~constant[:, None, None]
