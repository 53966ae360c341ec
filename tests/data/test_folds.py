"""Folds: the promises of each way of dealing, and exposure against counts made by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data import folds
from kit.errors import InputError


def some_tiles(count=203, seed=0, depth=None):
    """Training tiles of 10 x 10 pixels; a third are empty, the others have any coverage."""
    rng = np.random.default_rng(seed)
    area = np.where(rng.random(count) < 1 / 3, 0, rng.integers(1, 101, count))
    masks = (np.arange(100) < area[:, None]).reshape(count, 10, 10)
    depth = rng.integers(50, 960, count).astype(float) if depth is None else depth
    return SimpleNamespace(train_ids=[f"t{number:04d}" for number in range(count)], masks=masks, train_depth=depth)


def test_a_file_of_folds_is_read_or_refused_in_one_line(tmp_path):
    path = tmp_path / "folds.csv"
    with pytest.raises(InputError, match="is missing or damaged"):
        folds.read(path)
    table = pd.DataFrame({"id": ["0010", "NA", "1e5"], "fold": [1, 0, 2]})
    table.to_csv(path, index=False)
    pd.testing.assert_frame_equal(folds.read(path), table)
    for text, words in (
        ("garbage\n", "damaged"),
        ("id,fold\na,\n", "damaged"),
        ("id,fold\na,0\na,1\n", "id a twice"),
        ("id,fold\n", "no rows"),
        ("id,fold\na,-3\n", "below 0"),
        (f"id,fold\na,{10**20}\n", "damaged"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=rf"folds\.csv .*{words}.*: restore it"):
            folds.read(path)


def square(side, mosaic=0, prefix="t"):
    """The placement of a mosaic of side x side tiles, row by row."""
    return pd.DataFrame(
        [(f"{prefix}{row * side + col:04d}", mosaic, row, col) for row in range(side) for col in range(side)],
        columns=["id", "mosaic", "row", "col"],
    )


def mosaics(tiles, sizes, seed=0):
    """A placement of randomly chosen tiles in mosaics of these sizes, each a horizontal strip."""
    ids = iter(np.random.default_rng(seed).permutation(tiles.train_ids))
    rows = [(next(ids), mosaic, 0, col) for mosaic, size in enumerate(sizes) for col in range(size)]
    return pd.DataFrame(rows, columns=["id", "mosaic", "row", "col"])


def spread(values):
    return max(values) - min(values)


@pytest.mark.parametrize("by", ["coverage", "random", "depth", "mosaic"])
@pytest.mark.parametrize("n_folds", [2, 5, 203])
def test_every_tile_gets_one_fold_in_order_and_no_fold_is_empty(by, n_folds):
    tiles = some_tiles()
    placement = mosaics(tiles, [20, 9, 5] if n_folds < 203 else [1])
    table = folds.make(tiles, n_folds, by=by, seed=1, placement=placement)
    assert list(table.columns) == ["id", "fold"]
    assert table["id"].tolist() == tiles.train_ids
    assert sorted(table["fold"].unique()) == list(range(n_folds))


@pytest.mark.parametrize("by", ["coverage", "random", "depth", "mosaic"])
def test_the_seed_decides(by):
    tiles = some_tiles()
    placement = mosaics(tiles, [20, 9, 5])
    first, again, other = (folds.make(tiles, 5, by, seed, placement)["fold"].tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


@settings(deadline=None)
@given(st.integers(2, 9), st.integers(9, 120), st.integers(0, 99))
def test_coverage_keeps_sizes_and_classes_even(n_folds, count, seed):
    tiles = some_tiles(count, seed)
    fold = folds.make(tiles, n_folds, by="coverage", seed=seed)["fold"].to_numpy()
    tenths = np.array([int(np.ceil(round(mask.mean() * 10, 6))) for mask in tiles.masks])
    assert spread(np.bincount(fold, minlength=n_folds)) <= 1
    for tenth in range(11):
        assert spread(np.bincount(fold[tenths == tenth], minlength=n_folds)) <= 1


def test_random_folds_are_even_and_ignore_order():
    fold = folds.make(some_tiles(), 5, by="random", seed=0)["fold"]
    assert spread(fold.value_counts()) == 1
    assert fold.tolist() != sorted(fold)


def test_each_hand_of_neighbours_in_depth_goes_to_different_folds():
    depth = np.random.default_rng(0).permutation(203).astype(float)
    depth[depth >= 160] = np.nan
    table = folds.make(some_tiles(depth=depth), 5, by="depth", seed=0).assign(depth=depth).sort_values("depth")
    hands = table["fold"].to_numpy()[:160].reshape(-1, 5)
    assert (np.sort(hands, axis=1) == np.arange(5)).all()
    assert spread(table["fold"].value_counts()) == 1
    shallowest = hands[:, 0]
    assert np.bincount(shallowest, minlength=5).max() < len(hands)  # no fold holds the shallowest of every hand


def test_mosaics_stay_whole_and_folds_even():
    tiles = some_tiles(600)
    placement = mosaics(tiles, [60, 41, 33, 33, 20, 12, *[4] * 20, *[2] * 30])
    table = folds.make(tiles, 5, by="mosaic", placement=placement)
    assert (table.merge(placement).groupby("mosaic")["fold"].nunique() == 1).all()
    assert spread(table["fold"].value_counts()) <= 6
    coverage = tiles.masks.mean(axis=(1, 2))
    empty = [(coverage[table["fold"] == fold] == 0).mean() for fold in range(5)]
    assert spread(empty) < 0.05


def test_mosaics_that_reach_into_the_test_tiles_and_any_numbering_will_do():
    tiles = some_tiles(16)
    placement = pd.concat([square(4, mosaic=7), square(3, mosaic=7, prefix="test")])
    placement.loc[placement["row"] > 1, "mosaic"] = 8
    table = folds.make(tiles, 2, by="mosaic", placement=placement)
    assert table["fold"].nunique() == 2
    assert table["fold"][:8].nunique() == table["fold"][8:].nunique() == 1


def test_coverage_classes_are_tenths_rounded_up():
    areas = [0, 1, 1020, 1021, 5100, 5101, 9180, 9181, 10200, 10201]
    masks = np.array([np.arange(10201) < area for area in areas]).reshape(-1, 101, 101)
    assert folds.coverage_class(masks).tolist() == [0, 1, 1, 2, 5, 6, 9, 10, 10, 10]
    tens = np.array([np.arange(100) < area for area in (10, 70, 71)]).reshape(-1, 10, 10)
    assert folds.coverage_class(tens).tolist() == [1, 7, 8]


def test_exposure_of_a_chessboard_and_of_stripes():
    placement = square(4)
    board = pd.DataFrame({"id": placement["id"], "fold": (placement["row"] + placement["col"]) % 2})
    assert folds.exposure(board, placement).to_dict("list") == {
        "fold": ["0", "1", "all"],
        "tiles": [8, 8, 16],
        "neighbour": [1.0, 1.0, 1.0],
        "mosaic": [1.0, 1.0, 1.0],
    }
    halves = board.assign(fold=(placement["row"] >= 1).astype(int))  # 4 tiles over 12; the next row of 4 touches them
    shares = folds.exposure(halves, placement).set_index("fold")["neighbour"]
    assert shares.to_dict() == {"0": 1.0, "1": pytest.approx(4 / 12), "all": 0.5}


def test_exposure_counts_unplaced_tiles_and_other_mosaics_as_not_exposed():
    # Two mosaics of two tiles with the same rows and columns, one split over the folds, one whole; two tiles alone.
    table = pd.DataFrame({"id": list("abcdef"), "fold": [0, 1, 0, 0, 1, 0]})
    placement = pd.DataFrame({"id": list("abcd"), "mosaic": [1, 1, 2, 2], "row": [0, 0, 0, 0], "col": [0, 1, 0, 1]})
    result = folds.exposure(table, placement).set_index("fold")
    assert result.loc["all", "neighbour"] == pytest.approx(2 / 6)
    assert result.loc["0", "mosaic"] == pytest.approx(1 / 4)
    assert result.loc["1", "neighbour"] == pytest.approx(1 / 2)
    diagonal = placement.assign(row=[0, 1, 0, 0])
    result = folds.exposure(table, diagonal).set_index("fold")
    assert result.loc["all", "neighbour"] == 0
    assert result.loc["all", "mosaic"] == pytest.approx(2 / 6)


def test_mosaic_folds_are_not_exposed_and_random_folds_are():
    tiles, placement = some_tiles(400), square(20)
    placement["mosaic"] = placement["row"] // 2
    placement["row"] %= 2
    grouped = folds.exposure(folds.make(tiles, 5, "mosaic", placement=placement), placement)
    assert (grouped[["neighbour", "mosaic"]] == 0).all(axis=None)
    blind = folds.exposure(folds.make(tiles, 5, "random", placement=placement), placement)
    assert (blind["mosaic"] > 0.9).all()


ONE = square(3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_folds": 1}, "1 folds for 9 training tiles: ask for at least 2"),
        ({"n_folds": 10}, "10 folds for 9 training tiles"),
        ({"by": "colour"}, "'colour': choose one of coverage, random, depth, mosaic"),
        ({"by": "mosaic"}, "folds by mosaic need a placement table"),
        ({"by": "mosaic", "placement": ONE}, "1 mosaics cannot make 2 folds"),
        ({"by": "mosaic", "placement": ONE.drop(columns="mosaic")}, "no column 'mosaic'"),
        ({"by": "mosaic", "placement": pd.concat([ONE, ONE.tail(1)])}, "places tile t0008 twice"),
        ({"by": "mosaic", "placement": square(3, prefix="x")}, "none of the training tiles"),
    ],
)
def test_refusals_name_the_mend(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        folds.make(some_tiles(9), **{"n_folds": 2, **arguments})
    assert "\n" not in str(caught.value)


def test_depth_folds_without_any_depth_are_refused():
    with pytest.raises(InputError, match=r"add depths\.csv"):
        folds.make(some_tiles(9, depth=np.full(9, np.nan)), 3, by="depth")


def test_exposure_needs_the_places():
    table = pd.DataFrame({"id": ["t0000"], "fold": [0]})
    with pytest.raises(InputError, match="no column 'row'"):
        folds.exposure(table, ONE.drop(columns="row"))
