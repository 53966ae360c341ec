"""What a report is made of: figures and tables, each with the question that it answers."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Plate:
    """A figure of the report. `name` is its file name without a suffix, unique in the report."""

    name: str
    question: str  # its heading
    figure: Figure
    note: str = ""  # one sentence under it: how to read it, or what it says


@dataclass(frozen=True)
class Table:
    """A table of the report, its index left out."""

    name: str
    question: str
    frame: pd.DataFrame
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A chapter of the page, with its parts in their order."""

    name: str  # the anchor of links
    title: str
    parts: list[Plate | Table]
