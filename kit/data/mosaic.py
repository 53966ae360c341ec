"""The jigsaw: tiles are put together again into the sections that they were cut from.

A seam (kit.data.seams) is kept when it closes a 2x2 loop or is strong alone, and groups of tiles grow from the surest
seam to the least sure, as the trees of Kruskal (Proc. AMS 7, 1956) do, unless two tiles would lie on one place.
"""

import numpy as np
import pandas as pd

from kit.data import seams

FLOOR = 0.4  # seams less sure are left out: on the competition's tiles they are as many among mirror images
_COLUMNS = ["tile", "mosaic", "row", "col", "confidence"]


def solve(images: np.ndarray) -> pd.DataFrame:
    """Place tiles (N, H, W) uint8 in mosaics: tile (its number), mosaic, row growing downward, col, confidence.

    Only tiles with a neighbour are in the table, sorted by mosaic, row and col; mosaic 0 is the largest, and each
    begins at row 0 and col 0. Tiles of one grey value are never placed. confidence, 0 to 1, is that of the weakest
    seam on the surest way from the tile to the main part of its mosaic. Raises InputError for images of another kind.
    """
    return assemble(seams.find(images))


def assemble(table: pd.DataFrame, floor: float = FLOOR) -> pd.DataFrame:
    """The placement, as `solve` returns it, that seams (first, second, side, confidence) of at least `floor` make."""
    cells: dict[int, dict[tuple[int, int], int]] = {}  # of each group, its tile at each place
    group: dict[int, int] = {}
    place: dict[int, tuple[int, int]] = {}
    sure: dict[int, float] = {}
    kept = table[table["confidence"] >= floor].sort_values("confidence", ascending=False, kind="stable")
    for first, second, side, confidence in kept[["first", "second", "side", "confidence"]].itertuples(index=False):
        for tile in (first, second):
            if tile not in group:
                group[tile], place[tile], cells[tile] = tile, (0, 0), {(0, 0): tile}
        if group[first] == group[second]:
            continue
        down, right = seams.STEPS[side]
        if len(cells[group[first]]) < len(cells[group[second]]):  # the smaller group moves
            first, second, down, right = second, first, -down, -right
        down += place[first][0] - place[second][0]
        right += place[first][1] - place[second][1]
        ours, theirs = cells[group[first]], cells[group[second]]
        moved = {(row + down, col + right): tile for (row, col), tile in theirs.items()}
        if ours.keys() & moved.keys():
            continue
        del cells[group[second]]
        if len(ours) == 1:
            sure[first] = confidence
        ours.update(moved)
        for cell, tile in moved.items():
            group[tile], place[tile], sure[tile] = group[first], cell, confidence
    return _numbered([members for members in cells.values() if len(members) > 1], sure)


def _numbered(mosaics: list[dict[tuple[int, int], int]], sure: dict[int, float]) -> pd.DataFrame:
    """The table of mosaics, the largest first, each shifted to begin at row 0 and col 0."""
    rows = []
    for number, cells in enumerate(sorted(mosaics, key=lambda cells: (-len(cells), min(cells.values())))):
        top, left = min(row for row, _ in cells), min(col for _, col in cells)
        rows += [(tile, number, row - top, col - left, sure[tile]) for (row, col), tile in sorted(cells.items())]
    return pd.DataFrame(rows, columns=_COLUMNS).astype(dict.fromkeys(_COLUMNS[:4], np.int64) | {"confidence": float})


def neighbours(placement: pd.DataFrame, side: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows (M,), (M,) of a placement (mosaic, row, col) whose tiles touch: the second lies `side` of the first."""
    down, right = seams.STEPS[side]
    own = pd.MultiIndex.from_frame(placement[["mosaic", "row", "col"]])
    wanted = pd.MultiIndex.from_arrays([placement["mosaic"], placement["row"] + down, placement["col"] + right])
    second = own.get_indexer(wanted)
    first = np.flatnonzero(second >= 0)
    return first, second[first]
