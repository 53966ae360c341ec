"""Which tiers of seams are refused, on masks and seams whose truth is planted."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from kit.data import mosaic_tiers

TOP, ALONE = 0.95, 0.7  # a confidence of the highest tier and of one that is kept as well


def strip(count, seed=0):
    """Masks (count, 10, 10) of a row of tiles that continue one another to the right, of random salt."""
    rng = np.random.default_rng(seed)
    edges = rng.random((count + 1, 10)) < 0.5  # what is on the lines between
    masks = rng.random((count, 10, 10)) < 0.5
    masks[:, :, 0], masks[:, :, -1] = edges[:-1], edges[1:]
    return masks


def seams_of(pairs, confidence, side="right"):
    first, second = np.array(pairs).T
    return pd.DataFrame({"first": first, "second": second, "side": side, "confidence": confidence})


def in_a_row(count):
    return [(tile, tile + 1) for tile in range(count - 1)]


def at_random(count, seed=1):
    order = np.random.default_rng(seed).permutation(count)
    return [(first, second) for first, second in pairwise(order) if second != first + 1]


def row_of(tiers, confidence):
    return tiers[(tiers["low"] <= confidence) & (confidence < tiers["high"])].iloc[0]


def test_true_seams_are_kept_and_random_ones_refused():
    masks = strip(60)
    found = pd.concat([seams_of(in_a_row(60), TOP), seams_of(at_random(60), ALONE)], ignore_index=True)
    tiers = mosaic_tiers.judge(found, seams_of(at_random(60, 2), 0.1), masks)
    top, alone = row_of(tiers, TOP), row_of(tiers, ALONE)
    assert (top["seams"], top["pairs"], top["agreement"], top["kept"]) == (59, 59, 1, True)
    assert alone["agreement"] == pytest.approx(0.5, abs=0.08)
    assert top["chance"] == pytest.approx(0.5, abs=0.08)
    assert not alone["kept"]
    assert mosaic_tiers.kept(found, tiers)["confidence"].unique().tolist() == [TOP]


def test_seams_below_the_floor_are_refused_however_well_they_agree():
    tiers = mosaic_tiers.judge(seams_of(in_a_row(60), 0.39), seams_of(at_random(60), 0.1), strip(60))
    assert row_of(tiers, 0.39)["agreement"] == 1
    assert not row_of(tiers, 0.39)["kept"]


@pytest.mark.parametrize(("by_chance", "kept"), [(29, True), (30, False)])
def test_seams_of_which_mirror_images_have_more_than_half_as_many_are_refused(by_chance, kept):
    mirrored = seams_of(at_random(60)[:by_chance], ALONE)
    row = row_of(mosaic_tiers.judge(seams_of(in_a_row(60), ALONE), mirrored, strip(60)), ALONE)
    assert (row["seams"], row["by_chance"], row["agreement"], row["kept"]) == (59, by_chance, 1, kept)


def test_few_known_pairs_refuse_nothing():
    masks = strip(60)[:8]  # the other tiles are test tiles
    found = seams_of(at_random(60), ALONE)
    row = row_of(mosaic_tiers.judge(found, found[:0], masks), ALONE)
    assert row["seams"] == len(found)
    assert row["pairs"] < mosaic_tiers.MIN_PAIRS
    assert row["kept"]


def test_pairs_are_those_of_known_masks_and_the_side_says_which_borders_meet():
    masks = np.zeros((2, 4, 6), bool)
    masks[0, -1, :3] = masks[1, 0, :4] = True  # bottom of the first, top of the second: 5 of 6 pixels agree
    masks[1, 1:, 0] = True  # the right of the first is empty, the left of the second is full
    below, right = (mosaic_tiers.judge(seams_of([(0, 1), (0, 9)], ALONE, side), seams_of([(0, 9)], 0.1), masks)
                    for side in ("below", "right"))  # fmt: skip
    assert (row_of(below, ALONE)["pairs"], row_of(below, ALONE)["seams"]) == (1, 2)
    assert row_of(below, ALONE)["agreement"] == pytest.approx(5 / 6)
    assert row_of(right, ALONE)["agreement"] == 0


def test_chance_is_what_mirror_images_agree_on():
    masks = np.zeros((2, 4, 4), bool)
    masks[1, :, -1] = True  # in the mirror image this border lies at the left
    tiers = mosaic_tiers.judge(seams_of([(0, 1)], ALONE), seams_of([(0, 1)], ALONE), masks)
    row = row_of(tiers, ALONE)
    assert (row["agreement"], row["chance"], row["by_chance"]) == (1, 0, 1)
