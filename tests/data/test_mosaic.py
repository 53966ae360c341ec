"""The jigsaw against sections that were cut here, seams planted by hand, and a search by brute force."""

import numpy as np
import pandas as pd
import pytest

from kit.data import mosaic, seams, seismic
from kit.data.mosaic_levels import lay_out, levels, seam_step
from kit.errors import InputError
from tests.data.jigsaw import SIDE, lone, puzzle, stretched

COLUMNS = ["tile", "mosaic", "row", "col", "confidence"]


def score(truth, placed):
    """Share of the tiles with a neighbour that are placed, and share of the pairs in one mosaic that truly lie so."""
    has_neighbour = truth.number >= 0
    right = total = 0
    for _, own in placed.groupby("mosaic"):
        tiles = own["tile"].to_numpy()
        number, down, across = truth.number[tiles], truth.row[tiles] - own["row"], truth.col[tiles] - own["col"]
        same = np.ones((len(own), len(own)), bool)
        for values in (number, down.to_numpy(), across.to_numpy()):
            same &= values[:, None] == values
        same &= number[:, None] >= 0
        right, total = right + same.sum() - np.trace(same), total + len(own) * (len(own) - 1)
    return np.isin(np.flatnonzero(has_neighbour), placed["tile"]).mean(), right / total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "style"),
    [
        (0, {}),
        (1, {}),
        (2, {"noise": 0.0, "swings": 0.0}),
        (3, {"noise": 2.0}),
        (4, {"noise": 3.5}),
        (5, {"angle": 0.0, "fold": 0.0, "continuity": 40.0, "lateral": 0.1}),
        (6, {"angle": 0.4}),
        (7, {"angle": 1.2}),
        (8, {"wavelength": 9.0, "continuity": 2.0}),
    ],
)
def test_sections_of_any_noise_and_dip_are_put_together(seed, style):
    # enough tiles that the strip, without loops and in noise often too weak by itself, is less than a twentieth
    truth = puzzle(seed, ((4, 6), (3, 5), (4, 5), (2, 2), (1, 3)), **style)
    placed = mosaic.solve(truth.images)
    complete, right = score(truth, placed)
    assert complete >= 0.95
    assert right >= 0.99
    assert list(placed.columns) == COLUMNS
    assert not placed["tile"].duplicated().any()
    assert not placed.duplicated(["mosaic", "row", "col"]).any()
    assert placed["confidence"].between(mosaic.FLOOR, 1).all()


@pytest.mark.slow
def test_tiles_that_lie_alone_stay_alone():
    images, _, _ = stretched(lone(np.random.default_rng(9), 150)[0])
    assert len(mosaic.solve(images)) <= 5


def test_contrast_does_not_matter():
    truth = puzzle(10, ((3, 4), (2, 3)), n_lone=0)
    gain = np.random.default_rng(0).uniform(0.3, 0.9, (len(truth.images), 1, 1))
    dull = np.round(250 - gain * truth.images).astype(np.uint8)  # black for white too, but in all alike
    places = [mosaic.solve(images)[COLUMNS[:4]] for images in (truth.images, dull)]
    pd.testing.assert_frame_equal(*places)


def test_tiles_and_borders_of_one_grey_match_nothing():
    truth = puzzle(11, ((2, 3),), n_lone=6)
    plain = np.full((30, SIDE, SIDE), 7, np.uint8)
    framed = np.zeros((30, SIDE, SIDE), np.uint8)
    framed[:, 20:80, 20:80] = truth.images[:1, 20:80, 20:80]
    placed = mosaic.solve(np.concatenate([plain, truth.images, framed]))
    assert sorted(placed["tile"]) == sorted(30 + np.flatnonzero(truth.number >= 0))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_tiles_make_an_empty_table(count):
    images, _, _ = stretched(lone(np.random.default_rng(1), 2)[0])
    placed = mosaic.solve(images[:count])
    assert list(placed.columns) == COLUMNS
    assert len(placed) == 0
    assert (placed.dtypes[:4] == np.int64).all()


