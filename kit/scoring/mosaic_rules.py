"""What the mask of one tile says about others of its mosaic column, and how far that may be trusted.

The interpreters of TGS drew only the top of the salt, between two vertical limits, and the masks were cut into tiles
with it: a tile wholly beneath a cap is labelled empty, and one below a tile whose rows are all alike repeats them. So
say the rules of the first place (github.com/ybabakhin/kaggle_salt_bes_phalanx) and of the fourth (github.com/SeuTao).
Each goes from a training tile, whose mask is known, to another tile of its column. How often it is right is measured
where the other one is a training tile as well.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

VERTICAL, SOFT, CAP, UP = "vertical-down", "soft-down", "cap-empty", "vertical-up"
NAMES = (VERTICAL, SOFT, CAP, UP)  # where two speak of one tile, the first is heard
_SOFT_ROWS = 50  # rows at the bottom that are alike in a soft vertical mask


def claims(placement: pd.DataFrame, ids: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """What each rule says about each tile: a table (rule, source, target) of text, at most one row for each pair of
    rule and target.

    placement: columns id, mosaic, row (growing downward), col; ids (n,), masks (n, H, W) bool: the tiles whose masks
    are known. A tile's own mask is not used for what is said about it, so the claims about these tiles can be held
    against their masks.
    """
    kinds = dict(zip(ids, rule_of(masks), strict=True))
    found = []
    for column in _columns(placement):
        for place, (row, name) in enumerate(column):
            above = [other for _, other in reversed(column[:place])]
            found += [(rule, source, name) for rule, source in _from_above(above, kinds)]
            below = column[place + 1] if place + 1 < len(column) else None
            if below is not None and below[0] == row + 1 and kinds.get(below[1]) == VERTICAL:
                found.append((UP, below[1], name))
    return pd.DataFrame(found, columns=["rule", "source", "target"], dtype=str)


def _columns(placement: pd.DataFrame) -> list[list[tuple[int, str]]]:
    """The (row, id) of each column of each mosaic, from the top."""
    columns: dict[tuple, list[tuple[int, str]]] = {}
    for name, mosaic, row, col in placement[["id", "mosaic", "row", "col"]].itertuples(index=False):
        columns.setdefault((mosaic, col), []).append((row, name))
    return [sorted(column) for column in columns.values()]


def _from_above(above: Sequence[str], kinds: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The rule, if any, that reaches a tile from the nearest known mask with salt above it, and that mask's tile.

    Nearest first. An empty tile between ends a vertical limit, but belongs beneath a cap.
    """
    passed_empty = False
    for name in above:
        kind = kinds.get(name)
        if kind == CAP or (kind in (VERTICAL, SOFT) and not passed_empty):
            yield kind, name
        if kind not in (None, "empty"):
            return
        passed_empty |= kind == "empty"


def propose(rule: str, source: np.ndarray) -> np.ndarray:
    """The mask (H, W) bool that a rule gives to its target, from that of its source."""
    if rule == CAP:
        return np.zeros_like(source)
    return np.broadcast_to(source[0 if rule == UP else -1], source.shape)


def weakest_first(rules: Sequence[str]) -> list[str]:
    """Where two rules speak of one tile, the first of NAMES has the last word."""
    return [name for name in reversed(NAMES) if name in rules]


def rule_of(masks: np.ndarray) -> np.ndarray:
    """What each mask (n, H, W) bool can be the source of, (n,) str: a rule that goes down, "empty" or "other".

    A cap has salt all along its last row, a vertical mask all rows alike, a soft one its last 50.
    """
    alike, bottom = masks == masks[:, -1:], masks[:, -1]
    salt, cap = bottom.any(axis=1), bottom.all(axis=1)
    empty = ~masks.any(axis=(1, 2))
    vertical, soft = alike.all(axis=(1, 2)), alike[:, -_SOFT_ROWS:].all(axis=(1, 2))
    return np.select([empty, cap, salt & vertical, salt & soft], ["empty", CAP, VERTICAL, SOFT], "other")
