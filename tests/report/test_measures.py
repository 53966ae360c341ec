"""The report's counts against planted answers, and against slow sums that follow their definition."""

import numpy as np
import pytest

from kit.report import measures
from kit.scoring.metric import average_precision


def strip(*pixels: int) -> np.ndarray:
    """A mask (1, 4, 25) with this many pixels, from the start of the tile on."""
    return np.array([(np.arange(100) < count).reshape(4, 25) for count in pixels])


def test_an_overlap_exactly_at_a_threshold_is_counted_below_it_as_the_score_does():
    true = strip(100, 100, 100, 100, 100)
    steps = measures.iou_steps(strip(0, 1, 50, 51, 100), true)
    assert np.flatnonzero(steps).tolist() == [0, 1, 10, 11, 20]
    hits = steps[:, None] * (np.arange(21)[:, None] > np.arange(10, 20))  # of the ten thresholds
    assert hits.sum() / 10 / 5 == pytest.approx(average_precision(strip(0, 1, 50, 51, 100), true).mean())


def test_two_empty_masks_overlap_fully():
    assert measures.iou(strip(0, 0, 10), strip(0, 10, 20)).tolist() == [1, 0, 0.5]
    assert measures.iou_steps(strip(0), strip(0))[20] == 1


def test_a_boundary_that_is_two_pixels_off_is_wrong_up_to_two_pixels_from_it():
    rows = np.arange(40)[None, :, None].repeat(30, 2)
    true, pred = rows >= 15, rows >= 17
    table = measures.error_by_distance(pred, true)
    inside, outside = (table[table["salt"] == salt].set_index("distance") for salt in (True, False))
    assert inside["wrong"].tolist() == [30, 30, 0, 0, 0, 0, 0, 0, 0]
    assert inside["pixels"].tolist() == [30, 30, 30, 60, 90, 120, 210, 180, 0]  # 25 rows of salt
    assert outside["wrong"].sum() == 0
    assert outside["pixels"].tolist() == [30, 30, 30, 60, 90, 120, 90, 0, 0]  # 15 rows without


def test_distances_are_those_to_the_nearest_pixel_of_the_other_kind():
    rng = np.random.default_rng(0)
    true = rng.random((2, 12, 12)) < 0.1
    pred = rng.random((2, 12, 12)) < 0.2
    pixels, wrong = np.zeros((2, 9), int), np.zeros((2, 9), int)
    for tile in range(2):
        for (row, col), salt in np.ndenumerate(true[tile]):
            others = np.argwhere(true[tile] != salt)
            distance = np.sqrt(((others - [row, col]) ** 2).sum(axis=1)).min()
            band = max(k for k, low in enumerate(measures.DISTANCES) if low <= distance)
            pixels[int(salt), band] += 1
            wrong[int(salt), band] += pred[tile, row, col] != salt
    table = measures.error_by_distance(pred, true)
    assert table["pixels"].to_numpy().reshape(2, 9).tolist() == pixels.tolist()
    assert table["wrong"].to_numpy().reshape(2, 9).tolist() == wrong.tolist()


def test_tiles_all_of_one_kind_have_no_boundary():
    one_kind = np.stack([np.zeros((9, 9), bool), np.ones((9, 9), bool)])
    assert measures.error_by_distance(~one_kind, one_kind)["pixels"].sum() == 0


@pytest.mark.parametrize("count", [50, 300])  # in one chunk, and in several
def test_a_planted_calibration_is_found(count):
    """Where 0.125, 0.375 ... are said, it is so in a quarter, half, three quarters and all of the pixels."""
    prob = np.tile(np.array([0.125, 0.375, 0.625, 0.875], np.float16)[:, None], (count, 1, 8))
    true = np.tile(np.arange(8) < np.array([2, 4, 6, 8])[:, None], (count, 1, 1))
    table = measures.reliability(prob, true, 4)
    assert table["prob"].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert table["share"].tolist() == [0.25, 0.5, 0.75, 1]
    assert table["count"].tolist() == [8 * count] * 4
    assert measures.calibration_error(table) == pytest.approx(0.125)


def test_a_probability_of_one_is_in_the_last_bin():
    table = measures.reliability(np.array([0.0, 1.0]), np.array([False, True]), 10)
    assert table["prob"].tolist() == table["share"].tolist() == [0, 1]
    assert measures.calibration_error(table) == 0


def test_agreement_is_the_overlap_of_each_two():
    found = measures.agreement([strip(0, 10), strip(0, 20), strip(5, 40)])
    assert found[0, 1].tolist() == [1, 0.5]
    assert found[0, 2].tolist() == [0, 0.25]
    assert found[2, 1].tolist() == [0, 0.5]
    assert (found[[0, 1, 2], [0, 1, 2]] == 1).all()


def test_groups_have_their_own_means_counts_and_intervals():
    true = np.zeros((30, 20, 20), bool)
    true[10:20, :19] = True  # 95 %
    true[20:, :2] = True  # 10 %, of 40 pixels: tiny
    pred = true.copy()
    pred[:5, 0, 0] = True  # half of the empty tiles score nothing
    pred[20:] = False
    table = measures.by_group(pred, true).set_index(["by", "group"])
    expected = {
        ("kind", "empty"): (10, 0.5),
        ("kind", "large"): (10, 1),
        ("kind", "tiny"): (10, 0),
        ("coverage", "empty"): (10, 0.5),
        ("coverage", "90 to 100 %"): (10, 1),
        ("coverage", "0 to 10 %"): (10, 0),
    }
    assert {group: (row["tiles"], row["score"]) for group, row in table.iterrows()} == expected
    empty = table.loc[("kind", "empty")]
    assert 0.1 <= empty["low"] <= 0.3  # of ten throws of a coin
    assert 0.7 <= empty["high"] <= 0.9
    assert table.loc[("kind", "large"), ["low", "high"]].tolist() == [1, 1]
