"""The mask of greatest expected score: against every mask of a tiny tile, and on tiles drawn from a known law."""

from itertools import product

import numpy as np
import pytest
from scipy import ndimage, stats
from scipy.special import expit, logit

from kit.scoring.expected import LEVELS, Calibration, areas_above, calibrate, expected_scores

SIDE = 20
TINY_LEVELS = tuple(np.linspace(0.05, 0.95, 10).tolist())  # so fine that each pixel of a tiny tile has its own
EVERY_MASK = np.array(list(product([False, True], repeat=9)))


def slow_score(pred: np.ndarray, true: np.ndarray) -> float:
    """The competition's score of one tile, from its text."""
    union = (pred | true).sum()
    if not union:
        return 1.0
    return float(np.mean([20 * (pred & true).sum() > k * union for k in range(10, 20)]))


def tiny(salt: tuple[float, ...], p_empty: float) -> Calibration:
    """A calibration that believes its model's scores and gives every tile the same probability of being empty."""
    weights = (float(logit(p_empty)), *([0.0] * (len(TINY_LEVELS) + 1)))
    return Calibration(TINY_LEVELS, salt, (0.0, 1.0), (0.0, 1.0), weights)


@pytest.mark.parametrize("p_empty", [0.02, 0.3, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_no_mask_of_a_tiny_tile_is_expected_to_score_more(seed, p_empty):
    rng = np.random.default_rng(seed)
    prob = rng.permutation(np.linspace(0.1, 0.9, 9)).reshape(1, 3, 3)
    salt = tuple(np.sort(rng.random(11)) * 0.95)
    truths = [prob.ravel() > level for level in (-1, *TINY_LEVELS)]
    chances = np.diff([0, *salt])  # what is left to 1: the map shows nothing of the truth

    def worth(mask: np.ndarray) -> float:
        if not mask.any():
            return p_empty
        with_salt = [chance * slow_score(mask, truth) for chance, truth in zip(chances, truths, strict=True)]
        return (1 - p_empty) * sum(value for value, truth in zip(with_salt, truths, strict=True) if truth.any())

    threshold = tiny(salt, p_empty).thresholds(prob)[0]
    assert worth(prob.ravel() > threshold) == pytest.approx(max(worth(mask) for mask in EVERY_MASK), abs=1e-12)


def test_areas_are_counted_as_float64():
    rng = np.random.default_rng(0)
    prob = rng.random((3, 5, 7)).astype(np.float16)
    prob[0, 0, 0] = np.float16(0.35)  # which is above 0.35
    masks = rng.random((3, 5, 7)) > 0.5
    levels = (0.1, 0.35, 0.9)
    for given, inside in ((None, np.ones_like(masks)), (masks, masks)):
        expected = [
            [(i & (p.astype(float) > cut)).sum() for cut in (-1, *levels)] for p, i in zip(prob, inside, strict=True)
        ]
        np.testing.assert_array_equal(areas_above(prob, levels, given), expected)


def drawn(n: int, seed: int, dim_empty: float = 0.75) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps, masks and P(empty) of tiles from a law that is known.

    A map is a blob, bright or dim. A bright one is empty with probability 0.05, a dim one with `dim_empty`. If a tile
    has salt, that is the level set above peak * sqrt(u), u uniform: a pixel at p is salt with probability (p / peak)^2.
    """
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((n, SIDE, SIDE)), (0, 4, 4))
    field = (field - field.min((1, 2), keepdims=True)) / np.ptp(field, axis=(1, 2))[:, None, None]
    bright = rng.random(n) < 0.5
    peak = np.where(bright, rng.uniform(0.95, 0.99, n), rng.uniform(0.55, 0.75, n))
    prob = (field * peak[:, None, None]).astype(np.float16)
    p_empty = np.where(bright, 0.05, dim_empty)
    cut = peak * np.sqrt(rng.random(n))
    masks = (prob.astype(float) > cut[:, None, None]) & (rng.random(n) >= p_empty)[:, None, None]
    return prob, masks, p_empty


def learnt(prob: np.ndarray, masks: np.ndarray, head: np.ndarray | None = None) -> Calibration:
    areas, shared = areas_above(prob, LEVELS), areas_above(prob, LEVELS, masks)
    return calibrate(areas, shared, masks.sum((1, 2)), head)


def scores_under(calibration: Calibration, prob: np.ndarray, masks: np.ndarray, head=None) -> np.ndarray:
    preds = prob > calibration.thresholds(prob, head)[:, None, None]
    return np.array([slow_score(pred, mask) for pred, mask in zip(preds, masks, strict=True)])


class TestPlantedLaw:
    def test_pixels_and_emptiness_are_calibrated(self):
        prob, masks, p_empty = drawn(1500, seed=0)
        *_, found = learnt(prob, masks).weigh(areas_above(prob, LEVELS))
        assert np.abs(found - p_empty).mean() < 0.05
        bright = prob.max((1, 2)) > 0.9
        centres = expit(np.linspace(-6.125, 6.125, 50))
        seen = (centres > 0.1) & (centres < 0.9)
        salt = np.array(learnt(prob[bright], masks[bright]).salt)
        np.testing.assert_allclose(salt[seen], (centres[seen] / 0.97) ** 2, atol=0.05)

    def test_what_it_expects_is_what_new_tiles_score(self):
        calibration = learnt(*drawn(800, seed=1)[:2])
        prob, masks, _ = drawn(800, seed=2)
        _, worth, p_empty = calibration.weigh(areas_above(prob, LEVELS))
        hoped = np.maximum(p_empty, (1 - p_empty) * worth)
        got = scores_under(calibration, prob, masks)
        assert abs(hoped.mean() - got.mean()) < 3 * stats.sem(hoped - got)

    def test_a_planted_empty_bias_is_corrected(self):
        """Half of the maps show salt that is mostly not there, brighter than any threshold that spares the others."""
        calibration = learnt(*drawn(600, seed=3)[:2])
        prob, masks, _ = drawn(600, seed=4)
        dim = prob.max((1, 2)) < 0.9
        predicted = (prob > calibration.thresholds(prob)[:, None, None]).any((1, 2))
        assert predicted[~dim].mean() > 0.95
        assert predicted[dim].mean() < 0.05
        got = scores_under(calibration, prob, masks).mean()
        plain = max(np.mean([slow_score(p, m) for p, m in zip(prob > t, masks, strict=True)]) for t in (0.3, 0.5, 0.7))
        assert got > plain + 0.05

    def test_without_the_bias_nothing_is_emptied(self):
        calibration = learnt(*drawn(600, seed=5, dim_empty=0.05)[:2])
        prob = drawn(300, seed=6)[0]
        assert (prob > calibration.thresholds(prob)[:, None, None]).any((1, 2)).mean() > 0.95

    def test_the_empty_head_is_heard(self):
        """Maps that tell nothing about emptiness, and a head that knows it."""
        prob, masks, _ = drawn(600, seed=7, dim_empty=0.05)
        rng = np.random.default_rng(0)
        empty = rng.random(600) < 0.4
        masks &= ~empty[:, None, None]
        head = np.clip(0.5 + 0.3 * (2 * empty - 1) + rng.normal(0, 0.05, 600), 0, 1).astype(np.float16)
        calibration = learnt(prob[:300], masks[:300], head[:300])
        assert calibration.needs_head
        deaf = learnt(prob[:300], masks[:300])
        assert not deaf.needs_head
        new = prob[300:], masks[300:]
        gain = scores_under(calibration, *new, head[300:]) - scores_under(deaf, *new)
        assert gain.mean() > 3 * stats.sem(gain)
        predicted = (new[0] > calibration.thresholds(new[0], head[300:])[:, None, None]).any((1, 2))
        assert (predicted != empty[300:]).mean() > 0.9


@pytest.mark.parametrize("salted", [0, 6])
def test_tiles_that_are_all_alike_teach_what_they_can(salted):
    prob, masks, _ = drawn(6, seed=8, dim_empty=0.0)
    prob[:, :2, :2] = 0.97
    masks = np.broadcast_to(prob > 0.5, prob.shape) & (np.arange(6) < salted)[:, None, None]
    predicted = (prob > learnt(prob, masks).thresholds(prob)[:, None, None]).any((1, 2))
    assert predicted.all() if salted else not predicted.any()


def test_many_tiles_alike_hope_for_their_mean():
    """Ten maps, twenty times each: what such a map scores is the mean over its copies, in whatever order they come."""
    prob, _, _ = drawn(10, seed=10)
    prob = np.repeat(prob, 20, axis=0)
    cut = np.random.default_rng(0).random(200)
    masks = prob > (prob.max((1, 2)) * cut)[:, None, None]
    calibration = learnt(prob, masks)
    best, worth, _ = calibration.weigh(areas_above(prob, LEVELS))
    levels = np.array(calibration.levels)[best]
    scores = [slow_score(p > level, mask) for p, level, mask in zip(prob.astype(float), levels, masks, strict=True)]
    assert np.mean(worth) == pytest.approx(np.mean(scores), abs=0.02)
    again = np.random.default_rng(1).permutation(200)
    np.testing.assert_allclose(learnt(prob[again], masks[again]).actual, calibration.actual, atol=1e-9)


def test_a_map_that_shows_nothing_is_empty():
    calibration = learnt(*drawn(200, seed=9)[:2])
    assert np.isinf(calibration.thresholds(np.zeros((1, SIDE, SIDE), np.float16))).all()
    assert not expected_scores(areas_above(np.zeros((1, SIDE, SIDE)), LEVELS), calibration.salt).any()


GOOD = {"levels": [0.2, 0.5], "salt": [0.1, 0.4, 0.9], "expected": [0.1, 0.9], "actual": [0.1, 0.7], "empty": [0.0] * 4}


@pytest.mark.parametrize(
    "change",
    [
        {"levels": [0.5, 0.2]},
        {"levels": [0.0, 0.5]},
        {"salt": [0.1, 0.9]},
        {"salt": [0.1, 0.9, 0.4]},
        {"actual": [0.1]},
        {"expected": [], "actual": []},
        {"empty": [0.0] * 3},
        {"empty": [0.0, 0.0, 0.0, float("nan")]},
        {"empty": "text"},
        {"more": [1.0]},
    ],
)
def test_values_that_do_not_fit_together_are_refused(change):
    assert Calibration.of(GOOD).levels == (0.2, 0.5)
    with pytest.raises(ValueError, match=r"calibration|convert"):
        Calibration.of({**GOOD, **change})
