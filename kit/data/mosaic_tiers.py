"""How far seams can be trusted: counted by tiers of confidence, and held against what is known to be chance.

Two witnesses, of which the solver knows neither. Mirror images of the tiles continue nothing, so what is found among
them is chance. And where the masks of both tiles are known they should agree along the seam, more than they do at such
chance seams, whose tiles look alike too.
"""

from itertools import pairwise

import numpy as np
import pandas as pd

from kit.data import seams
from kit.data.mosaic import FLOOR

BOUNDS = (0, 0.2, FLOOR, 0.6, 1 - seams.LOOP, 1)  # in the highest tier are the seams of closed loops
MIN_PAIRS = 10  # seams between known masks that can speak against a tier


def judge(found: pd.DataFrame, mirrored: pd.DataFrame, masks: np.ndarray) -> pd.DataFrame:
    """A row for each tier of the seams `found`; those `mirrored` (both of kit.data.seams.find) measure chance.

    masks (n, H, W) bool, of the first n tiles. Columns: low and high bound of the confidence; seams; by_chance (how
    many the mirror images have); pairs (seams between known masks); agreement (share of border pixels that these masks
    have in common), its standard error and its chance level; kept. A tier is refused below the floor, where mirror
    images have more than half as many, and where the agreement of at least 10 pairs is by more than its error nearer to
    chance than to full agreement.
    """
    found, mirrored = _with_agreement(found, masks, False), _with_agreement(mirrored, masks, True)
    level = mirrored.groupby("side")["agreement"].mean()
    rows = []
    for low, high in pairwise(BOUNDS):
        tier, chance = _within(found, low, high), _within(mirrored, low, high)
        known = tier[tier["agreement"].notna()]
        mean, error = known["agreement"].mean(), float(known["agreement"].sem())  # type: ignore[arg-type]
        expected = known["side"].map(level).mean()
        disagree = len(known) >= MIN_PAIRS and mean + error < (1 + expected) / 2
        kept = low >= FLOOR and 2 * len(chance) <= len(tier) and not disagree
        rows.append((low, high, len(tier), len(chance), len(known), mean, error, expected, kept))
    columns = ["low", "high", "seams", "by_chance", "pairs", "agreement", "error", "chance", "kept"]
    return pd.DataFrame(rows, columns=columns)


def kept(found: pd.DataFrame, tiers: pd.DataFrame) -> pd.DataFrame:
    """The seams of the tiers that `judge` kept."""
    parts = [_within(found, low, high) for low, high in tiers.loc[tiers["kept"], ["low", "high"]].to_numpy()]
    return pd.concat(parts) if parts else found[:0]


def _within(table: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    upper = table["confidence"] <= high if high == BOUNDS[-1] else table["confidence"] < high
    return table[(table["confidence"] >= low) & upper]


def _with_agreement(table: pd.DataFrame, masks: np.ndarray, mirrored: bool) -> pd.DataFrame:
    """The seams with the share of border pixels on which both masks agree, NaN where one is not known."""
    table = table.assign(agreement=np.nan)
    known = (table[["first", "second"]] < len(masks)).all(axis=1)
    for side, rows in table[known].groupby("side"):
        near, _ = seams.borders(masks, str(side), 1)
        _, far = seams.borders(masks[:, :, ::-1] if mirrored else masks, str(side), 1)
        same = near[rows["first"], :, 0] == far[rows["second"], :, 0]
        table.loc[rows.index, "agreement"] = same.mean(axis=1)
    return table
