"""Test probabilities: every fold once, their mean, made again when what they were made from has changed."""

import numpy as np
import pytest

from kit.data.rle import decode_many
from kit.errors import InputError
from kit.inference.predict import average, predict
from kit.leaderboard import submission
from kit.runs import Run, write_probabilities
from kit.scoring.decide import test_masks as masks_of_test
from kit.training import fold as folding
from kit.training import learner
from tests.small import easy_tiles, tiny_recipe

TILES = easy_tiles(24, 9)


def test_the_mean_of_folds_in_chunks(tmp_path):
    generator = np.random.default_rng(0)
    arrays = [generator.random((1100, 5, 5)).astype(np.float16) for _ in range(3)]
    for number, array in enumerate(arrays):
        write_probabilities(tmp_path / f"{number}.npy", array.shape, [array[:700], array[700:]])
        np.testing.assert_array_equal(np.load(tmp_path / f"{number}.npy"), array)
    average([tmp_path / f"{number}.npy" for number in range(3)], tmp_path / "mean.npy")
    expected = np.mean([array.astype(np.float64) for array in arrays], axis=0)
    np.testing.assert_allclose(np.load(tmp_path / "mean.npy"), expected, atol=3e-4)  # half of float16's step near 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe, run = tiny_recipe("data.folds=2"), Run(tmp_path_factory.mktemp("runs") / "run")
    folding.train_folds(run, recipe, TILES, learner.make_folds(recipe, TILES), [0, 1])
    return run


@pytest.mark.slow
def test_predictions_go_on_with_the_next_fold_and_are_remade_when_stale(run, capsys, monkeypatch):
    recipe = tiny_recipe("data.folds=2")
    predict(run, recipe, TILES)
    first = np.load(run / "test.npy")
    assert first.shape == (9, 101, 101)
    assert first.dtype == np.float16

    def made() -> list[str]:
        capsys.readouterr()
        predict(run, recipe, TILES)
        return ["already" if "already" in line else "made" for line in capsys.readouterr().out.splitlines()]

    assert made() == ["already", "already"]
    (run.fold(1) / "test.npy").unlink()  # cut in the second fold
    assert made() == ["already", "made"]
    (run.fold(0) / "test.json").unlink()  # killed between the two files
    assert made() == ["made", "already"]
    np.testing.assert_array_equal(np.load(run / "test.npy"), first)
    predict(run, recipe, TILES, "none")
    assert not np.array_equal(np.load(run / "test.npy"), first)
    other = easy_tiles(24, 9, seed=1)
    predict(run, recipe, other)
    assert not np.array_equal(np.load(run / "test.npy"), first)


@pytest.mark.slow
def test_the_masks_of_a_run_become_its_submission(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predict(run, tiny_recipe("data.folds=2"), TILES)
    ids, masks = masks_of_test(run, TILES)
    path = submission.write_of_run("run", ids, masks, list(TILES.test_ids))
    submission.validate(path, list(TILES.test_ids))
    rows = [line.split(",") for line in path.read_text().split("\n")[1:-1]]
    expected = (np.load(run / "test.npy") > 0.5) & ~TILES.constant("test")[:, None, None]
    np.testing.assert_array_equal(decode_many([text for _, text in rows], (101, 101)), expected)


def test_a_run_without_a_finished_fold_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no finished fold"):
        predict(Run(tmp_path), tiny_recipe(), TILES)


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, 1.5, -0.1])
def test_what_is_no_probability_is_named_by_its_id(run, value):
    """A NaN is below every threshold: unseen, it would be submitted as an empty mask."""
    predict(run, tiny_recipe("data.folds=2"), TILES)
    prob = np.load(run / "test.npy")
    prob[5, 3, 3] = value
    write_probabilities(run / "test.npy", prob.shape, [prob])
    with pytest.raises(InputError, match=f"id {TILES.test_ids[5]}: not a probability"):
        masks_of_test(run, TILES)
