"""The comparison of all ways of deciding: nested, scored as their masks are, and won by what was planted."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage, stats

from kit.errors import InputError
from kit.scoring.compare import Sample, compare

SIDE = 20
EXPECTED = "greatest expected score"


def slow_scores(preds: np.ndarray, trues: np.ndarray) -> np.ndarray:
    """The competition's score of each tile, from its text."""
    scores = []
    for pred, true in zip(preds, trues, strict=True):
        union, both = (pred | true).sum(), (pred & true).sum()
        scores.append(np.mean([20 * both > k * union for k in range(10, 20)]) if union else 1.0)
    return np.array(scores)


def sample(n: int = 200, seed: int = 0, noise: float = 0.6, empty: float = 0.3) -> Sample:
    """Smooth maps of smooth masks, less sure of the empty tiles; every tenth tile is constant."""
    rng = np.random.default_rng(seed)

    def smooth(width: float) -> np.ndarray:
        field = ndimage.gaussian_filter(rng.standard_normal((n, SIDE, SIDE)), (0, width, width))
        return field / field.std(axis=(1, 2), keepdims=True)

    field, is_empty = smooth(4), rng.random(n) < empty
    true = (field > 0.3) & ~is_empty[:, None, None]
    logits = 2 * (field - 0.3) + noise * smooth(2) - 2.5 * is_empty[:, None, None]
    constant = np.arange(n) % 10 == 0
    true[constant] = False
    head = np.clip(0.5 + 0.25 * (2 * ~true.any((1, 2)) - 1) + rng.normal(0, 0.15, n), 0, 1)
    return Sample((1 / (1 + np.exp(-logits))).astype(np.float16), true, np.arange(n) % 5, constant, head)


@pytest.fixture(scope="module")
def compared():
    return compare(sample())


def test_every_ways_scores_are_those_of_what_the_other_folds_taught_it(compared):
    tiles = sample()
    assert len(compared.ways) == 6
    for way in compared.ways[1:]:
        assert set(way.by_fold) == set(range(5))
        for fold, decision in way.by_fold.items():
            held = tiles.folds == fold
            masks = decision.masks(tiles.prob[held], head=tiles.head[held]) & ~tiles.constant[held, None, None]
            np.testing.assert_allclose(way.scores[held], slow_scores(masks, tiles.true[held]), err_msg=way.name)


def test_the_first_way_is_one_half_and_intervals_are_of_the_paired_gain(compared):
    tiles = sample()
    plain = slow_scores((tiles.prob > 0.5) & ~tiles.constant[:, None, None], tiles.true)
    np.testing.assert_allclose(compared.ways[0].scores, plain)
    for way in compared.ways[1:]:
        gain = way.scores - plain
        low, high = gain.mean() + np.array([-1.96, 1.96]) * stats.sem(gain)
        assert (way.gain_low, way.gain_high) == pytest.approx((low, high), abs=0.12 * (high - low) + 1e-9)


def test_no_folds_decision_depends_on_its_own_tiles(compared):
    tiles, other = sample(), sample(seed=9)
    held = tiles.folds == 2
    parts = {
        name: np.where(held.reshape(-1, *[1] * (old.ndim - 1)), getattr(other, name), old)
        for name, old in vars(tiles).items()
    }
    for before, after in zip(compared.ways[1:], compare(Sample(**parts)).ways[1:], strict=True):
        assert after.by_fold[2] == before.by_fold[2]
    assert after.by_fold != before.by_fold  # the others saw the change


def test_the_decision_is_the_best_way_whose_gain_is_outside_noise(compared):
    shown = [way for way in compared.ways[1:] if way.gain_low > 0]
    assert shown
    assert compared.used is max(shown, key=lambda way: way.scores.mean())
    decision = compared.decision
    assert decision.accepted
    assert (decision.score, decision.baseline) == (compared.used.scores.mean(), compared.ways[0].scores.mean())
    assert decision.rules[0] == "constant-empty"
    table = compared.table()
    assert list(table["name"][table["used"]]) == [compared.used.name]
    np.testing.assert_allclose(table["gain"], table["score"] - table["score"][0])


