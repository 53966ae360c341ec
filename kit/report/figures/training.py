"""The course of a training: losses, scores and learning rates of its folds laid over one another, and of several runs.

A history is the table of fold_K/history.csv: a row for each epoch with epoch (from 0), stage, loss and the figures.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kit.report.figures.style import BLUE, GREY, MARKS, ORANGE, chart, legend, short

PARTS: dict[str, tuple[str, str, Any]] = {
    "train": ("training tiles", BLUE, "--"),
    "valid": ("validation tiles", ORANGE, "-"),
}
STYLES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))


def losses(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss of training and validation tiles by epoch, a panel for each loss: what two losses say cannot be compared.

    histories: by the fold's name, as "fold 0".
    """
    spans = _spans(histories.values())
    widths = [max(last - first + 1, 0.18 * spans[-1][2]) for _, first, last in spans]
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    panels = figure.subplots(1, len(spans), squeeze=False, width_ratios=widths)[0]
    for axes, (loss, first, last), width in zip(panels, spans, widths, strict=True):
        _plain(axes, textwrap.fill(loss, max(10, int(95 * width / sum(widths)))))
        for name, history in histories.items():
            own = history[history["epoch"].between(first - 1, last - 1)]
            _draw(axes, own, ("train_loss", "valid_loss"), histories, name)
        axes.set_xlim(first - 0.5, last + 0.5)
    panels[0].set_ylabel("Loss", fontsize=11)
    _explain(figure, histories)
    return figure


def scores(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Score and pixel accuracy of training and validation tiles by epoch; dotted where a stage ends.

    histories: by the fold's name. Columns that one lacks (train_score, train_accuracy, valid_accuracy of runs of an
    earlier version) are left out.
    """
    names = {"Score": ("train_score", "score"), "Pixel accuracy": ("train_accuracy", "valid_accuracy")}
    there = {
        name: columns for name, columns in names.items() if any(_has(table, columns) for table in histories.values())
    }
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    panels = figure.subplots(1, max(1, len(there)), squeeze=False)[0]
    for axes, (name, columns) in zip(panels, there.items(), strict=False):
        _plain(axes, f"{name} at threshold 0.5")
        axes.set_ylabel(name, fontsize=11)
        for fold, history in histories.items():
            _draw(axes, history, columns, histories, fold)
            _mark_stages(axes, history)
    _explain(figure, histories)
    return figure


def learning_rates(
    rates: Mapping[str, pd.DataFrame], stages: Sequence[str], marks: Mapping[str, Sequence[tuple[float, float]]]
) -> Figure:
    """Learning rate of the decoder by step, the folds over one another, each stage in a colour and line of its own.

    rates: by the fold's name, a row for each step: step, lr, stage. stages: what each stage is, by its number. marks:
    points (step, lr) by what happened there, such as a snapshot.
    """
    figure, axes = chart("Learning rate of the decoder", "Step", "Learning rate")
    for table in rates.values():
        for stage in table["stage"].unique():
            own = table[table["stage"] == stage]
            colour, style = MARKS[stage % len(MARKS)][0], STYLES[stage % len(STYLES)]
            axes.plot(own["step"], own["lr"], color=colour, linestyle=style, linewidth=1.8, label=stages[stage])
            if own["step"].iloc[0] > 1:
                axes.axvline(own["step"].iloc[0] - 0.5, color=GREY, linewidth=0.8, linestyle=":")
    for (what, points), mark in zip(marks.items(), "v^Ds", strict=False):
        axes.plot(*np.reshape(points, (-1, 2)).T, mark, color="black", markerfacecolor="none", markersize=8,
                  linestyle="none", label=what)  # fmt: skip
    peaks = pd.concat(rates.values()).groupby("stage")["lr"].max()
    if peaks.max() > 5 * peaks.min():  # the lowest stage would be a line at nought
        axes.set_yscale("log")
        axes.set_ylim(peaks.min() / 100, 2 * peaks.max())
    shown = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=1, frameon=False, fontsize=10)
    return figure


def loss_against_rate(curve: pd.DataFrame, lr: float) -> Figure:
    """The learning-rate finder: lr, loss and suggested (bool, one row) of a training whose rate grows at each step.

    lr: the rate that the recipe has.
    """
    at = curve[curve["suggested"]].iloc[0]
    figure, axes = chart(f"Learning-rate finder: {at['lr']:.1e} is suggested", "Learning rate", "Loss, smoothed")
    axes.plot(curve["lr"], curve["loss"], color=BLUE)
    axes.plot(at["lr"], at["loss"], "o", color=ORANGE, markersize=10, label=f"suggested: {at['lr']:.1e}")
    axes.axvline(lr, color=GREY, linestyle=":", label=f"the recipe's: {lr:.1e}")
    axes.set_xscale("log")
    low, first = curve["loss"].min(), curve["loss"].iloc[0]
    axes.set_ylim(
        low - 0.1 * (first - low or 1), first + 0.5 * (first - low or 1)
    )  # what diverged is out of the picture
    legend(figure)
    return figure


def scores_of_runs(histories: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """Validation score by epoch of several runs, a colour and a mark for each; a run's folds lie over one another."""
    figure, axes = chart("Validation score", "Epoch", "Score at threshold 0.5")
    firsts = []  # told to the legend, which else passes over names like _old
    for (name, folds), (colour, mark), style in zip(histories.items(), cycle(MARKS), cycle(STYLES), strict=False):
        lines = [
            axes.plot(history["epoch"] + 1, history["score"], color=colour, marker=mark, linestyle=style, markersize=5,
                      markevery=[-1], label=short(name, 60))[0]
            for history in folds
        ]  # fmt: skip
        firsts += lines[:1]
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend(figure, 1, firsts)
    return figure


def _spans(histories) -> list[tuple[str, int, int]]:
    """The stretches of epochs with one loss, in order: loss, first and last epoch, from 1."""
    table = pd.concat(histories).drop_duplicates("epoch").sort_values("epoch")
    stretch = (table["loss"] != table["loss"].shift()).cumsum()
    groups = [own for _, own in table.groupby(stretch)]
    return [(own["loss"].iloc[0], int(own["epoch"].min()) + 1, int(own["epoch"].max()) + 1) for own in groups]


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("Epoch", fontsize=11)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=8))


def _has(history: pd.DataFrame, columns: Sequence[str]) -> bool:
    return any(column in history and history[column].notna().any() for column in columns)


def _draw(axes: Axes, history: pd.DataFrame, columns: Sequence[str], folds: Mapping[str, object], name: str) -> None:
    """The training and the validation column of one fold, where it has them, with the fold's mark at the end."""
    mark = MARKS[list(folds).index(name) % len(MARKS)][1]
    for column, (_, colour, style) in zip(columns, PARTS.values(), strict=True):
        if _has(history, [column]):
            known = history[history[column].notna()]
            alone = "o" if len(known) == 1 else None  # a line of one epoch would not be seen
            width, shown = (1.2, mark) if len(folds) > 1 else (1.8, alone)
            axes.plot(known["epoch"] + 1, known[column], style, color=colour, linewidth=width, marker=shown,
                      markevery=[-1], markersize=6, label=f"{name} {column}")  # fmt: skip


def _mark_stages(axes: Axes, history: pd.DataFrame) -> None:
    for end in history["epoch"][history["stage"].diff().gt(0)]:
        axes.axvline(end + 0.5, color=GREY, linewidth=0.8, linestyle=":")


def _explain(figure: Figure, folds: Mapping[str, object]) -> None:
    """One legend for all panels: what a line is, and which mark is which fold's."""
    drawn = {line.get_color() for axes in figure.axes for line in axes.lines}
    handles = [Line2D([], [], color=colour, linestyle=style, label=name)
               for name, colour, style in PARTS.values() if colour in drawn]  # fmt: skip
    if len(folds) > 1:
        marks = (mark for _, mark in cycle(MARKS))
        handles += [Line2D([], [], color=GREY, marker=mark, linestyle="none", label=name)
                    for name, mark in zip(folds, marks, strict=False)]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7), frameon=False, fontsize=10)
