"""Several runs as one: their mean by id, weights only where they gain, the majority, and an ordinary run at the end."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kit import recipe, runs
from kit.errors import InputError
from kit.inference.ensemble import combine, open_run
from kit.inference.predict import predict
from kit.runs import Run, write_json, write_probabilities, write_text
from kit.scoring.decide import decision_of, masks_of_test, tune_run
from kit.scoring.metric import mean_average_precision
from kit.scoring.threshold import Decision
from tests.small import easy_tiles

TILES = easy_tiles(40, 10)
FOLDS = np.arange(40) % 4


def noisy(share: float, seed: int, masks: np.ndarray = TILES.masks) -> np.ndarray:
    """Probabilities of the true masks, with so much of every tile left to chance."""
    chance = np.random.default_rng(seed).random(masks.shape)
    return ((1 - share) * masks + share * chance).astype(np.float16)


def some_test(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((10, 101, 101)).astype(np.float16)


def made(name: str, oof: np.ndarray | None, test: np.ndarray, rows: np.ndarray | None = None) -> Run:
    """A run directory as training and prediction leave it, `oof` being that of the training tiles `rows`."""
    run = Run(f"runs/{name}")
    rows = np.arange(40) if rows is None else rows
    write_text(run / "recipe.toml", recipe.dumps(recipe.load()))
    write_json(run / "environment.json", {"data": ".", "fingerprint": TILES.fingerprint, "folds": [0]})
    write_text(run / "folds.csv", pd.DataFrame({"id": TILES.train_ids, "fold": FOLDS}).to_csv(index=False))
    for split, prob, ids in (("oof", oof, TILES.train_ids[rows]), ("test", test, TILES.test_ids)):
        if prob is not None:
            write_probabilities(run / f"{split}.npy", prob.shape, [prob])
            write_text(run / f"{split}_ids.csv", pd.DataFrame({"id": ids}).to_csv(index=False))
    return run


def together(*members: Run, vote: bool = False):
    run = open_run("both")
    return run, combine(run, members, TILES, runs.Path(), vote)


def test_alike_runs_become_their_mean_tile_by_tile(home):
    rows = np.random.default_rng(0).permutation(40)[:33]  # in another order, and not every tile
    tests, oofs = [some_test(0), some_test(1)], [noisy(0.9, 0), noisy(0.9, 1)]
    run, result = together(made("a", oofs[0], tests[0]), made("b", oofs[1][rows], tests[1], rows))
    assert (result.method, result.weights) == ("mean", (0.5, 0.5))
    np.testing.assert_allclose(np.load(run / "test.npy"), np.mean(np.stack(tests).astype(float), 0), atol=3e-4)
    ids = pd.read_csv(run / "oof_ids.csv", dtype=str)["id"]
    assert list(ids) == list(TILES.train_ids[np.sort(rows)])
    np.testing.assert_allclose(
        np.load(run / "oof.npy"), np.mean(np.stack(oofs).astype(float), 0)[np.sort(rows)], atol=3e-4
    )
    expected = mean_average_precision(np.load(run / "oof.npy") > 0.5, TILES.masks[np.sort(rows)])
    assert result.score == pytest.approx(expected)


def test_empty_heads_are_averaged_with_the_weights_of_the_masks(home):
    """Equal runs: equal weights. A run of chance has none, in the heads neither. One run without a head: no head."""
    rng, members = np.random.default_rng(3), []
    heads = {split: rng.random((2, n)).astype(np.float16) for split, n in (("oof", 40), ("test", 10))}
    for number, oof in enumerate((noisy(0.9, 0), noisy(0.9, 1))):
        members.append(made(f"run{number}", oof, some_test(number)))
        for split, head in heads.items():
            write_probabilities(members[-1] / f"{split}_empty.npy", head[number].shape, [head[number]])
    run, result = together(*members)
    assert result.weights == (0.5, 0.5)
    for split, head in heads.items():
        np.testing.assert_allclose(np.load(run / f"{split}_empty.npy"), head.astype(float).mean(0), atol=3e-4)
    for path, prob in ((members[0], noisy(0.3, 0)), (members[1], 1 - noisy(0.2, 1))):
        write_probabilities(path / "oof.npy", prob.shape, [prob])
    together(*members)
    np.testing.assert_array_equal(np.load(run / "test_empty.npy"), heads["test"][0])
    (members[1] / "test_empty.npy").unlink()
    together(*members)
    assert (run / "oof_empty.npy").exists()
    assert not (run / "test_empty.npy").exists()


def test_a_run_of_chance_loses_its_weight(home):
    """One run is right and not very sure, the other wrong and sure: their mean is wrong nearly everywhere."""
    good, bad = noisy(0.3, 0), 1 - noisy(0.2, 1)
    run, result = together(made("good", good, some_test(0)), made("bad", bad, some_test(1)))
    assert (result.method, result.weights) == ("weighted", (1.0, 0.0))
    assert result.scores == (1.0, pytest.approx(mean_average_precision(bad > 0.5, TILES.masks)))
    assert result.score == 1.0
    np.testing.assert_array_equal(np.load(run / "test.npy"), some_test(0))
    np.testing.assert_array_equal(np.load(run / "oof.npy"), good)


@pytest.mark.parametrize("count", [3, 4])
def test_a_vote_is_the_majority_of_the_runs_own_masks(home, count):
    thresholds = [0.3, 0.5, 0.7, 0.45][:count]
    members = [made(f"run{i}", noisy(0.9, i), some_test(i)) for i in range(count)]
    for member, threshold in zip(members, thresholds, strict=True):
        Decision(threshold=threshold).to_json(member / "decision.json")
    run, result = together(*members, vote=True)
    assert result.method == "vote"
    for split, probs in (("test", map(some_test, range(count))), ("oof", (noisy(0.9, i) for i in range(count)))):
        votes = sum((prob.astype(float) > cut).astype(int) for prob, cut in zip(probs, thresholds, strict=True))
        np.testing.assert_array_equal(np.load(run / f"{split}.npy") > 0.5, 2 * votes > count)
    assert result.score == pytest.approx(mean_average_precision(np.load(run / "oof.npy") > 0.5, TILES.masks))


@pytest.mark.slow
def test_the_ensemble_is_a_run_like_any_other(home):
    run, _ = together(made("a", noisy(0.9, 0), some_test(0)), made("b", noisy(0.9, 1), some_test(1)))
    assert runs.find_run("both").path == run.path
    assert recipe.load(str(run / "recipe.toml")).source == "mean of a, b"
    tune_run(run, TILES)
    ids, masks = masks_of_test(run, TILES)
    assert (ids, masks.shape) == (list(TILES.test_ids), (10, 101, 101))
    # it can be a part of another one, and be made anew, without the decision on what it was
    other = open_run("three")
    combine(other, [run, made("c", noisy(0.9, 2), some_test(2))], TILES, runs.Path())
    again, _ = together(Run("runs/a"), Run("runs/c"))
    assert json.loads((again / "ensemble.json").read_text())["runs"] == ["runs/a", "runs/c"]
    assert decision_of(again) == decision_of(Run("runs/a"))
    with pytest.raises(InputError, match="both is an ensemble"):
        predict(again, recipe.load(), TILES)


def test_without_out_of_fold_predictions_runs_count_alike(home):
    run, result = together(made("a", noisy(0.9, 0), some_test(0)), made("b", None, some_test(1)))
    assert (result.weights, result.scores) == ((0.5, 0.5), None)
    assert "oof.npy" in result.in_words()
    assert not (run / "oof.npy").exists()
    np.testing.assert_allclose(np.load(run / "test.npy"), (some_test(0).astype(float) + some_test(1)) / 2, atol=3e-4)


def test_what_cannot_be_combined_is_one_line_and_leaves_nothing(home):
    a, b = made("a", noisy(0.9, 0), some_test(0)), made("b", noisy(0.9, 1), some_test(1))
    few = made("few", noisy(0.9, 2)[:3], some_test(2), np.arange(3))
    bare = made("bare", noisy(0.9, 3), some_test(3))
    (bare / "test.npy").unlink()
    strange = made("strange", noisy(0.9, 4), some_test(4))
    write_json(strange / "environment.json", {"data": ".", "fingerprint": "other", "folds": [0]})
    for members, message in (
        ([a], "two runs or more"),
        ([a, Run("runs/../runs/a")], "each named once"),
        ([a, few], "share 3 out-of-fold tiles"),
        ([a, bare], "predict.py bare"),
        ([a, strange], "other tiles"),
    ):
        with pytest.raises(InputError, match=message):
            together(*members)
    assert not Run("runs/both").path.exists()
    with pytest.raises(InputError, match="is a training"):
        open_run("a")
    both, _ = together(a, b)
    with pytest.raises(InputError, match="run of itself"):
        combine(both, [both, a], TILES, runs.Path())


def test_tiles_of_one_grey_do_not_vote_for_salt(home):
    images = TILES.train_images.copy()
    images[1] = 0
    tiles = replace(TILES, train_images=images)
    salt = np.ones((40, 101, 101), np.float16)
    run = open_run("both")
    combine(run, [made("a", salt, some_test(0)), made("b", salt, some_test(1))], tiles, runs.Path(), vote=True)
    oof = np.load(run / "oof.npy")
    assert (oof[1] == 0).all()
    assert (oof[2] == 1).all()