def test_tiles_that_are_all_of_one_grey_make_an_empty_table():
    assert len(mosaic.solve(np.repeat(np.arange(5, dtype=np.uint8), SIDE * SIDE).reshape(5, SIDE, SIDE))) == 0


def test_a_tile_that_is_there_twice_has_no_neighbour_and_harms_no_other():
    truth = puzzle(14, ((3, 4),), n_lone=20)
    corner = np.flatnonzero((truth.number == 0) & (truth.row == 0) & (truth.col == 0))
    whole, twice = (mosaic.solve(np.concatenate([truth.images, truth.images[more]])) for more in (corner[:0], corner))
    places = COLUMNS[:4]
    expected = whole.loc[whole["tile"] != corner.item(), places].reset_index(drop=True)
    pd.testing.assert_frame_equal(twice[places], expected)
    assert (truth.number[twice["tile"]] == 0).sum() == 11


@pytest.mark.parametrize(
    "images",
    [np.zeros((3, SIDE, SIDE), np.float32), np.zeros((3, SIDE, SIDE, 3), np.uint8), np.zeros((3, 15, SIDE), np.uint8)],
    ids=["float", "colour", "too small"],
)
def test_images_of_another_kind_are_refused_in_one_line(images):
    with pytest.raises(InputError, match="give grey tiles") as error:
        mosaic.solve(images)
    assert "\n" not in str(error.value)


def test_tiles_may_be_as_small_as_the_refusal_says():
    images = np.random.default_rng(0).integers(0, 256, (30, seams.SMALLEST, seams.SMALLEST), np.uint8)
    assert len(mosaic.solve(images)) < 30


def test_tiles_need_not_be_square():
    rng = np.random.default_rng(3)
    whole = seismic.render(rng, seismic.regional(rng), np.zeros((3 * 60, 4 * 85), bool))
    images, _, _ = stretched(whole.reshape(3, 60, 4, 85).swapaxes(1, 2).reshape(-1, 60, 85))
    placed = mosaic.solve(images)
    assert placed["tile"].tolist() == list(range(12))
    assert (placed["row"] * 4 + placed["col"]).tolist() == list(range(12))


@pytest.mark.parametrize("block", [1, 7, 40, 512])
def test_matches_are_those_of_brute_force(block, monkeypatch):
    monkeypatch.setattr(seams, "_BLOCK", block)
    rng = np.random.default_rng(4)
    near = rng.normal(size=(40, 6))
    far = np.roll(near, 1, axis=0) + 0.7 * rng.normal(size=near.shape)
    near, far = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (near, far))
    near[5] = far[9] = 0
    partner, ratio = seams._match(near.astype(np.float32), far.astype(np.float32))
    product = np.maximum(near @ far.T, 0)
    np.fill_diagonal(product, 0)
    expected = np.full(40, -1)
    for i in range(40):
        j = product[i].argmax()
        others = [product[i, k] for k in range(40) if k != j] + [product[k, j] for k in range(40) if k != i]
        if product[i, j] > max(others):
            expected[i] = j
            assert ratio[i] == pytest.approx(1 - np.sqrt((1 - product[i, j]) / (1 - max(others))), abs=1e-4)
    assert partner.tolist() == expected.tolist()
    assert 0 < (expected >= 0).sum() < 40


def test_a_closed_loop_leaves_a_tenth_of_the_doubt():
    """Without the fourth tile no loop closes; then the same seams, of the same borders, are less sure by just that."""
    truth = puzzle(12, ((2, 2),), n_lone=30)
    corner = np.flatnonzero((truth.number == 0) & (truth.row == 1) & (truth.col == 1))[0]
    whole, cut = (seams.find(images) for images in (truth.images, np.delete(truth.images, corner, axis=0)))
    first = np.flatnonzero((truth.number == 0) & (truth.row == 0) & (truth.col == 0))[0]
    for side in ("right", "below"):
        with_loop = whole[(whole["first"] == first) & (whole["side"] == side)]["confidence"].item()
        without = cut[(cut["first"] == first - (corner < first)) & (cut["side"] == side)]["confidence"].item()
        assert 1 - with_loop == pytest.approx(0.1 * (1 - without), rel=0.1)


