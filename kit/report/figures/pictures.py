"""Tiles and mosaics as pictures."""

import numpy as np
from matplotlib.figure import Figure

from kit.data.mosaic_levels import lay_out
from kit.report.figures.style import ORANGE, SKY, YELLOW, legend
from kit.scoring.mosaic_rules import CAP, SOFT, UP, VERTICAL

_LINES = ((SKY, 3.0), (ORANGE, 1.2))  # truth wide below the thin prediction: both are seen where they agree
_SIGNS = {VERTICAL: "v", SOFT: "d", CAP: "X", UP: "^"}  # of mosaic rules


def restoration(original: np.ndarray, covered: np.ndarray, restored: np.ndarray) -> Figure:
    """Tiles (n, H, W) uint8 of a pretext run in three rows: as they are, with hidden blocks, restored."""
    figure = Figure(figsize=(1.6 * len(original) + 0.6, 5.2), layout="constrained")
    grid = figure.subplots(3, len(original), squeeze=False)
    rows = {"Held-out tile": original, "Hidden blocks": covered, "Restored": restored}
    for row, (name, images) in zip(grid, rows.items(), strict=True):
        row[0].set_ylabel(name, fontsize=11)
        for axes, image in zip(row, images, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
    return figure


def mosaic(
    stack: np.ndarray,
    rows: np.ndarray,
    cols: np.ndarray,
    masks: dict[str, tuple[np.ndarray, np.ndarray]],
    title: str,
    marks: dict[str, np.ndarray] | None = None,
) -> Figure:
    """Tiles (n, H, W) float put together at rows and cols (n,), with up to two sets of masks outlined.

    The first set's lines are wide, the second's thin and above them.

    masks: by label, which of the tiles have a mask (n,) bool, and the masks (n, H, W) bool. A square in its corner
    tells that a tile has one, for it may be empty.
    marks: by mosaic rule, of which tiles it speaks (n,) bool; a sign for each in their lower left corners.
    """
    (height, width), picture = stack.shape[1:], lay_out(stack, rows, cols, np.nan)
    figure = Figure(figsize=(max(5.0, picture.shape[1] / 90), picture.shape[0] / 90 + 1.2), layout="constrained")
    axes = figure.add_subplot()
    low, high = np.nanpercentile(picture, (1, 99))
    axes.imshow(picture, cmap="gray", vmin=low, vmax=high)
    for number, ((label, (has, drawn)), (colour, line)) in enumerate(zip(masks.items(), _LINES, strict=False)):
        outline = lay_out(drawn & has[:, None, None], rows, cols, False)
        if outline.any() and not outline.all():
            axes.contour(outline, levels=[0.5], colors=colour, linewidths=line)
        axes.plot(cols[has] * width + 5 + 8 * number, rows[has] * height + 5, "s", color=colour, markersize=4,
                  linestyle="none", label=label)  # fmt: skip
    for number, (rule, has) in enumerate((marks or {}).items()):
        axes.plot(
            cols[has] * width + 8 + 12 * number, (rows[has] + 1) * height - 9, _SIGNS[rule], color=YELLOW,
            markersize=7, markeredgecolor="black", markeredgewidth=0.7, linestyle="none", label=f"rule {rule}",
        )  # fmt: skip
    axes.set_xticks((np.arange(cols.max() + 1) + 0.5) * width, labels=np.arange(cols.max() + 1))
    axes.set_yticks((np.arange(rows.max() + 1) + 0.5) * height, labels=np.arange(rows.max() + 1))
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel("Column, tiles", fontsize=11)
    axes.set_ylabel("Row, tiles downward", fontsize=11)
    legend(figure)
    return figure
