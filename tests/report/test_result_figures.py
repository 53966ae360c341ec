"""What a reader must find in the figures of a result is in them, read back from what is drawn."""

import numpy as np
import pytest

from kit.report import figures
from kit.scoring.metric import average_precision
from tests.report.drawn import assert_readable, words

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
TRUE = (np.arange(40)[None, :, None] >= RNG.integers(0, 60, (60, 1, 1))) & np.ones((60, 40, 40), bool)
PRED = np.roll(TRUE, 2, 1) & (RNG.random((60, 1, 1)) < 0.9)
PROB = np.clip(0.8 * PRED + 0.2 * RNG.random(PRED.shape), 0, 1).astype(np.float16)
EMPTY = RNG.random(60)
NONE, ALL = np.zeros((6, 40, 40), bool), np.ones((6, 40, 40), bool)


def heights(container) -> list[float]:
    return [bar.get_height() for bar in container]


def test_the_overlap_of_each_tile_with_salt_is_in_its_bar():
    true = np.ones((4, 10, 10), bool)
    pred = np.zeros((4, 10, 10), bool)
    pred[1, :5], pred[2, :5], pred[2, 5, 0], pred[3] = True, True, True, True  # 0, exactly a half, 0.51, 1
    both = [np.concatenate([masks, np.zeros((3, 10, 10), bool)]) for masks in (pred, true)]  # empty tiles do not count
    figure = figures.iou_histogram(*both)
    low, high = figure.axes[0].containers
    assert heights(low) == [1, *[0] * 9, 1]
    assert heights(high) == [1, *[0] * 8, 1]
    assert figure.axes[0].get_title(loc="left") == "4 tiles with salt: 50 % of them score nothing"


def test_each_kind_stands_at_its_score_with_its_count():
    figure = figures.score_by_group(PRED, TRUE)
    by_kind, by_coverage = figure.axes
    scores, salt = average_precision(PRED, TRUE), TRUE.any(axis=(1, 2))
    for axes in (by_kind, by_coverage):
        label = axes.get_yticklabels()[0].get_text()
        assert label == f"empty\n{(~salt).sum()} tiles"
        assert axes.containers[0].lines[0].get_xdata()[0] == pytest.approx(scores[~salt].mean())
    assert f"all tiles: {scores.mean():.3f}" in words(figure)


def test_the_share_of_wrong_pixels_stands_over_its_distance():
    rows = np.arange(40)[None, :, None].repeat(30, 2)
    figure = figures.boundary_error(rows >= 17, rows >= 15)
    (axes,) = figure.axes
    drawn = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
    assert drawn["inside salt: missed"][:3] == [100, 100, 0]
    assert set(drawn["outside: false salt"]) == {0}
    assert axes.get_title(loc="left").startswith(
        "Of the wrong pixels in tiles with a boundary 100 % lie less than 4 px from it"
    )


def test_the_confusion_says_counts_and_costs():
    true, pred = np.concatenate([NONE, NONE[:4], ALL]), np.concatenate([NONE, ALL[:4], ALL[:5], NONE[:1]])
    figure = figures.empty_confusion(pred, true)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["6\n60 % of the row", "4\n40 % of the row", "1\n17 % of the row", "5\n83 % of the row"]
    title = figure.axes[0].get_title(loc="left")
    assert title == "Salt seen on empty tiles costs 0.250 of the score,\nmasks left empty on tiles with salt cost 0.062"
    assert average_precision(pred, true).mean() == pytest.approx(1 - 0.25 - 0.0625)


def test_calibration_draws_what_was_said_against_what_was():
    prob = np.tile(np.array([0.125, 0.375, 0.625, 0.875], np.float16)[:, None], (20, 1, 8))
    true = np.tile(np.arange(8) < np.array([2, 4, 6, 8])[:, None], (20, 1, 1))
    figure = figures.calibration(prob, true, np.linspace(0, 0.5, 20), "its head")
    (line,) = (line for line in figure.axes[0].lines if line.get_label() == "as often as it was so")
    np.testing.assert_allclose(line.get_xydata(), [[0.125, 0.25], [0.375, 0.5], [0.625, 0.75], [0.875, 1]])
    assert "Pixels: said and seen differ by 0.125" in words(figure)
    assert "Probability that a tile is empty (its head)" in words(figure)


