"""Several encoders, several sizes of the data, and submissions beside what was foretold."""

from itertools import cycle

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, ScalarFormatter

from kit.report.figures.style import GREY, MARKS, chart, legend

COSTS = {"seconds": "Time, s", "mib": "Peak memory, MiB"}


def score_against_speed(table: pd.DataFrame, title: str) -> Figure:
    """Score with its interval against training speed, a mark of its own for each encoder.

    table: a row for each with encoder, score, score_low, score_high, tiles_per_second and parameters, in the order of
    the legend, which says the parameters.
    """
    figure, axes = chart(title, "Training speed, tiles/s", "Score, with 95 % interval over tiles")
    for row, (colour, mark) in zip(table.to_dict("records"), cycle(MARKS), strict=False):
        speed, score = row["tiles_per_second"], row["score"]
        interval = [[score - row["score_low"]], [row["score_high"] - score]]
        label = f"{row['encoder']}, {row['parameters'] / 1e6:.1f} M parameters"
        axes.errorbar(speed, score, interval, fmt=mark, color=colour, markersize=9, capsize=4, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter())
    axes.tick_params(axis="x", which="both", length=4, pad=4)  # a row of numbers
    legend(figure)
    return figure


def growth(table: pd.DataFrame, title: str) -> Figure:
    """Seconds and memory of each step against the number of tiles, on logarithmic axes, where linear growth is a slope.

    table: a row for each step and size with step, tiles, seconds, mib. The dotted line is linear.
    """
    figure = Figure(figsize=(10, 5), layout="constrained")
    sizes = sorted(table["tiles"].unique())
    for axes, (column, name) in zip(figure.subplots(1, 2), COSTS.items(), strict=True):
        for (step, own), (colour, mark) in zip(table.groupby("step", sort=False), cycle(MARKS), strict=False):
            axes.plot(own["tiles"], own[column], marker=mark, color=colour, label=step if column == "seconds" else "_")
        lowest = table[column].min()
        linear = [lowest * size / sizes[0] for size in sizes]
        axes.plot(sizes, linear, ":", color=GREY, label="linear" if column == "seconds" else "_")
        axes.set(xscale="log", yscale="log", xticks=sizes, ylim=(lowest / 2, 2 * table[column].max()))
        axes.set_xticklabels([f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.set_xlabel("Tiles, train and test", fontsize=11)
        axes.set_ylabel(name, fontsize=11)
        axes.grid(color="0.9")
    figure.suptitle(title, x=0.02, ha="left", fontsize=12)
    legend(figure, 6)
    return figure


def foretold(table: pd.DataFrame, title: str) -> Figure:
    """Public and private score against the out-of-fold score, with the line on which they would be the same.

    table: oof, public, private of each submission. Those without an out-of-fold score are small marks at the left edge.
    """
    figure, axes = chart(title.replace("; ", "\n") or "Submissions", "Out-of-fold score", "Leaderboard score")
    for name, (colour, mark) in zip(("public", "private"), MARKS, strict=False):
        known = table[[name, "oof"]].dropna()
        axes.plot(known["oof"], known[name], mark, color=colour, markersize=8, label=f"{name} score", linestyle="none")
        unknown = table[name][table["oof"].isna()].dropna()
        axes.plot([0.015] * len(unknown), unknown, mark, color=colour, markersize=4, alpha=0.6,
                  transform=axes.get_yaxis_transform(), linestyle="none")  # fmt: skip
    both = table[["oof", "public", "private"]].to_numpy().ravel()
    ends = [pd.Series(both).min(), pd.Series(both).max()]
    axes.plot(ends, ends, color=GREY, linewidth=1, linestyle=":", label="equal scores")
    legend(figure, 3)
    return figure
