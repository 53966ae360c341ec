"""Mosaic rules are used where they are right: planted in columns of tiles, or broken there."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kit.scoring.mosaic_gain import Neighbours

SIDE = 24


def columns(n: int, true: bool, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """n columns of three tiles, all known: a wall with straight sides in the top tile, and below it the same wall or,
    where the rule is not `true`, another one. Placement, ids (3 n,), masks."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, 3, SIDE, SIDE), bool)
    for column in masks:
        for tile in column:
            left = rng.integers(0, SIDE - 8)
            tile[:, left : left + rng.integers(4, 8)] = True
        if true:
            column[1:] = column[0]
    ids = np.array([f"{i:03d}" for i in range(3 * n)])
    places = {"id": ids, "mosaic": 0, "row": np.tile([0, 1, 2], n), "col": np.repeat(np.arange(n), 3)}
    return pd.DataFrame(places), ids, masks.reshape(-1, SIDE, SIDE)


def judged(near: Neighbours, scores: pd.Series) -> pd.DataFrame:
    return near.judge(scores).set_index("name")


def test_a_planted_rule_is_learnt():
    placement, ids, masks = columns(20, true=True)
    scores = pd.Series(0.6, ids)
    down = judged(Neighbours(placement, ids, masks), scores).loc["vertical-down"]
    assert (down["pairs"], down["precision"], down["reach"], down["used"]) == (40, 1.0, 0, True)
    assert down["gain"] == pytest.approx(0.4 * 40 / 60)
    assert down["score"] == pytest.approx(0.6 + 0.4 * 40 / 60)


def test_a_rule_that_does_not_hold_is_refused():
    placement, ids, masks = columns(20, true=False)
    down = judged(Neighbours(placement, ids, masks), pd.Series(0.6, ids)).loc["vertical-down"]
    assert down["pairs"] == 40
    assert down["precision"] < 0.3
    assert not down["used"]


def test_a_right_rule_that_predictions_know_already_is_refused():
    placement, ids, masks = columns(20, true=True)
    assert not judged(Neighbours(placement, ids, masks), pd.Series(1.0, ids))["used"].any()


def test_too_few_pairs_are_no_measure():
    placement, ids, masks = columns(2, true=True)
    down = judged(Neighbours(placement, ids, masks), pd.Series(0.0, ids)).loc["vertical-down"]
    assert down["gain_low"] > 0
    assert not down["used"]


def test_only_out_of_fold_tiles_count_for_the_gain_and_all_pairs_for_the_precision():
    placement, ids, masks = columns(20, true=True)
    some = pd.Series(np.random.default_rng(0).random(30), ids[::2])
    down = judged(Neighbours(placement, ids, masks), some).loc["vertical-down"]
    below = some.index.isin(ids[np.tile([0, 1, 2], 20) > 0])
    gains = np.where(below, 1 - some, 0)
    assert down["pairs"] == 40
    assert down["gain"] == pytest.approx(gains.mean())
    low, high = gains.mean() + np.array([-1.96, 1.96]) * stats.sem(gains)
    assert (down["gain_low"], down["gain_high"]) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_tiles_that_are_not_known_are_reached_and_replaced():
    placement, ids, masks = columns(10, true=True)
    known = np.tile([True, True, False], 10)
    near = Neighbours(placement, ids[known], masks[known])
    down = judged(near, pd.Series(0.5, ids[known])).loc["vertical-down"]
    assert (down["pairs"], down["reach"]) == (10, 10)
    predicted = np.random.default_rng(0).random((10, SIDE, SIDE)) > 0.5
    order = np.random.default_rng(1).permutation(10)
    replaced = near.replaced(predicted, list(ids[~known][order]), ["vertical-down"])
    np.testing.assert_array_equal(replaced, masks[~known][order])
    np.testing.assert_array_equal(near.replaced(predicted, list(ids[~known]), []), predicted)
    np.testing.assert_array_equal(near.replaced(predicted, ["x"] * 10, ["vertical-down"]), predicted)


def test_of_two_rules_the_first_is_heard():
    """The middle tile lies below a wall and above another one, and is like neither."""
    walls = np.zeros((3, SIDE, SIDE), bool)
    walls[0, :, 2:6] = walls[2, :, 10:16] = True
    walls[1, :, 2:7] = True
    placement = pd.DataFrame({"id": ["a", "b", "c"], "mosaic": 0, "row": [0, 1, 2], "col": 0})
    near = Neighbours(placement, np.array(["a", "c"]), walls[[0, 2]])
    both = near.replaced(walls[1:2], ["b"], ["vertical-up", "vertical-down"])
    np.testing.assert_array_equal(both[0], walls[0])
    np.testing.assert_array_equal(near.replaced(walls[1:2], ["b"], ["vertical-up"])[0], walls[2])
    known = Neighbours(placement, np.array(["a", "b", "c"]), walls)
    assert known.rescored(pd.Series(0.0, ["b"]), ["vertical-up", "vertical-down"])["b"] == pytest.approx(0.6)  # IoU 0.8
    assert known.rescored(pd.Series(0.3, ["b"]), ["vertical-up"])["b"] == 0
