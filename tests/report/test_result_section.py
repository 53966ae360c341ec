"""The chapter on a result: which parts there are for which runs, with the masks of the run's own decision."""

import numpy as np
import pandas as pd
import pytest

from kit import recipe as recipes
from kit.data import placement
from kit.errors import InputError
from kit.report import changes
from kit.report.plates import Table
from kit.report.result_section import Held, section
from kit.runs import Run, write_json, write_text
from kit.scoring.decision import Decision
from tests.report.drawn import words
from tests.small import easy_tiles, tiny_recipe

pytestmark = pytest.mark.slow

TILES = easy_tiles(40, 12)
SCORES = ["threshold", "kinds", "iou", "boundary", "empty", "calibration"]


def folder(path, tiles=TILES) -> Run:
    """A run as an ensemble leaves it: out-of-fold predictions, no weights and no history."""
    run = Run(path / "both")
    write_json(run / "environment.json", {"fingerprint": tiles.fingerprint, "data": "x", "folds": []})
    write_text(run / "recipe.toml", recipes.dumps(recipes.Recipe(name="ensemble")))
    write_json(run / "scores.json", {"folds": {}})
    ids = pd.DataFrame({"id": tiles.train_ids})
    write_text(run / "oof_ids.csv", ids.to_csv(index=False))
    write_text(run / "folds.csv", ids.assign(fold=np.arange(len(ids)) % 2).to_csv(index=False))
    prob = 0.3 + 0.4 * tiles.masks + np.random.default_rng(0).uniform(-0.05, 0.05, tiles.masks.shape)
    np.save(run / "oof.npy", prob.astype(np.float16))
    return run


def parts(run, tiles=TILES):
    judged = changes.judge(run, tiles, None) if (run / "oof.npy").exists() else None
    found = section(run, tiles, judged).parts
    return {part.name.removeprefix(f"{run.name}-"): part for part in found}


def test_an_ensemble_has_what_needs_no_weights_and_no_folds(tmp_path, capsys):
    assert list(parts(folder(tmp_path))) == SCORES
    assert "left out: training tiles beside validation tiles" in capsys.readouterr().out


def test_masks_are_those_of_the_decision(tmp_path):
    """At 0.5 all is right; at 0.2 every pixel is salt, so the empty tiles score nothing."""
    run = folder(tmp_path)
    assert "costs 0.000" in words(parts(run)["empty"].figure)
    Decision(0.2).to_json(run / "decision.json")
    empty = (~TILES.masks.any(axis=(1, 2))).mean()
    found = parts(run)
    assert f"costs {empty:.3f}" in words(found["empty"].figure)
    assert found["kinds"].note.startswith("Threshold 0.20.")


def test_mosaic_rules_are_applied_where_their_placement_is_there(tmp_path, monkeypatch, capsys):
    run = folder(tmp_path)
    masks = np.zeros_like(TILES.masks)
    masks[0, :, :50] = True  # vertical, and so is the tile below it, of which the net sees nothing
    masks[1] = masks[0]
    monkeypatch.setattr(TILES.__class__, "constant", lambda self, split: np.zeros(len(self.ids(split)), bool))
    tiles = TILES.__class__(**{**vars(TILES), "masks": masks})
    np.save(run / "oof.npy", np.zeros(masks.shape, np.float16))
    places = pd.DataFrame({"id": tiles.train_ids[:2], "mosaic": 0, "row": [0, 1], "col": 0})
    Decision(rules=("vertical-down",), placement=placement.digest(places)).to_json(run / "decision.json")
    assert not Held.of(run, tiles, changes.judge(run, tiles, None)).masks.any()
    assert "left out: mosaic rules" in capsys.readouterr().out
    held = Held.of(run, tiles, changes.judge(run, tiles, places))
    assert capsys.readouterr().out == ""
    np.testing.assert_array_equal(held.masks[1], masks[1])
    assert not held.masks[0].any()
    assert not held.masks[2:].any()


