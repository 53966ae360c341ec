"""Figures of a run, each a matplotlib Figure made without pyplot, so that no global state is touched."""

from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from kit.data.mosaic_levels import lay_out
from kit.runs import atomic_path
from kit.scoring.threshold import Tuning

# Okabe and Ito's colours, told apart by colour-blind readers too; marks differ in shape as well
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"
MARKS = tuple(zip((BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00"), "osD^vX", strict=True))


def save(figure: Figure, path: Path | str) -> None:
    """Write a figure atomically, in the format that the suffix names."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def score_against_threshold(tuning: Tuning) -> Figure:
    """Mean score against threshold on the out-of-fold tiles, with 0.5, the tuned threshold and the noise between them.

    The line is measured on the tiles that the threshold was chosen on; the gain in the title is nested, so it is not.
    """
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    axes = figure.add_subplot()
    _draw_scores(axes, tuning)
    axes.set_title(tuning.decision.in_words(), loc="left", fontsize=12)
    axes.set_xlabel("Threshold on the probability of salt", fontsize=11)
    axes.set_ylabel("Mean average precision", fontsize=11)
    axes.set_xlim(tuning.thresholds[0], tuning.thresholds[-1])
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return figure


def _draw_scores(axes: Axes, tuning: Tuning) -> None:
    threshold, size = tuning.candidate
    components = f"components under {size} pixels removed" if size else "every component kept"
    axes.plot(tuning.thresholds, tuning.curve, color=BLUE, label=f"score, {components}")
    axes.fill_between(
        tuning.thresholds, tuning.curve - tuning.band, tuning.curve + tuning.band,
        color=BLUE, alpha=0.2, linewidth=0, label="95 % band of its difference from the square",
    )  # fmt: skip
    axes.axhline(tuning.baseline, color=GREY, linewidth=1, linestyle=":")
    axes.plot(0.5, tuning.baseline, "s", color=GREY, markersize=12, label="0.50, every component kept")
    score = tuning.curve[abs(tuning.thresholds - threshold).argmin()]
    axes.plot(threshold, score, "o", color=ORANGE, markersize=8, label=f"{threshold:.2f}, found on all tiles")
    found = [fold_threshold for fold_threshold, _ in tuning.by_fold.values()]
    at_the_axis = axes.get_xaxis_transform()
    axes.plot(found, [0.025] * len(found), "|", color=ORANGE, markersize=14, markeredgewidth=2,
              transform=at_the_axis, label="found with one fold left out")  # fmt: skip


def score_against_speed(table: pd.DataFrame, title: str) -> Figure:
    """Score with its interval against training speed, a mark of its own for each encoder.

    table: a row for each with encoder, score, score_low, score_high, tiles_per_second and parameters, in the order of
    the legend, which says the parameters.
    """
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    axes = figure.add_subplot()
    for row, (colour, mark) in zip(table.to_dict("records"), cycle(MARKS), strict=False):
        speed, score = row["tiles_per_second"], row["score"]
        interval = [[score - row["score_low"]], [row["score_high"] - score]]
        label = f"{row['encoder']}, {row['parameters'] / 1e6:.1f} M parameters"
        axes.errorbar(speed, score, interval, fmt=mark, color=colour, markersize=9, capsize=4, label=label)
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel("Training speed, tiles/s", fontsize=11)
    axes.set_ylabel("Score, with 95 % interval over tiles", fontsize=11)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter())
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return figure


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
) -> Figure:
    """Tiles (n, H, W) float put together at rows and cols (n,), with up to two sets of masks outlined.

    masks: by label, which of the tiles have a mask (n,) bool, and the masks (n, H, W) bool. A square in its corner
    tells that a tile has one, for it may be empty.
    """
    (height, width), picture = stack.shape[1:], lay_out(stack, rows, cols, np.nan)
    figure = Figure(figsize=(max(5.0, picture.shape[1] / 90), picture.shape[0] / 90 + 1.2), layout="constrained")
    axes = figure.add_subplot()
    low, high = np.nanpercentile(picture, (1, 99))
    axes.imshow(picture, cmap="gray", vmin=low, vmax=high)
    for number, ((label, (has, drawn)), colour) in enumerate(zip(masks.items(), (BLUE, ORANGE), strict=False)):
        outline = lay_out(drawn & has[:, None, None], rows, cols, False)
        if outline.any() and not outline.all():
            axes.contour(outline, levels=[0.5], colors=colour, linewidths=1.3)
        axes.plot(cols[has] * width + 5 + 8 * number, rows[has] * height + 5, "s", color=colour, markersize=4,
                  linestyle="none", label=label)  # fmt: skip
    axes.set_xticks((np.arange(cols.max() + 1) + 0.5) * width, labels=np.arange(cols.max() + 1))
    axes.set_yticks((np.arange(rows.max() + 1) + 0.5) * height, labels=np.arange(rows.max() + 1))
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel("col", fontsize=11)
    axes.set_ylabel("row", fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return figure


def foretold(table: pd.DataFrame, title: str) -> Figure:
    """Public and private score against the out-of-fold score, with the line on which they would be the same.

    table: oof, public, private of each submission. Those without an out-of-fold score are small marks at the left edge.
    """
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    axes = figure.add_subplot()
    for name, (colour, mark) in zip(("public", "private"), MARKS, strict=False):
        known = table[[name, "oof"]].dropna()
        axes.plot(known["oof"], known[name], mark, color=colour, markersize=8, label=f"{name} score", linestyle="none")
        unknown = table[name][table["oof"].isna()].dropna()
        axes.plot([0.015] * len(unknown), unknown, mark, color=colour, markersize=4, alpha=0.6,
                  transform=axes.get_yaxis_transform(), linestyle="none")  # fmt: skip
    both = table[["oof", "public", "private"]].to_numpy().ravel()
    ends = [pd.Series(both).min(), pd.Series(both).max()]
    axes.plot(ends, ends, color=GREY, linewidth=1, linestyle=":", label="equal scores")
    axes.set_title(title.replace("; ", "\n") or "Submissions", loc="left", fontsize=12)
    axes.set_xlabel("Out-of-fold score", fontsize=11)
    axes.set_ylabel("Leaderboard score", fontsize=11)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure
