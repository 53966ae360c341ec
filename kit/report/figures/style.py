"""What all figures share: colours, sizes, and how a figure is written.

Figures are made without pyplot, so that no global state is touched; a notebook shows one that a cell returns.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kit.runs import atomic_path

LONGEST = 18  # characters of a tile's name
# Okabe and Ito's colours, told apart by colour-blind readers too; marks differ in shape as well
BLUE, ORANGE, GREEN, YELLOW, GREY = "#0072B2", "#D55E00", "#009E73", "#F0E442", "#555555"
SKY = "#56B4E9"  # for lines on grey tiles, where blue is too dark
PURPLE = "#CC79A7"
MARKS = tuple(zip((BLUE, ORANGE, GREEN, PURPLE, SKY, "#E69F00"), "osD^vX", strict=True))


def show_in_notebooks() -> None:
    """Let IPython, where it runs, draw a figure that a cell returns: else it does so only after one of pyplot."""
    if "IPython" in sys.modules:
        from IPython import get_ipython
        from IPython.core.pylabtools import select_figure_formats

        if shell := get_ipython():
            select_figure_formats(shell, {"png"})


def chart(title: str, x: str, y: str, size: tuple[float, float] = (8, 5.4)) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, labelled; `size` in inches."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def short(name: str, longest: int = LONGEST) -> str:
    """A name that fits above a tile, or into so many characters."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def legend(figure: Figure, columns: int = 2, handles: Sequence[Artist] | None = None) -> None:
    """What the colours and marks mean, below the axes, where it hides nothing.

    handles: what is explained, also where its label begins with "_"; else all that has another label.
    """
    drawn = figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=10)
    for text in drawn.get_texts():  # a name may have a $ in it
        text.set_parse_math(False)


def save(figure: Figure, path: Path | str) -> None:
    """Write a figure atomically, in the format that the suffix names."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
