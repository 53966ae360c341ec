"""The tiles as a whole: how much salt, at what depth, where in the tile."""

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from kit.report.figures.style import BLUE, GREY, ORANGE, chart, legend

CLASSES = np.arange(11)  # of kit.data.folds.coverage_class
DEPTH_BINS = 24
DEPTH_GROUPS = 10  # in each as many tiles, so that each share is as sure as the others


def coverage_histogram(coverage: np.ndarray) -> Figure:
    """How many tiles have how much salt: coverage (n,), shares of the tile. Empty ones are a bar of their own."""
    salt = coverage[coverage > 0]
    empty = len(coverage) - len(salt)
    title = f"{empty:,} of {len(coverage):,} tiles are empty" + (
        f"; half of the others have more than {np.median(salt):.0%} salt" if len(salt) else ""
    )
    figure, axes = chart(title, "Salt, % of the tile", "Tiles")
    axes.hist(100 * salt, bins=np.arange(0, 101, 2.5).tolist(), color=BLUE, edgecolor="white", linewidth=0.5,
              label="tiles with salt")  # fmt: skip
    axes.bar(-7, empty, width=5, color=GREY, hatch="//", edgecolor="white", label="empty tiles")
    axes.set_xticks([-7, *range(0, 101, 10)], labels=["empty", *range(0, 101, 10)])
    legend(figure)
    return figure


def coverage_classes(classes: np.ndarray) -> Figure:
    """How many tiles each of the 11 classes (n,) of folds.coverage_class has, counts written on the bars."""
    counts = np.bincount(classes, minlength=len(CLASSES))
    title = f"{counts[0]:,} tiles are empty, {counts[1:].sum():,} have salt"
    figure, axes = chart(title, "Class: tenths of the tile that are salt, rounded up", "Tiles")
    bars = axes.bar(CLASSES, counts, color=[GREY, *[BLUE] * 10], hatch=["//", *[""] * 10], edgecolor="white")
    axes.bar_label(bars, [f"{count:,}\n{count / len(classes):.1%}" for count in counts], fontsize=9, padding=2)
    axes.set_xticks(CLASSES, labels=["0\nempty", *CLASSES[1:]])
    axes.margins(y=0.12)
    return figure


def class_against_coverage(coverage: np.ndarray, classes: np.ndarray) -> Figure:
    """Each tile's class (n,) against its coverage (n,): a step every 10 %."""
    figure, axes = chart("A class begins just above each full 10 %", "Salt, % of the tile", "Class")
    # spread within the class, in order of the tiles, so that a thousand points do not hide each other
    spread = (np.arange(len(classes)) * 0.618 % 1 - 0.5) * 0.6
    axes.plot(100 * coverage, classes + spread, ".", color=BLUE, markersize=3, alpha=0.5, label="a tile")
    axes.step([0, *10 * CLASSES], [0, *CLASSES], where="pre", color=ORANGE, label="its class")
    axes.set_xticks(10 * CLASSES)
    axes.set_yticks(CLASSES)
    legend(figure)
    return figure


def depth_distributions(train: np.ndarray, test: np.ndarray) -> Figure:
    """The depths of both splits, (n,) float in feet, as shares of each; NaN where unknown is left out."""
    known = {"training": train[~np.isnan(train)], "test": test[~np.isnan(test)]}
    edges = np.histogram_bin_edges(np.concatenate(list(known.values())), DEPTH_BINS)
    medians = [f"{name} {np.median(depth):.0f} feet" for name, depth in known.items() if len(depth)]
    figure, axes = chart(f"Median depth: {', '.join(medians)}", "Depth, feet", "Share of the tiles, %")
    for (name, depth), colour, line in zip(known.items(), (BLUE, ORANGE), ("-", "--"), strict=True):
        if not len(depth):
            continue
        share = 100 * np.histogram(depth, edges)[0] / len(depth)
        axes.stairs(share, edges, color=colour, linestyle=line, linewidth=2, label=f"{len(depth):,} {name} tiles")
    axes.set_ylim(0)
    legend(figure)
    return figure


def empty_by_depth(depth: np.ndarray, empty: np.ndarray) -> Figure:
    """The share of empty tiles by depth: depth (n,) float in feet (NaN is left out), empty (n,) bool.

    Tiles sorted by depth in groups of one size; a bar is Wilson's 95 % interval (JASA 22, 1927).
    """
    known = ~np.isnan(depth)
    depth, empty = depth[known], empty[known]
    groups = [part for part in np.array_split(np.argsort(depth, kind="stable"), DEPTH_GROUPS) if len(part)]
    share = np.array([empty[part].mean() for part in groups])
    found = [stats.binomtest(int(empty[part].sum()), len(part)).proportion_ci(method="wilson") for part in groups]
    low, high = np.array([(one.low, one.high) for one in found]).T
    middle = np.array([np.median(depth[part]) for part in groups])
    ends = np.array([(depth[part].min(), depth[part].max()) for part in groups])
    title = f"{share[0]:.0%} of the shallowest {len(groups[0]):,} tiles are empty, {empty.mean():.0%} of all"
    figure, axes = chart(title, "Depth, feet", "Empty tiles, %")
    axes.errorbar(
        middle, 100 * share, yerr=100 * np.array([share - low, high - share]).clip(0),
        xerr=abs(ends.T - middle), fmt="o", color=BLUE, markersize=7, capsize=4,
        label=f"groups of about {len(depth) // len(groups):,} tiles, with 95 % interval",
    )  # fmt: skip
    axes.axhline(100 * empty.mean(), color=ORANGE, linestyle="--", label=f"all depths: {empty.mean():.0%}")
    axes.set_ylim(0, 100)
    legend(figure)
    return figure


def mask_positions(masks: np.ndarray) -> Figure:
    """Where in the tile salt lies: the share of masks (n, H, W) bool that hold each pixel, empty masks left out."""
    salt = masks[masks.any(axis=(1, 2))]
    share = 100 * salt.mean(axis=0)
    title = f"Each place is salt in {share.min():.0f} to {share.max():.0f} % of the {len(salt):,} tiles with salt"
    figure, axes = chart(title, "Column, pixels", "Row, pixels", (6.6, 5.4))
    axes.grid(visible=False)
    drawn = axes.imshow(share, cmap="cividis")
    figure.colorbar(drawn, ax=axes, label="Tiles that are salt there, %")
    return figure
