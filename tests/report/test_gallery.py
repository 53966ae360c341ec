"""What the gallery says of each tile, against counts made one tile at a time."""

import math

import numpy as np
import pytest

from kit.report import changes, gallery
from kit.report.plates import Table
from tests.report.planted import planted_run, planted_tiles

pytestmark = pytest.mark.slow

TILES = planted_tiles()


@pytest.fixture(scope="module")
def section(tmp_path_factory):
    run = planted_run(tmp_path_factory.mktemp("runs") / "a", TILES)
    return gallery.of_run(run, TILES, changes.judge(run, TILES, None))


def test_every_number_is_that_of_a_count(section):
    shown = section.parts[0]
    for place, tile in enumerate(shown.tiles.to_dict("records")):
        row = TILES.train_ids.tolist().index(tile["id"])
        true, pred, prob = (
            TILES.masks[row],
            shown.layers["mask"][place],
            shown.layers["probability"][place].astype(float),
        )
        np.testing.assert_array_equal(shown.layers["truth"][place], true)
        np.testing.assert_array_equal(shown.layers["image"][place], TILES.train_images[row])
        both, either = int((true & pred).sum()), int((true | pred).sum())
        assert tile["iou"] == pytest.approx(both / either if either else 1)
        assert tile["wrong"] == (true != pred).sum()
        assert tile["coverage"] == pytest.approx(true.sum() / 101**2)
        assert tile["predicted"] == pytest.approx(pred.sum() / 101**2)
        assert tile["class"] == math.ceil(10 * true.sum() / 101**2)
        assert tile["fold"] == row % 2
        assert tile["depth"] == pytest.approx(TILES.train_depth[row], nan_ok=True)
        entropy = [-p * math.log2(p) - (1 - p) * math.log2(1 - p) for p in prob.ravel() if 0 < p < 1]
        assert tile["uncertainty"] == pytest.approx(sum(entropy) / 101**2, rel=1e-4)
        if place and tile["score"] == shown.tiles["score"][place - 1]:
            assert tile["iou"] >= shown.tiles["iou"][place - 1]
    assert shown.tiles["score"].is_monotonic_increasing
    assert set(shown.tiles["kind"]) <= {"empty", "tiny", "vertical", "large", "ordinary"}


def test_changes_point_at_the_tiles_as_they_are_sorted(section):
    shown, table = section.parts
    assert isinstance(table, Table)
    changed = dict(zip(shown.changes["rule"], shown.tiles["id"].iloc[shown.changes["tile"]], strict=True))
    assert changed["components under 20 pixels"] == TILES.train_ids[1]
    assert changed["constant-empty"] == TILES.train_ids[-1]
    assert table.frame["tiles changed"].tolist() == [1, 1, 1, 1, 1]


def test_certain_pixels_have_no_entropy():
    assert gallery.entropy(np.array([[[0.0, 1.0]], [[0.5, 0.5]], [[0.0, 0.5]]], np.float16)) == pytest.approx(
        [0, 1, 0.5]
    )


def test_without_a_run_every_training_tile_is_there_with_its_truth():
    (shown,) = gallery.of_data(TILES).parts
    assert shown.tiles["id"].tolist() == TILES.train_ids.tolist()
    assert set(shown.layers) == {"image", "truth"}
    assert "score" not in shown.tiles