def planted(*rows):
    return pd.DataFrame(rows, columns=["first", "second", "side", "confidence"])


def placed_by(table):
    return {row.tile: (row.mosaic, row.row, row.col, row.confidence) for row in mosaic.assemble(table).itertuples()}


def test_seams_make_mosaics_and_the_weakest_link_is_the_confidence():
    # 3 above 7 to the left of 5, and a pair that hangs on by a weak seam; two others by themselves
    table = planted(
        (7, 5, "right", 0.9), (3, 7, "below", 0.8), (5, 8, "below", 0.5), (8, 9, "right", 0.95),
        (20, 21, "below", 0.7), (30, 31, "right", 0.39),
    )  # fmt: skip
    assert placed_by(table) == {
        3: (0, 0, 0, 0.8), 7: (0, 1, 0, 0.9), 5: (0, 1, 1, 0.9), 8: (0, 2, 1, 0.5), 9: (0, 2, 2, 0.5),
        20: (1, 0, 0, 0.7), 21: (1, 1, 0, 0.7),
    }  # fmt: skip


def test_no_two_tiles_on_one_place():
    table = planted((1, 2, "right", 0.9), (1, 3, "below", 0.8), (3, 4, "right", 0.7), (2, 5, "below", 0.6))
    assert placed_by(table).keys() == {1, 2, 3, 4}  # 5 would lie where the surer 4 lies
    around = planted((1, 2, "right", 0.9), (2, 3, "below", 0.8), (1, 3, "right", 0.7))  # contradicts the others
    assert {tile: place[1:3] for tile, place in placed_by(around).items()} == {1: (0, 0), 2: (0, 1), 3: (1, 1)}


def test_gain_and_offset_are_found_up_to_those_of_a_whole_mosaic():
    truth = puzzle(13, ((4, 6), (3, 3)), n_lone=0)
    placed = mosaic.solve(truth.images)
    gain, offset = levels(truth.images, placed)
    tiles = placed["tile"].to_numpy()
    for own in placed.groupby("mosaic").indices.values():
        true = truth.gain[tiles[own]]
        assert np.log(gain[own]).mean() == pytest.approx(0, abs=1e-6)
        assert offset[own].mean() == pytest.approx(0, abs=1e-4)
        error = np.log(gain[own] / true)
        assert error.std() < 0.05  # one seam of real tiles cut in two is wrong by 0.08 (median 0.03)
        assert error.std() < np.log(true).std() / 5
        found = gain[own, None] * [0, 255] + offset[own, None]  # what black and white stand for, against the truth
        right = true[:, None] * [0, 255] + truth.offset[tiles[own], None]
        slope, level = np.polyfit(right.ravel(), found.ravel(), 1)
        assert np.abs(found - slope * right - level).mean() < 5
    raw = seam_step(truth.images, placed, np.ones(len(gain)), np.zeros(len(gain)))
    inside = np.abs(np.diff(truth.images.astype(int), axis=2)).mean()
    assert seam_step(truth.images, placed, gain, offset) < inside + 0.2 * (raw - inside)


def test_tiles_are_laid_out_and_gaps_stay_blank():
    stack = np.arange(3 * 2 * 2, dtype=float).reshape(3, 2, 2)
    picture = lay_out(stack, np.array([0, 1, 0]), np.array([0, 1, 2]), np.nan)
    np.testing.assert_array_equal(
        picture,
        [
            [0, 1, np.nan, np.nan, 8, 9],
            [2, 3, np.nan, np.nan, 10, 11],
            [np.nan, np.nan, 4, 5, np.nan, np.nan],
            [np.nan, np.nan, 6, 7, np.nan, np.nan],
        ],
    )