def test_right_predictions_are_left_alone():
    tiles = sample(noise=0, empty=0)
    compared = compare(tiles)
    assert compared.used is compared.ways[0]
    decision = compared.decision
    assert not decision.accepted
    assert (decision.threshold, decision.min_component, decision.calibration) == (0.5, 0, None)
    assert decision.in_words().startswith("Threshold stays at 0.50")


def test_planted_holes_are_filled_and_planted_full_masks_emptied():
    rng = np.random.default_rng(0)
    true = np.zeros((150, SIDE, SIDE), bool)
    for tile in true[:100]:
        top, left = rng.integers(1, 5, 2)
        tile[top : top + 12, left : left + 12] = True
    prob = np.where(true, 0.9, 0.1)
    prob[:100, 9:12, 9:12] = 0.1  # a hole in each mask
    prob[100:] = 0.9  # tiles wholly below the salt's top
    tiles = Sample(prob, true, np.arange(150) % 5, np.zeros(150, bool))
    compared = compare(tiles)
    way = {way.name: way for way in compared.ways}["threshold, components, holes"]
    assert way.scores.min() == 1
    assert way.decision.min_hole > 9
    assert way.decision.rules == ("full-empty",)


def test_a_planted_empty_bias_is_corrected():
    """Nothing in the brightness of a map tells the empty tiles, but they show small blobs."""
    rng = np.random.default_rng(1)
    n = 300
    is_empty = rng.random(n) < 0.5
    true, prob = np.zeros((n, SIDE, SIDE), bool), np.full((n, SIDE, SIDE), 0.05)
    for tile, mask, empty in zip(prob, true, is_empty, strict=True):
        size = rng.integers(3, 5) if empty else rng.integers(4, 15)
        top, left = rng.integers(0, SIDE - size, 2)
        tile[top : top + size, left : left + size] = 0.8
        mask[top : top + size, left : left + size] = not empty
    compared = compare(Sample(prob, true, np.arange(n) % 5, np.zeros(n, bool)))
    ways = {way.name: way for way in compared.ways}
    assert compared.decision.accepted
    assert ways[EXPECTED].gain_low > 0.2
    # a threshold alone cannot know
    assert ways["threshold"].gain_low <= 0


def test_a_head_that_knows_is_heard_and_without_one_there_is_no_such_way():
    tiles = sample(empty=0.4)
    sure = replace(tiles, head=np.where(tiles.true.any((1, 2)), 0.02, 0.98))
    ways = {way.name: way for way in compare(sure).ways}
    gate = ways["threshold, components, empty head"]
    assert gate.gain_low > 0
    assert 0.02 < gate.decision.empty_above < 0.98
    assert gate.scores[~tiles.true.any((1, 2))].min() == 1
    assert len(compare(replace(tiles, head=None)).ways) == 5


def test_with_mosaic_rules_the_gain_is_counted_anew(compared):
    after = np.minimum(compared.used.scores + 0.1, 1)
    more = compared.with_rules(("cap-empty",), "hash", after)
    assert more.used.name == f"{compared.used.name}, mosaic rules"
    assert more.decision.rules == (*compared.decision.rules, "cap-empty")
    assert (more.decision.score, more.decision.placement) == (pytest.approx(after.mean()), "hash")
    assert more.decision.accepted
    assert more.decision.gain_low > compared.decision.gain_low


def test_same_seed_same_decision_also_with_one_fold():
    tiles = replace(sample(60), folds=np.zeros(60, int))
    first, second = (compare(tiles, seed=3) for _ in range(2))
    assert first.decision == second.decision
    assert set(first.ways[1].by_fold) == set(range(5))


def test_too_few_tiles_are_refused():
    tiles = Sample(**{name: value[:4] for name, value in vars(sample()).items()})
    with pytest.raises(InputError, match="4 tiles are too few"):
        compare(tiles)
