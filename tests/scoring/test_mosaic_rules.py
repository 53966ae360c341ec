"""What a mask says about its column: worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from kit.scoring.mosaic_rules import claims, propose, rule_of

SIDE = 60
EMPTY = np.zeros((SIDE, SIDE), bool)
VERTICAL = EMPTY.copy()
VERTICAL[:, 7:20] = True
SOFT = VERTICAL.copy()
SOFT[:5] = False  # 55 rows at the bottom are alike
RAGGED = VERTICAL.copy()
RAGGED[:20] = False  # only 40 are
CAP = EMPTY.copy()
CAP[30:] = True
KINDS = {"v": VERTICAL, "s": SOFT, "r": RAGGED, "c": CAP, "e": EMPTY}


def test_each_mask_has_the_rule_that_it_can_be_the_source_of():
    rules = dict(zip(KINDS, rule_of(np.stack(list(KINDS.values()))), strict=True))
    assert rules == {"v": "vertical-down", "s": "soft-down", "r": "other", "c": "cap-empty", "e": "empty"}


def said(column: str) -> set[tuple[str, int, int]]:
    """The claims (rule, source, target) in one column of tiles from the top: letters of KINDS, or ? for an unknown."""
    known = [index for index, letter in enumerate(column) if letter in KINDS]
    placement = pd.DataFrame(
        {"id": [f"t{i}" for i in range(len(column))], "mosaic": 0, "row": range(len(column)), "col": 3}
    )
    masks = np.stack([KINDS[column[index]] for index in known])
    table = claims(placement.sample(frac=1, random_state=0), np.array([f"t{i}" for i in known]), masks)
    return {(rule, int(source[1:]), int(target[1:])) for rule, source, target in table.itertuples(index=False)}


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("v??", {("vertical-down", 0, 1), ("vertical-down", 0, 2)}),
        ("?v", {("vertical-up", 1, 0)}),
        ("??v", {("vertical-up", 2, 1)}),  # one up and no further
        ("s?", {("soft-down", 0, 1)}),
        ("?s", set()),  # only the rows at the bottom are known to go on
        ("r?", set()),
        ("?r", set()),
        ("c??", {("cap-empty", 0, 1), ("cap-empty", 0, 2)}),
        ("?c", set()),
        ("e?", set()),
        ("ce?", {("cap-empty", 0, 1), ("cap-empty", 0, 2)}),  # an empty tile belongs beneath a cap
        ("ve?", {("vertical-down", 0, 1)}),  # but ends a vertical limit
        ("v?e", {("vertical-down", 0, 1), ("vertical-down", 0, 2)}),
        ("vr?", {("vertical-down", 0, 1)}),  # the nearest mask decides
        ("cv?", {("cap-empty", 0, 1), ("vertical-down", 1, 2), ("vertical-up", 1, 0)}),
        ("vv", {("vertical-down", 0, 1), ("vertical-up", 1, 0)}),
    ],
)
def test_claims(column, expected):
    assert said(column) == expected


def test_columns_and_mosaics_do_not_mix_and_gaps_count():
    places = {"a": (0, 0, 0), "b": (0, 1, 1), "c": (1, 1, 0), "d": (0, 2, 0), "e": (0, 4, 0), "f": (0, 5, 0)}
    placement = pd.DataFrame([(name, *place) for name, place in places.items()], columns=["id", "mosaic", "row", "col"])
    table = claims(placement, np.array(["a", "f"]), np.stack([VERTICAL, VERTICAL]))
    down = {("vertical-down", "a", "d"), ("vertical-down", "a", "e"), ("vertical-down", "a", "f")}
    assert set(table.itertuples(index=False, name=None)) == down | {("vertical-up", "f", "e")}
    alone = claims(placement, np.array(["e"]), VERTICAL[None])
    assert set(alone.itertuples(index=False, name=None)) == {("vertical-down", "e", "f")}  # row 3 is not known


def test_nothing_is_said_where_nothing_is_placed():
    none = pd.DataFrame({"id": [], "mosaic": [], "row": [], "col": []})
    assert claims(none, np.array(["a"]), VERTICAL[None]).empty


def test_a_full_mask_is_no_vertical_one():
    placement = pd.DataFrame({"id": ["a", "b"], "mosaic": 0, "row": [0, 1], "col": 0})
    table = claims(placement, np.array(["a"]), np.ones((1, SIDE, SIDE), bool))
    assert set(table["rule"]) == {"cap-empty"}


def test_what_is_proposed():
    slanted = EMPTY.copy()
    slanted[0, :5] = slanted[-1, 30:] = True
    np.testing.assert_array_equal(propose("vertical-down", slanted), np.tile(slanted[-1], (SIDE, 1)))
    np.testing.assert_array_equal(propose("soft-down", slanted), np.tile(slanted[-1], (SIDE, 1)))
    np.testing.assert_array_equal(propose("vertical-up", slanted), np.tile(slanted[0], (SIDE, 1)))
    assert not propose("cap-empty", slanted).any()
