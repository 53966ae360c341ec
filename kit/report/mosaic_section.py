"""The mosaics of the report: tiles put together, with truth, prediction and what mosaic rules say."""

import numpy as np
import pandas as pd

from kit.data.mosaic_levels import levels
from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.report import mosaics
from kit.report.plates import Plate, Section
from kit.runs import Run
from kit.scoring import mosaic_rules

SHOWN = 6  # mosaics, the largest; scripts/mosaic.py draws them all
NOTE = (
    "Grey levels are matched across the seams. A square in a tile's upper corner: its mask is known, or predicted; "
    "a sign in its lower corner: a rule says what its mask should be, by a training tile of its column."
)


def section(tiles: Tiles, placement: pd.DataFrame | None, run: Run | None) -> Section:
    """The largest mosaics, with the masks that `run` predicts where there is one; empty where no tile is placed."""
    ids, images = np.r_[tiles.train_ids, tiles.test_ids], np.concatenate([tiles.train_images, tiles.test_images])
    if placement is None or not placement["id"].isin(ids).all() or placement.empty:
        return Section("mosaics", "Mosaics", [])
    placed = placement.assign(tile=pd.Index(ids).get_indexer(pd.Index(placement["id"])))
    drawn = {"known mask": dict(zip(tiles.train_ids, tiles.masks, strict=True))}
    if run:
        try:
            drawn[f"predicted by {run.name}"] = mosaics.predicted(run, tiles, placement)
        except InputError as error:  # none yet, or its rules need another placement: the mosaics are good all the same
            print(f"left out: predictions in mosaics, for {error}")
    claims = mosaic_rules.claims(placement, tiles.train_ids, tiles.masks)
    gain, offset = levels(images, placed)
    parts: list[Plate] = []
    for number in mosaics.large(placed)[:SHOWN]:
        own = (placed["mosaic"] == number).to_numpy()
        stack = images[placed["tile"][own]] * gain[own, None, None] + offset[own, None, None]
        figure = mosaics.picture(number, stack, placed[own], drawn, claims)
        question = f"Does the salt of mosaic {number} go on from tile to tile?"
        parts.append(Plate(f"mosaic-{number:03}", question, figure, "" if parts else NOTE))
    return Section("mosaics", "Mosaics", parts)
