"""How good the masks are, and where they are wrong: overlap, kinds of tile, the boundary, empty tiles."""

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kit.report import measures
from kit.report.figures.style import BLUE, GREY, ORANGE, chart, legend
from kit.report.measures import DISTANCES, TWENTIETHS
from kit.scoring.metric import mean_average_precision


def iou_histogram(pred: np.ndarray, true: np.ndarray) -> Figure:
    """How well masks (N, H, W) bool overlap the true ones of the tiles with salt."""
    salt = true.any(axis=(1, 2))
    counts = measures.iou_steps(pred[salt], true[salt])
    half = TWENTIETHS // 2
    title = f"{counts.sum():,} tiles with salt: {_share(counts[: half + 1].sum(), counts.sum())} of them score nothing"
    figure, axes = chart(title, "Intersection over union of a tile", "Tiles")
    places = (np.arange(TWENTIETHS + 1) - 0.5) / TWENTIETHS
    axes.bar(places[: half + 1], counts[: half + 1], 0.043, color=ORANGE, hatch="//", edgecolor="white",
             label="up to 0.5: no hit at any threshold")  # fmt: skip
    axes.bar(places[half + 1 :], counts[half + 1 :], 0.043, color=BLUE, label="above 0.5: 1 to 10 thresholds hit")
    axes.set_xticks([places[0], *np.arange(1, 11) / 10], ["none", *(f"{step / 10:.1f}" for step in range(1, 11))])
    axes.set_axisbelow(True)
    legend(figure)
    return figure


def score_by_group(pred: np.ndarray, true: np.ndarray) -> Figure:
    """The mean score of masks (N, H, W) bool by kind of tile and by coverage class, with intervals and counts."""
    table, mean = measures.by_group(pred, true), mean_average_precision(pred, true)
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    panels = dict(zip(("kind", "coverage"), figure.subplots(1, 2), strict=True))
    titles = {"kind": "By kind of tile", "coverage": "By the share of the tile that is salt"}
    for by, axes in panels.items():
        own = table[table["by"] == by].reset_index(drop=True)
        axes.set_title(titles[by], loc="left", fontsize=12)
        errors = [own["score"] - own["low"], own["high"] - own["score"]]
        axes.errorbar(own["score"], own.index, xerr=errors, fmt="o", color=BLUE, markersize=8, capsize=4,
                      label="mean score, 95 % interval")  # fmt: skip
        axes.axvline(mean, color=GREY, linestyle=":", label=f"all tiles: {mean:.3f}")
        axes.set_yticks(own.index, [f"{row.group}\n{row.tiles:,} tiles" for row in own.itertuples()], fontsize=9)
        axes.set_ylim(len(own) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("Mean average precision", fontsize=11)
        axes.grid(axis="x", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels["kind"].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False,
                  fontsize=10)  # fmt: skip
    return figure


def boundary_error(pred: np.ndarray, true: np.ndarray) -> Figure:
    """Which share of the pixels is wrong at which distance from the true boundary, on its two sides.

    pred, true (N, H, W) bool. Tiles without salt, or without background, have no boundary and are left out.
    """
    table = measures.error_by_distance(pred, true)
    near = table["distance"] < DISTANCES[3]
    wrong = table["wrong"].sum()
    share = _share(table["wrong"][near].sum(), wrong)
    title = f"Of the wrong pixels in tiles with a boundary {share} lie less than {DISTANCES[3]} px from it"
    figure, axes = chart(title, "Distance to the true boundary, px", "Wrong, % of the pixels at that distance")
    for salt, colour, mark, label in (
        (True, ORANGE, "o-", "inside salt: missed"),
        (False, BLUE, "s--", "outside: false salt"),
    ):
        own = table[(table["salt"] == salt)].reset_index(drop=True)
        own = own[own["pixels"] > 0]
        axes.plot(own.index, 100 * own["wrong"] / own["pixels"], mark, color=colour, markersize=8, label=label)
    axes.set_xticks(range(len(DISTANCES)), _bands())
    axes.set_ylim(bottom=0)
    legend(figure)
    return figure


def empty_confusion(pred: np.ndarray, true: np.ndarray) -> Figure:
    """Tiles with and without salt, in truth and in masks (N, H, W) bool: counts, and what the two mistakes cost."""
    counts = np.zeros((2, 2), int)
    np.add.at(counts, (true.any(axis=(1, 2)).astype(int), pred.any(axis=(1, 2)).astype(int)), 1)
    false, missed = counts[0, 1] / counts.sum(), counts[1, 0] / counts.sum()
    figure = Figure(figsize=(7, 5.4), layout="constrained")
    axes = figure.add_subplot()
    title = f"Salt seen on empty tiles costs {false:.3f} of the score,\n"
    title += f"masks left empty on tiles with salt cost {missed:.3f}"
    axes.set_title(title, loc="left", fontsize=12)
    _squares(axes, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), np.eye(2, dtype=bool))
    for (row, col), count in np.ndenumerate(counts):
        share = _share(count, counts[row].sum())
        axes.text(col, row, f"{count:,}\n{share} of the row", ha="center", va="center", fontsize=14)
    axes.set_xticks([0, 1], ["mask empty", "mask with salt"], fontsize=11)
    axes.set_yticks([0, 1], ["truly\nempty", "truly\nwith salt"], fontsize=11)
    return figure


def _squares(axes: Axes, strength: np.ndarray, right: np.ndarray) -> None:
    """A square for each cell, blue where it is right and orange where not, the stronger the larger its share."""
    for (row, col), share in np.ndenumerate(strength):
        colour = BLUE if right[row, col] else ORANGE
        axes.fill_between([col - 0.48, col + 0.48], row - 0.48, row + 0.48, color=colour, alpha=0.1 + 0.35 * share,
                          linewidth=0)  # fmt: skip
    axes.set_xlim(-0.5, len(strength) - 0.5)
    axes.set_ylim(len(strength) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _bands() -> list[str]:
    ends = [f"{low} to {high - 1}" if high > low + 1 else f"{low}" for low, high in pairwise(DISTANCES)]
    return [*ends, f"from {DISTANCES[-1]}"]


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"