def test_the_ways_compared_are_those_of_the_file(tmp_path):
    run = folder(tmp_path)
    ways = pd.DataFrame({"name": ["threshold 0.50", "cap-empty"], "score": [0.7, 0.71], "gain": [0, 0.01],
                         "gain_low": [0, -0.002], "gain_high": [0, 0.0201], "used": [False, True]})  # fmt: skip
    write_text(run / "decision.csv", ways.to_csv(index=False))
    table = parts(run)["ways"]
    assert isinstance(table, Table)
    assert table.frame.to_numpy().tolist() == [
        ["threshold 0.50", "0.7000", "+0.0000", "+0.0000 to +0.0000", ""],
        ["cap-empty", "0.7100", "+0.0100", "-0.0020 to +0.0201", "yes"],
    ]
    write_text(run / "decision.csv", "name\nx\n")
    with pytest.raises(InputError, match=r"decision\.csv has no column score"):
        parts(run)


def test_the_empty_head_is_what_calibration_asks(tmp_path):
    run = folder(tmp_path)
    assert "1 - its highest pixel" in words(parts(run)["calibration"].figure)
    np.save(run / "oof_empty.npy", np.linspace(0, 1, 40).astype(np.float16))
    assert "(empty head)" in words(parts(run)["calibration"].figure)


def test_folds_are_compared_on_the_test_tiles_that_both_predicted(tmp_path):
    run = folder(tmp_path)
    (run / "oof.npy").unlink()  # the comparison needs none
    masks = np.zeros((3, *TILES.test_images.shape), np.float16)
    masks[:2, :6, 50:], masks[2, :6, :50] = 1, 1  # the third says the opposite on half of the tiles
    for fold, prob in enumerate(masks):
        run.fold(fold).mkdir()
        np.save(run.fold(fold) / "test.npy", prob)
        if fold < 2:
            assert parts(run) == {}  # fewer than two, or without what says which tiles they are of
        write_json(run.fold(fold) / "test.json", {"data": TILES.fingerprint if fold < 2 else "other"})
    assert "0 % of pairs" in words(parts(run)["agreement"].figure)
    write_json(run.fold(2) / "test.json", {"data": TILES.fingerprint})
    figure = parts(run)["agreement"].figure
    assert "33 % of pairs" in words(figure)  # two of three pairs differ on half of the tiles
    assert [text.get_text() for text in figure.axes[1].texts] == ["1.00", "0.50", "1.00", "0.50", "0.50", "0.50"]


def test_a_run_without_out_of_fold_tiles_has_an_empty_chapter(tmp_path):
    run = folder(tmp_path)
    (run / "oof.npy").unlink()
    assert parts(run) == {}


def test_tiles_without_any_salt_leave_out_what_is_about_salt(tmp_path):
    tiles = TILES.__class__(**{**vars(TILES), "masks": np.zeros_like(TILES.masks)})
    found = parts(folder(tmp_path, tiles), tiles)
    assert list(found) == ["threshold", "kinds", "empty", "calibration"]


def test_training_tiles_are_predicted_with_the_folds_own_weights(tmp_path):
    from kit.nets.tta import mean_probability
    from kit.scoring.metric import average_precision
    from kit.training import command, learner
    from kit.training.fold import load_nets, train_folds

    recipe = tiny_recipe("stages.0.epochs=1")
    recipe = recipes.replace(recipe, stages=recipe.stages[:1])
    run, table = Run(tmp_path / "run"), learner.make_folds(recipe, TILES)
    write_text(run / "folds.csv", table.to_csv(index=False))
    command.record(run, "recipe.toml", recipe, TILES, tmp_path, [0])
    assert train_folds(run, recipe, TILES, table, [0])
    found = parts(run)
    seen = (table["fold"] != 0).to_numpy()
    prob = mean_probability(load_nets(run, recipe, 0)(), TILES.train_images[seen], recipe.tta).prob.astype(np.float16)
    expected = average_precision(prob > 0.5, TILES.masks[seen]).mean()
    assert f"{seen.sum()} training tiles: {expected:.3f}" in words(found["overfitting"].figure)
    assert f"{(~seen).sum()} validation tiles" in words(found["overfitting"].figure)
    shown = {text.split("\n")[0] for text in words(found["worst"].figure).split(" | ")}
    assert len(shown & set(TILES.train_ids[seen])) == 6
    assert len(shown & set(TILES.train_ids[~seen])) == 6
