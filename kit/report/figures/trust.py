"""How far predictions can be trusted: calibration, agreement between folds, training tiles beside validation tiles."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from kit.report import measures
from kit.report.figures.style import BLUE, GREY, ORANGE, chart, legend, short
from kit.scoring.metric import average_precision
from kit.scoring.threshold import bootstrap_interval

SHOWN = 6  # tiles in a row of pictures


def calibration(prob: np.ndarray, true: np.ndarray, empty: np.ndarray, said_by: str) -> Figure:
    """What came of it where a probability was said: of pixels to be salt, and of tiles to be empty.

    prob (N, H, W) float, memory-mapped too; true (N, H, W) bool; empty (N,) float, the probability that a tile is
    empty, and what says so.
    """
    figure = Figure(figsize=(10, 6), layout="constrained")
    grid = figure.subplots(2, 2, height_ratios=[3, 1], sharex="col")
    truly = np.logical_not(true.any(axis=(1, 2)))
    tiles = (empty, truly, 10, "tiles", f"Probability that a tile is empty ({said_by})")
    panels = ((prob, true, 20, "pixels", "Probability that a pixel is salt"), tiles)
    for (above, below), (values, seen, bins, unit, what) in zip(grid.T, panels, strict=True):
        table = measures.reliability(values, seen, bins)
        title = f"{unit.capitalize()}: said and seen differ by {measures.calibration_error(table):.3f}"
        above.set_title(title, loc="left", fontsize=12)
        above.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="as often as said")
        above.plot(table["prob"], table["share"], "o-", color=BLUE, markersize=7, label="as often as it was so")
        above.set_ylabel(f"Share of {unit}", fontsize=11)
        below.bar(table["prob"], table["count"], 0.7 / bins, color=GREY)
        below.set_yscale("log")
        below.yaxis.set_minor_formatter(NullFormatter())
        below.set_ylabel(unit.capitalize(), fontsize=11)
        below.set_xlabel(what, fontsize=11)
        for axes in (above, below):
            axes.grid(color="0.9")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=10
    )
    return figure


def agreement(masks: Mapping[str, np.ndarray]) -> Figure:
    """How alike the masks (n, H, W) bool are that several nets give the same tiles, by the nets' names.

    Left the overlap of two nets' masks over tiles and pairs, right the mean of each pair.
    """
    found = measures.agreement(list(masks.values()))
    pairs = found[np.triu_indices(len(found), 1)]
    both_empty = np.array([np.logical_not((a | b).any(axis=(1, 2))) for a, b in combinations(masks.values(), 2)])
    figure = Figure(figsize=(10.5, 5), layout="constrained")
    axes, matrix = figure.subplots(1, 2, width_ratios=[1.4, 1])
    edges = np.linspace(0, 1, 11)
    weights = np.full(pairs.shape, 100 / pairs.size)
    axes.hist([pairs[~both_empty], pairs[both_empty]], edges, weights=[weights[~both_empty], weights[both_empty]],
              stacked=True, color=[BLUE, "#56B4E9"], hatch=["", "//"], edgecolor="white",
              label=["salt in a mask", "both masks empty"])  # fmt: skip
    axes.set_title(
        f"{100 * (pairs <= 0.5).mean():.0f} % of pairs of masks overlap by half or less", loc="left", fontsize=12
    )
    axes.set_xlabel("Intersection over union of two folds' masks", fontsize=11)
    axes.set_ylabel("Pairs of masks, %", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    legend(figure)
    _matrix(matrix, found.mean(axis=2), list(masks))
    return figure


def train_beside_valid(train: np.ndarray, valid: np.ndarray) -> Figure:
    """Scores of training tiles (n,) beside those of validation tiles (m,), which the same weights have never seen."""
    rng = np.random.default_rng(0)
    gap = train.mean() - valid.mean()
    low, high = gap + np.array([-1.96, 1.96]) * np.sqrt(train.var() / len(train) + valid.var() / len(valid))
    shown = "" if low > 0 or high < 0 else ":\nno difference is shown"
    title = f"Training tiles score {gap:+.3f} against validation tiles (95 % {low:+.3f} to {high:+.3f}){shown}"
    figure, axes = chart(title, "Score of a tile", "Tiles, %")
    parts = (("training", train, BLUE, "//"), ("validation", valid, ORANGE, ""))
    for number, (name, scores, colour, hatch) in enumerate(parts):
        shares = 100 * np.bincount(np.rint(10 * scores).astype(int), minlength=11) / len(scores)
        low, high = bootstrap_interval(scores, rng)
        axes.bar(np.arange(11) / 10 + 0.04 * number - 0.02, shares, 0.038, color=colour, hatch=hatch, edgecolor="white",
                 label=f"{len(scores):,} {name} tiles: {scores.mean():.3f} ({low:.3f} to {high:.3f})")  # fmt: skip
    axes.set_xticks(np.arange(11) / 10)
    axes.set_axisbelow(True)
    legend(figure)
    return figure


def worst(rows: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, Sequence[str]]]) -> Figure:
    """The worst tiles of each row, with the true mask and the predicted one outlined.

    rows: by the row's name, images (n, H, W) uint8, pred and true (n, H, W) bool, and ids.
    """
    figure = Figure(figsize=(1.75 * SHOWN + 0.5, 2.3 * len(rows) + 0.5), layout="constrained")
    grid = figure.subplots(len(rows), SHOWN, squeeze=False)
    for line, (name, (images, pred, true, ids)) in zip(grid, rows.items(), strict=True):
        scores, wrong = average_precision(pred, true), np.count_nonzero(pred != true, axis=(1, 2))
        order = np.lexsort((-wrong, scores))[:SHOWN]
        for axes, tile in zip(line, [*order, *[None] * (SHOWN - len(order))], strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            if tile is None:
                axes.axis("off")
                continue
            axes.imshow(images[tile], cmap="gray", vmin=0, vmax=255)
            _outline(axes, true[tile], BLUE, "-")
            _outline(axes, pred[tile], ORANGE, "--")
            axes.set_title(f"{short(ids[tile])}\nscore {scores[tile]:.1f}", fontsize=9, parse_math=False)
        line[0].set_ylabel(name, fontsize=11, parse_math=False)
    for label, colour, style in (("true mask", BLUE, "-"), ("predicted", ORANGE, "--")):
        grid[0, 0].plot([], [], color=colour, linestyle=style, linewidth=2, label=label)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=10
    )
    return figure


def _outline(axes: Axes, mask: np.ndarray, colour: str, style: str) -> None:
    """A mask, lightly filled, with its edge, along the tile's own edge too."""
    if mask.any():
        padded = np.pad(mask, 1).astype(float)
        span = np.clip(np.arange(-1, len(mask) + 1), 0.5, len(mask) - 1.5)
        axes.contourf(span, span, padded, levels=[0.5, 1.5], colors=colour, alpha=0.15)
        axes.contour(span, span, padded, levels=[0.5], colors=colour, linewidths=1.6, linestyles=style)


def _matrix(axes: Axes, means: np.ndarray, names: Sequence[str]) -> None:
    """The mean overlap of each two nets as a number in a square."""
    shown = np.where(np.eye(len(means), dtype=bool), np.nan, means)
    axes.imshow(shown, cmap="cividis", vmin=0, vmax=1)
    for (row, col), value in np.ndenumerate(shown):
        if row != col:
            axes.text(col, row, f"{value:.2f}", ha="center", va="center", fontsize=12,
                      color="white" if value < 0.5 else "black")  # fmt: skip
    axes.set_xticks(range(len(names)), names, fontsize=10)
    axes.set_yticks(range(len(names)), names, fontsize=10)
    axes.set_title("Mean overlap of each two", loc="left", fontsize=12)
