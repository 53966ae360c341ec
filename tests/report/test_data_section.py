"""The chapter on the data, held against masks whose counts are known by hand."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pandas as pd
import pytest

from kit.data import placement
from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.report import figures
from kit.report.data_section import section
from kit.report.figures.style import BLUE
from kit.report.plates import Plate
from tests.report.drawn import assert_readable, bars, tinted

pytestmark = pytest.mark.slow

PIXELS = 101 * 101


def mask(*, rows: slice = slice(None), cols: slice = slice(None)) -> np.ndarray:
    salt = np.zeros((101, 101), bool)
    salt[rows, cols] = True
    return salt


PLANTED = {
    "empty": [mask(rows=slice(0))] * 4,
    "vertical": [mask(cols=slice(30))] * 3,  # 30 of 101 columns: 29.7 %, class 3
    "cap": [mask(rows=slice(91, 101))] * 2,  # 9.9 %, class 1
    "tiny": [mask(rows=slice(3), cols=slice(2))] * 5,  # 6 pixels, class 1
    "ordinary": [mask(rows=slice(50), cols=slice(101))],  # 49.5 %, class 5
}
MASKS = np.array([one for masks in PLANTED.values() for one in masks])
N = len(MASKS)


def made(n_test: int = 6) -> Tiles:
    """Noise with the planted masks; the first of four empty tiles and two test tiles are constant."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N + n_test, 101, 101), np.uint8)
    images[[0, N, N + 1]] = 7
    ids = np.array([f"<b>tile_{number}$1$" for number in range(N + n_test)])
    depth = np.arange(N + n_test, dtype=np.float32) * 10 + 100
    return Tiles(ids[:N], ids[N:], images[:N], images[N:], MASKS, depth[:N], depth[N:], "planted")


def parts(tiles, tmp_path):
    return {part.name: part for part in section(tiles, tmp_path).parts}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return parts(made(), tmp_path_factory.mktemp("data"))


def test_the_counts_of_coverage_are_those_planted(found):
    (axes,) = found["coverage-classes"].figure.axes
    heights = {0: 4, 1: 7, 3: 3, 5: 1}
    assert bars(axes) == [(number, heights.get(number, 0)) for number in range(11)]
    written = [text.get_text() for text in axes.texts]
    assert written[:4] == ["4\n26.7%", "7\n46.7%", "0\n0.0%", "3\n20.0%"]
    assert axes.get_title(loc="left") == "4 tiles are empty, 11 have salt"

    (axes,) = found["coverage"].figure.axes
    empty, *salt = bars(axes)
    assert empty[1] == 4
    # bins of 2.5 %: 6 pixels in the first, 9.9 % in the fourth, 29.7 % in the twelfth, 49.5 % in the twentieth
    assert {round((x - 1.25) / 2.5) + 1: height for x, height in salt if height} == {1: 5, 4: 2, 12: 3, 20: 1}
    assert axes.get_title(loc="left").startswith("4 of 15 tiles are empty; half of the others have more than 10% salt")


def test_a_point_for_each_tile_stands_at_its_coverage_within_its_class(found):
    (axes,) = found["class-against-coverage"].figure.axes
    x, y = axes.lines[0].get_data()
    np.testing.assert_allclose(x, [100 * one.sum() / PIXELS for one in MASKS])
    assert np.round(y).tolist() == [0] * 4 + [3] * 3 + [1] * 7 + [5]


def test_kinds_are_shown_with_their_own_masks_and_counts(found):
    figure = found["kinds"].figure
    rows = {axes.get_ylabel(): axes for axes in figure.axes if axes.get_ylabel()}
    assert list(rows) == ["vertical\n3 tiles", "cap\n2 tiles", "tiny\n5 tiles"]
    for name, axes in rows.items():
        np.testing.assert_array_equal(tinted(axes, BLUE), PLANTED[name.split("\n")[0]][0])
    shown = [axes for axes in figure.axes if axes.axison]
    assert len(shown) == 3 + 2 + 5
    # the arrow's head is at the tiny mask, whose middle is (0.5, 1); others need none
    pointed = [axes for axes in shown if axes.texts]
    assert pointed == shown[5:]
    assert np.hypot(*(np.array(pointed[0].texts[0].xy) - (0.5, 1))) < 6
    labels = {axes.get_xlabel().split("\n")[0] for axes in shown}
    assert labels == {"class 3, 29.7%", "class 1, 9.9%", "class 1, 6 px"}


def test_tiles_stand_in_the_row_of_their_class_with_their_depth(found):
    figure = found["tiles-by-class"].figure
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == [f"class {k}" for k in (0, 1, 3, 5)]
    last = [axes for axes in figure.axes if axes.axison][-1]
    assert last.get_xlabel() == "class 5, 49.5%\n240 feet deep"
    np.testing.assert_array_equal(tinted(last, BLUE), MASKS[-1])


def test_random_tiles_are_ten_different_ones_each_above_itself(found):
    axes = found["random-tiles"].figure.axes
    plain, masked = axes[:5] + axes[10:15], axes[5:10] + axes[15:]
    ids = [one.get_xlabel() for one in plain]
    assert len(set(ids)) == 10
    tiles = made()
    for above, below, name in zip(plain, masked, ids, strict=True):
        row = tiles.train_ids.tolist().index(name)
        np.testing.assert_array_equal(above.images[0].get_array(), tiles.train_images[row])
        np.testing.assert_array_equal(below.images[0].get_array(), tiles.train_images[row])
        np.testing.assert_array_equal(tinted(below, BLUE), MASKS[row])


