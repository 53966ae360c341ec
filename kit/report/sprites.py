"""Sprite sheets: 100 thumbnails in a file, so that a page of thousands opens at once and loads what is seen."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image
from scipy import ndimage

from kit.report.figures.style import ORANGE, PURPLE, SKY

ACROSS = 10  # tiles in a row of a sheet, and rows
# the suffix of each one's files
LAYERS = {"image": "jpg", "truth": "png", "probability": "png", "mask": "png", "before": "png",
          "flipped": "png"}  # fmt: skip
_LEVELS = 32  # of probability
_CLEAR, _FILL, _LINE = range(3)  # indices of an outline's palette
_ALPHA = bytes([0, 50, 255])  # of these
_LINE_WIDTH = {"truth": 2, "mask": 1, "before": 1}  # pixels, so that two lines in one place are both seen


def write(folder: Path, layer: str, tiles: np.ndarray) -> list[str]:
    """Write a layer (n, H, W) of tiles, in their order, as sheets into a folder; returns the files' names.

    image: uint8, grey. truth, mask, before: bool, outlined on a clear ground; flipped: bool, filled.
    probability: float, dark blue to yellow, the clearer the lower, so that it can lie on the image.
    """
    names = []
    for first in range(0, len(tiles), ACROSS**2):
        names.append(f"{layer}_{first // ACROSS**2:03}.{LAYERS[layer]}")
        _DRAWN[layer](tiles[first : first + ACROSS**2], folder / names[-1])
    return names


def together(tiles: np.ndarray) -> np.ndarray:
    """Up to 100 tiles (n, H, W) row by row in a square of 10 by 10, (10 H, 10 W); 0 where there is none."""
    sheet = np.zeros((ACROSS**2, *tiles.shape[1:]), tiles.dtype)
    sheet[: len(tiles)] = tiles
    height, width = tiles.shape[1:]
    return sheet.reshape(ACROSS, ACROSS, height, width).swapaxes(1, 2).reshape(ACROSS * height, ACROSS * width)


def _image(tiles: np.ndarray, path: Path) -> None:
    Image.fromarray(together(tiles)).save(path, quality=85)


def _outline(layer: str, colour: str, tiles: np.ndarray, path: Path) -> None:
    inner = ndimage.binary_erosion(tiles, ndimage.generate_binary_structure(2, 1)[None], _LINE_WIDTH[layer])
    index = np.select([inner, tiles], [_FILL, _LINE], _CLEAR).astype(np.uint8)
    _on_clear(index, colour, path)


def _filled(tiles: np.ndarray, path: Path) -> None:
    _on_clear(np.where(tiles, _LINE, _CLEAR).astype(np.uint8), PURPLE, path)


def _on_clear(index: np.ndarray, colour: str, path: Path) -> None:
    picture = Image.fromarray(together(index), "P")
    picture.putpalette(bytes.fromhex(colour[1:]) * 3)
    picture.save(path, transparency=_ALPHA)


def _probability(tiles: np.ndarray, path: Path) -> None:
    level = np.rint(tiles.astype(np.float32) * (_LEVELS - 1)).astype(np.uint8)
    picture = Image.fromarray(together(level), "P")
    picture.putpalette(colormaps["cividis"](np.linspace(0, 1, _LEVELS), bytes=True)[:, :3].tobytes())
    picture.save(path)


_DRAWN = {
    "image": _image,
    "truth": lambda tiles, path: _outline("truth", SKY, tiles, path),
    "probability": _probability,
    "mask": lambda tiles, path: _outline("mask", ORANGE, tiles, path),
    "before": lambda tiles, path: _outline("before", ORANGE, tiles, path),
    "flipped": _filled,
}
