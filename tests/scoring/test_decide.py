"""The decision of a run directory: compared and written, then applied to the test tiles to the letter."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kit.errors import InputError
from kit.runs import Run, write_json, write_probabilities, write_text
from kit.scoring.decide import decision_of, masks_of_test, tune_run
from kit.scoring.decision import Decision
from tests.small import easy_tiles

N_TRAIN, N_TEST = 60, 12
TILES = easy_tiles(N_TRAIN, N_TEST)
# columns of two tiles: a wall, known, and below it the same wall, known or of the test set
WALLS = np.zeros((24, 101, 101), bool)
for wall, left in zip(WALLS, np.random.default_rng(0).integers(0, 60, 24), strict=True):
    wall[:, left : left + 30] = True
MASKS = np.concatenate([np.repeat(WALLS[:18], 2, axis=0), WALLS[18:], TILES.masks[42:]])
TEST_MASKS = np.concatenate([WALLS[18:], TILES.masks[54:]])
TILES = replace(TILES, masks=MASKS)
BELOW = zip(TILES.train_ids[36:42], TILES.test_ids[:6], strict=True)
IDS = [*TILES.train_ids[:36], *(name for pair in BELOW for name in pair)]
PLACEMENT = pd.DataFrame({"id": IDS, "mosaic": 0, "row": np.tile([0, 1], 24), "col": np.repeat(np.arange(24), 2)})


@pytest.fixture
def run(tmp_path) -> Run:
    """A run whose net sees half of each mask, and is not sure of it; the head knows the empty tiles."""
    run = Run(tmp_path / "run")
    rng = np.random.default_rng(1)
    write_json(run / "environment.json", {"fingerprint": TILES.fingerprint})
    folds = pd.DataFrame({"id": TILES.train_ids, "fold": np.arange(N_TRAIN) % 5})
    write_text(run / "folds.csv", folds.to_csv(index=False))
    for split, ids, masks in (("oof", TILES.train_ids, MASKS), ("test", TILES.test_ids, TEST_MASKS)):
        prob = 0.4 * masks + 0.2 * rng.random(masks.shape)
        prob[:, ::3] = 0.05
        write_probabilities(run / f"{split}.npy", prob.shape, [prob])
        write_text(run / f"{split}_ids.csv", pd.DataFrame({"id": ids}).to_csv(index=False))
        write_probabilities(run / f"{split}_empty.npy", (len(ids),), [np.where(masks.any((1, 2)), 0.1, 0.9)])
    return run


def test_what_was_compared_is_written_and_said(run):
    outcome = tune_run(run, TILES, PLACEMENT)
    assert decision_of(run) == outcome.decision
    assert "vertical-down" in outcome.decision.mosaic_rules
    table = pd.read_csv(run / "decision.csv")
    assert list(table["name"]) == [*outcome.ways["name"], "vertical-down", "soft-down", "cap-empty", "vertical-up"]
    down = table.set_index("name").loc["vertical-down"]
    assert (down["pairs"], down["precision"], down["reach"]) == (18, 1, 6)
    words = outcome.in_words()
    assert "mosaic rule vertical-down" in words
    assert "right 1.000 on 18 pairs, reaches 6 other tiles, used" in words
    for name in outcome.ways["name"]:
        assert f"\n{name}" in words
    assert words.endswith(outcome.decision.in_words())


def test_without_a_placement_no_rule_is_tried(run):
    outcome = tune_run(run, TILES)
    assert outcome.rules.empty
    assert outcome.decision.mosaic_rules == ()
    assert "mosaic" not in outcome.in_words()


def test_a_placement_of_other_tiles_is_refused(run):
    with pytest.raises(InputError, match=r"mosaic\.csv places tiles that these data do not have"):
        tune_run(run, TILES, PLACEMENT.assign(id=["stranger", *PLACEMENT["id"][1:]]))
    assert not (run / "decision.json").exists()


@pytest.mark.parametrize(
    ("files", "mend"),
    [
        ({"environment.json": {"folds": [0, 1]}}, "go on with python scripts/train.py --run .*/run --resume"),
        ({"environment.json": {"folds": [None]}}, "trained on every tile, so threshold 0.5 stands"),
        ({"environment.json": {"folds": []}, "ensemble.json": {}}, "a run of this ensemble has none"),
    ],
)
def test_what_helps_without_out_of_fold_predictions_is_said(run, files, mend):
    for name, content in files.items():
        write_json(run / name, {"fingerprint": TILES.fingerprint} | content)
    (run / "oof.npy").unlink()
    with pytest.raises(InputError, match=mend):
        tune_run(run, TILES)


def test_the_decision_is_applied_to_the_letter(run):
    tune_run(run, TILES, PLACEMENT)
    prob, head = np.load(run / "test.npy"), np.load(run / "test_empty.npy")
    constant = TILES.constant("test")
    expected = decision_of(run).masks(prob, constant, head)
    assert (expected[:6] != WALLS[18:]).any()
    expected[:6] = WALLS[18:]
    ids, masks = masks_of_test(run, TILES, PLACEMENT)
    assert ids == list(TILES.test_ids)
    np.testing.assert_array_equal(masks, expected)


@pytest.mark.parametrize("changed", [None, PLACEMENT.assign(col=PLACEMENT["col"] + (PLACEMENT["col"] > 20))])
def test_rules_measured_on_another_placement_are_refused(run, changed):
    tune_run(run, TILES, PLACEMENT)
    with pytest.raises(InputError, match=r"mosaic\.csv is .*: run scripts/mosaic\.py") as error:
        masks_of_test(run, TILES, changed)
    assert "\n" not in str(error.value)


def test_a_head_that_is_needed_and_missing_is_refused(run):
    Decision(empty_above=0.5, rules=("constant-empty",)).to_json(run / "decision.json")
    found = masks_of_test(run, TILES)[1]
    np.testing.assert_array_equal(found.any((1, 2)), TEST_MASKS.any((1, 2)))
    (run / "test_empty.npy").unlink()
    with pytest.raises(InputError, match=r"test_empty\.npy.* is missing"):
        masks_of_test(run, TILES)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no array"),
        lambda path: np.save(path, np.full(N_TRAIN, np.nan)),
        lambda path: np.save(path, np.zeros(N_TRAIN - 1)),
        lambda path: np.save(path, np.zeros(N_TRAIN, int)),
    ],
)
def test_a_damaged_head_is_refused_before_anything_is_written(run, spoil):
    spoil(run / "oof_empty.npy")
    with pytest.raises(InputError, match=r"oof_empty\.npy"):
        tune_run(run, TILES, PLACEMENT)
    assert not (run / "decision.json").exists()