def test_the_map_is_the_mean_of_the_masks_with_salt(found):
    axes = found["positions"].figure.axes[0]
    # the upper left pixel is salt in 3 vertical, 5 tiny and 1 ordinary of 11 masks
    (drawn,) = axes.images
    assert drawn.get_array()[0, 0] == pytest.approx(100 * 9 / 11)
    assert drawn.get_array()[100, 100] == pytest.approx(100 * 2 / 11)


def test_constant_tiles_are_counted_in_both_splits(found):
    rows = found["constant"].frame.to_numpy().tolist()
    assert rows == [["train", "15", "1", "6.7%", "7", "0"], ["test", "6", "2", "33.3%", "7", "not known"]]


def test_depths_are_shares_of_each_split(found):
    (axes,) = found["depths"].figure.axes
    train, test = (patch.get_data() for patch in axes.patches)
    assert train.values.sum() == test.values.sum() == pytest.approx(100)
    inside = (train.edges[:-1] <= 100) & (train.edges[1:] >= 100)
    assert train.values[inside].sum() > 0
    assert test.values[inside].sum() == 0
    assert axes.get_title(loc="left") == "Median depth: training 170 feet, test 275 feet"


def test_the_share_of_empty_tiles_has_wilsons_interval():
    """Formula (4) of Wilson (1927): the two solutions p of (share - p)^2 = z^2 p (1 - p) / n."""
    empty = np.repeat([True, False, True, False], [9, 31, 20, 20])
    depth = np.arange(80, dtype=np.float32)
    (axes,) = figures.empty_by_depth(np.r_[depth, np.nan], np.r_[empty, True]).axes
    (bar,) = axes.containers
    x, y = bar.lines[0].get_data()
    assert x.tolist() == [3.5 + 8 * k for k in range(10)]
    np.testing.assert_allclose(y, 100 * empty.reshape(10, 8).mean(1))
    n, z, share = 8, 1.959964, 1 / 8
    middle, half = share + z**2 / (2 * n), z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    expected = [100 * (middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
    intervals = [lines.get_segments() for lines in bar.lines[2]][1]
    np.testing.assert_allclose(intervals[1][:, 1], expected, rtol=1e-5)
    assert axes.get_title(loc="left") == "100% of the shallowest 8 tiles are empty, 36% of all"


def test_without_depths_salt_or_placement_the_rest_is_there(tmp_path):
    tiles = made()
    none = (np.full(N, np.nan, np.float32), np.full(6, np.nan, np.float32))
    bare = replace(tiles, train_depth=none[0], test_depth=none[1], masks=np.zeros_like(MASKS))
    found = parts(bare, tmp_path)
    assert list(found) == [
        "random-tiles", "coverage", "coverage-classes", "class-against-coverage", "tiles-by-class", "constant",
    ]  # fmt: skip
    assert "feet" not in found["tiles-by-class"].figure.axes[0].get_xlabel()
    only_test = parts(replace(tiles, train_depth=none[0]), tmp_path)
    assert {"depths"} == {"depths", "empty-by-depth"} & set(only_test)


def test_folds_are_held_against_the_test_set_where_tiles_are_placed(tmp_path):
    tiles = made()
    # train tiles 0 to 9 in a row, each beside the next; a test tile at their end, the others alone
    ids = [*tiles.train_ids[:10], tiles.test_ids[0], tiles.test_ids[1]]
    places = [(0, 0, col) for col in range(11)] + [(1, 0, 0)]
    table = pd.DataFrame([(name, *place) for name, place in zip(ids, places, strict=True)], columns=placement.COLUMNS)
    placement.write(tmp_path, table)
    frame = parts(tiles, tmp_path)["exposure"].frame.set_index("tiles")
    assert frame.loc["the test tiles"].tolist() == ["16.7%", "16.7%"]
    assert frame.loc["5 folds by mosaic"].tolist() == ["0.0%", "0.0%"]
    (tmp_path / ".kit" / "mosaic.csv").write_text("id,mosaic\na,0\n")
    with pytest.raises(InputError, match=r"mosaic\.csv is damaged"):
        section(tiles, tmp_path)


def test_a_placement_of_test_tiles_alone_says_nothing_of_folds(tmp_path):
    tiles = made()
    placement.write(tmp_path, pd.DataFrame([(tiles.test_ids[0], 0, 0, 0)], columns=placement.COLUMNS))
    assert "exposure" not in parts(tiles, tmp_path)


def test_every_text_can_be_read_and_every_plate_asks_a_question(found):
    assert len({part.name for part in found.values()}) == len(found)
    for part in found.values():
        assert part.question.endswith("?")
        if isinstance(part, Plate):
            assert_readable(part.figure)


def test_four_tiles_of_long_names_are_enough(tmp_path):
    tiles = made()
    names = np.array([f"a long name of tile {number} in another competition" for number in range(4)])
    few = replace(tiles, train_ids=names, train_images=tiles.train_images[:4], masks=MASKS[5:9],
                  train_depth=tiles.train_depth[:4])  # fmt: skip
    for part in section(few, tmp_path).parts:
        if isinstance(part, Plate):
            assert_readable(part.figure)
