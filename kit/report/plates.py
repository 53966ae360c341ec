"""What a report is made of: figures, tables and tiles to look through, each with the question that it answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Plate:
    """A figure of the report. Its files are called after `name`, which is unique in the report."""

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
class Gallery:
    """Tiles to look through; of a report at most one."""

    name: str
    question: str
    tiles: pd.DataFrame  # a row for each, as of kit.report.gallery, in the order of the page
    layers: dict[str, np.ndarray]  # image, truth, probability, mask: (n, H, W) each, in the order of the tiles
    changes: pd.DataFrame  # as of kit.report.changes.Judged
    changed: dict[str, np.ndarray]  # its masks, before and flipped: (changes, H, W) bool
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A chapter of the page, with its parts in their order."""

    name: str  # the anchor of links
    title: str
    parts: Sequence[Plate | Table | Gallery]
