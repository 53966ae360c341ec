"""Tiles in rows, with salt drawn into them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Patch

from kit.report.figures.style import BLUE, ORANGE

SIDE = 1.55  # inches of a tile
RINGED = 100  # pixels: smaller masks are hard to see


class Row(NamedTuple):
    """A row of tiles: what they are; images (n, H, W) uint8; masks (n, H, W) bool or None; a line or two for each."""

    name: str
    images: np.ndarray
    masks: np.ndarray | None
    labels: Sequence[str]


def tile_rows(rows: Sequence[Row]) -> Figure:
    """Tiles in rows, each label below its tile, salt tinted and outlined; a ring leads to small masks.

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
    """Tint a mask (H, W) bool, outline it, and where it is small put a ring around it."""
    tint = np.zeros((*mask.shape, 4))
    tint[mask] = to_rgba(colour, 0.4)
    axes.imshow(tint)
    if mask.any() and not mask.all():
        axes.contour(mask, levels=[0.5], colors=colour, linewidths=1.2)
    axes.autoscale(enable=False)  # a ring may reach beyond the tile
    if 0 < mask.sum() <= RINGED:
        centre, radius = _ring(mask)
        axes.add_patch(Circle(centre, radius, fill=False, color=ORANGE, linewidth=1.2))


def _ring(mask: np.ndarray) -> tuple[tuple[float, float], float]:
    """The centre (x, y) and the radius of a circle around the salt, in pixels."""
    y, x = np.nonzero(mask)
    centre = (x.min() + x.max()) / 2, (y.min() + y.max()) / 2
    return centre, 9 + float(np.hypot(x - centre[0], y - centre[1]).max())
