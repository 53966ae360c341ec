"""Tiles in rows, with salt drawn into them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kit.report.figures.style import BLUE, ORANGE

SIDE = 1.55  # inches of a tile
SMALL = 100  # pixels: smaller masks are hard to see


class Row(NamedTuple):
    """A row of tiles: what they are; images (n, H, W) uint8; masks (n, H, W) bool or None; a line or two for each."""

    name: str
    images: np.ndarray
    masks: np.ndarray | None
    labels: Sequence[str]


def tile_rows(rows: Sequence[Row]) -> Figure:
    """Tiles in rows, each label below its tile, salt tinted and outlined; an arrow points at small masks.

    Each row has at least one tile.
    """
    columns = max(len(row.images) for row in rows)
    lines = max(1 + label.count("\n") for row in rows for label in row.labels)
    height = SIDE + 0.16 * lines + 0.06
    figure = Figure(figsize=(SIDE * columns + 0.4, height * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for places, row in zip(grid, rows, strict=True):
        places[0].set_ylabel(row.name, fontsize=11, parse_math=False)
        for number, axes in enumerate(places):
            bare(axes)
            if number >= len(row.images):
                axes.set_axis_off()
                continue
            picture(axes, row.images[number])
            axes.set_xlabel(row.labels[number], fontsize=8.5, labelpad=2, parse_math=False)
            if row.masks is not None:
                salt(axes, row.masks[number], BLUE)
    figure.legend(handles=[Patch(color=BLUE, alpha=0.5, label="salt")], loc="outside lower center", frameon=False,
                  fontsize=10)  # fmt: skip
    return figure


def bare(axes: Axes) -> None:
    """Pixels need no ticks."""
    axes.set_xticks([])
    axes.set_yticks([])


def picture(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)


def salt(axes: Axes, mask: np.ndarray, colour: str) -> None:
    """Tint a mask (H, W) bool, outline it, and where it is small point at it."""
    tint = np.zeros((*mask.shape, 4))
    tint[mask] = to_rgba(colour, 0.4)
    axes.imshow(tint)
    if mask.any() and not mask.all():
        axes.contour(mask, levels=[0.5], colors=colour, linewidths=1.2)
    if 0 < mask.sum() <= SMALL:
        _point_at(axes, mask)


def _point_at(axes: Axes, mask: np.ndarray) -> None:
    """An arrow from the side of the tile's middle, so that it lies within the tile."""
    at = np.argwhere(mask).mean(axis=0)[::-1]
    inward = (np.array(mask.shape[::-1]) - 1) / 2 - at
    length = np.hypot(*inward)
    inward = inward / length if length > 1 else np.array([0.0, -1.0])
    style = {"arrowstyle": "-|>", "color": ORANGE, "linewidth": 1.8, "mutation_scale": 14}
    axes.annotate("", at + 4 * inward, at + 30 * inward, arrowprops=style)
