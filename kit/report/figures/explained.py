"""How one tile is scored, and what a net is shown of it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from kit.data.competition import TGS
from kit.report.figures.style import BLUE, GREEN, ORANGE, short
from kit.report.figures.tiles import bare, picture, salt
from kit.scoring.metric import average_precision, hits_of_areas


def metric_explained(image: np.ndarray, truth: np.ndarray, pred: np.ndarray, name: str) -> Figure:
    """How one tile is scored: image (H, W) uint8, true and predicted salt (H, W) bool, their IoU at each threshold.

    The masks must not both be empty: such a tile scores 1 without an IoU.
    """
    shared, union = int((truth & pred).sum()), int((truth | pred).sum())
    score = float(average_precision(pred[None], truth[None])[0])
    hits = [bool(hit) for hit in hits_of_areas(np.array(union), np.array(shared))]
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    figure.suptitle(
        f"IoU = intersection / union = {shared:,} px / {union:,} px = {shared / union:.3f}, "
        f"above {sum(hits)} of {len(hits)} thresholds: the tile scores {score:.2f}",
        fontsize=12, x=0.01, ha="left",
    )  # fmt: skip
    grid = figure.add_gridspec(2, 4, height_ratios=[3, 1.5])
    drawn = {f"tile {short(name)}": [], f"truth, {int(truth.sum()):,} px": [(truth, BLUE)]}
    drawn[f"prediction, {int(pred.sum()):,} px"] = [(pred, ORANGE)]
    drawn["compared"] = [(truth & pred, GREEN), (truth & ~pred, BLUE), (pred & ~truth, ORANGE)]
    for number, (title, masks) in enumerate(drawn.items()):
        axes = figure.add_subplot(grid[0, number])
        bare(axes)
        picture(axes, image)
        axes.set_title(title, fontsize=11, parse_math=False)
        for mask, colour in masks:
            salt(axes, mask, colour)
    areas = {"intersection": (shared, GREEN), "missed": (int((truth & ~pred).sum()), BLUE)}
    areas["wrongly added"] = (int((pred & ~truth).sum()), ORANGE)
    parts = [Patch(color=each, alpha=0.6, label=f"{what}, {area:,} px") for what, (area, each) in areas.items()]
    axes.legend(
        handles=[*parts, Patch(color="none", label=f"union: all three, {union:,} px")],
        loc="upper center", bbox_to_anchor=(0.5, -0.02), fontsize=9, frameon=False,
    )  # fmt: skip
    _thresholds(figure.add_subplot(grid[1, :]), shared / union, hits)
    return figure


def _thresholds(axes: Axes, iou: float, hits: Sequence[bool]) -> None:
    """A bar as long as the IoU, and above it the thresholds that it passes or does not reach."""
    axes.barh(0, iou, height=0.5, color="0.75")
    axes.text(min(iou, 1) / 2, 0, f"IoU {iou:.3f}", ha="center", va="center", fontsize=10)
    for wanted, marker, colour, label in ((True, "o", GREEN, "hit"), (False, "X", ORANGE, "miss")):
        own = [threshold for threshold, hit in zip(TGS.iou_thresholds, hits, strict=True) if hit == wanted]
        axes.plot(own, [0.65] * len(own), marker, color=colour, markersize=10, linestyle="none",
                  label=f"{label}: {len(own)} of {len(hits)} thresholds")  # fmt: skip
        for threshold in own:
            axes.plot([threshold] * 2, [-0.25, 0.5], color=colour, linewidth=1, linestyle="-" if wanted else ":")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.35, 1)
    axes.set_xticks([0, 0.25, *TGS.iou_thresholds, 1])
    axes.set_yticks([])
    axes.set_xlabel("Intersection over union (IoU)", fontsize=11)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(loc="upper left", fontsize=10, frameon=False)


def net_input(tile: np.ndarray, channels: np.ndarray, names: Sequence[str], corner: int, side: int) -> Figure:
    """A tile (T, T) uint8 beside each channel (C, S, S) float of what a net is shown, in a scale of its own.

    corner, side: where in the input the tile lies, in pixels from the top and from the left.
    """
    figure = Figure(figsize=(2.9 * (1 + len(channels)), 3.7), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(channels))
    picture(first, tile)
    first.set_xlabel("black 0, white 255", fontsize=10)
    first.set_title(f"tile, {len(tile)} x {len(tile)} px", fontsize=11)
    for axes, channel, name in zip(others, channels, names, strict=True):
        axes.imshow(channel, cmap="gray")
        axes.set_title(f"{name}, {len(channel)} x {len(channel)} px", fontsize=11)
        if side < len(channel):
            axes.add_patch(Rectangle((corner - 0.5, corner - 0.5), side, side, fill=False, color=ORANGE, linewidth=1.5))
        axes.set_xlabel(f"black {channel.min():.2f}, white {channel.max():.2f}", fontsize=10)
    for axes in (first, *others):
        bare(axes)
    if side < channels.shape[-1]:
        _explain_frame(figure)
    return figure


def _explain_frame(figure: Figure) -> None:
    figure.legend(
        handles=[Line2D([], [], color=ORANGE, marker="s", markerfacecolor="none", linestyle="none", markersize=11,
                        label="where the tile lies: only there is the prediction used")],
        loc="outside lower center", frameon=False, fontsize=10,
    )  # fmt: skip
