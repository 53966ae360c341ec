"""Tiles with hidden blocks, which a net restores where there are no labels; and what they look like without a net."""

import cv2
import numpy as np

SHARE = 0.6  # of a tile's pixels is hidden, as in SimMIM
SIDES = (8, 16)  # pixels, the smallest and the largest block


def hidden_blocks(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Which pixels of a tile to hide, bool (H, W): random cells of a grid, SHARE of the pixels or up to a cell more.

    The grid's cells are squares of one side drawn from SIDES, its corner lies anywhere. After SimMIM (Xie et al., CVPR
    2022, arXiv 2111.09886, section 3.2), which hides 0.6 in blocks of 32 of 192 px.
    """
    side = int(rng.integers(SIDES[0], SIDES[1] + 1))
    down, across = ((np.arange(length) + rng.integers(side)) // side for length in shape)
    pixels = np.outer(np.bincount(down), np.bincount(across))
    order = rng.permutation(pixels.size)
    count = 1 + np.searchsorted(np.cumsum(pixels.ravel()[order]), SHARE * shape[0] * shape[1])
    cells = np.zeros(pixels.shape, bool)
    cells.flat[order[:count]] = True
    return cells[down[:, None], across]


def cover(image: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The (H, W) uint8 image with its hidden pixels, bool (H, W), as grey as the visible ones are in the mean."""
    return np.where(hidden, np.uint8(np.rint(image[~hidden].mean())), image)


def inpaint(image: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The (H, W) uint8 image with its hidden pixels continued from the border inwards (Telea, 2004, as in OpenCV)."""
    # covered first: at the border OpenCV looks at hidden pixels too
    return cv2.inpaint(cover(image, hidden), hidden.view(np.uint8), 3, cv2.INPAINT_TELEA)