def test_agreement_shows_each_pair_and_how_often_they_differ():
    figure = figures.agreement({"fold 0": np.concatenate([ALL, NONE]), "fold 1": np.concatenate([NONE, NONE]),
                                "fold 2": np.concatenate([ALL, NONE])})  # fmt: skip
    histogram, matrix = figure.axes
    assert histogram.get_title(loc="left") == "33 % of pairs of masks overlap by half or less"
    assert [text.get_text() for text in matrix.texts] == ["0.50", "1.00", "0.50", "0.50", "1.00", "0.50"]
    salt, empty = histogram.containers
    assert [round(height, 3) for height in heights(salt)] == [33.333, *[0] * 8, 16.667]
    assert heights(empty)[-1] == pytest.approx(50)


def test_training_and_validation_tiles_stand_side_by_side():
    figure = figures.train_beside_valid(np.array([1, 1, 1, 0.9]), np.array([0.5, 1]))
    train, valid = figure.axes[0].containers
    assert heights(train) == [*[0] * 9, 25, 75]
    assert heights(valid) == [*[0] * 5, 50, *[0] * 4, 50]
    # by hand: 1.96 * sqrt(0.001875 / 4 + 0.0625 / 2) = 0.349
    title = "Training tiles score +0.225 against validation tiles (95 % -0.124 to +0.574):\nno difference is shown"
    assert figure.axes[0].get_title(loc="left") == title


def test_the_worst_tiles_come_first_with_their_ids():
    images = RNG.integers(0, 256, (3, 40, 40), np.uint8)
    true = np.stack([ALL[0], ALL[0], NONE[0]])
    pred = np.stack([ALL[0], NONE[0], NONE[0]])
    pred[2, 0, 0] = True  # nothing too, but one pixel wrong where the other has 1,600
    figure = figures.worst({"Training": (images, pred, true, ["good", "bad", "slip"])})
    assert [axes.get_title().split("\n") for axes in figure.axes[:3]] == [
        ["bad", "score 0.0"], ["slip", "score 0.0"], ["good", "score 1.0"]]  # fmt: skip
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), images[1])


DRAWN = {
    "iou": lambda: figures.iou_histogram(PRED, TRUE),
    "kinds": lambda: figures.score_by_group(PRED, TRUE),
    "one kind": lambda: figures.score_by_group(NONE, NONE),
    "boundary": lambda: figures.boundary_error(PRED, TRUE),
    "no boundary": lambda: figures.boundary_error(ALL, ALL),
    "confusion": lambda: figures.empty_confusion(PRED, TRUE),
    "no empty tiles": lambda: figures.empty_confusion(ALL, ALL),
    "calibration": lambda: figures.calibration(PROB, TRUE, EMPTY, "1 - its highest pixel"),
    "no empty tiles, said": lambda: figures.calibration(np.ones((6, 40, 40)), ALL, np.zeros(6), "empty head"),
    "agreement": lambda: figures.agreement({f"fold {k}": np.roll(PRED, k, 1) for k in range(5)}),
    "agreement on all": lambda: figures.agreement({"fold 0": NONE, "fold none": NONE}),
    "overfitting": lambda: figures.train_beside_valid(np.ones(5), np.zeros(1)),
    "no overfitting": lambda: figures.train_beside_valid(np.array([0, 1, 0.5]), np.array([0.3, 1])),
    "worst": lambda: figures.worst(
        {
            name: (255 * TRUE.view(np.uint8), PRED, TRUE, [f"{i:010x}" for i in range(60)])
            for name in ("Training", "Validation")
        }
    ),
    "worst, of odd names": lambda: figures.worst(
        {"Training $x^$": (255 * TRUE.view(np.uint8), PRED, TRUE, [f"${i}_$a-long-id-$" * 3 for i in range(60)])}
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_is_cut_off(name):
    assert_readable(DRAWN[name]())
