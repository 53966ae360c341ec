"""The threshold search on predictions whose right answer is known, and its statistics against formulas."""

import numpy as np
import pytest
from scipy import ndimage, stats

from kit.errors import InputError
from kit.scoring.decision import SIZES, Decision
from kit.scoring.threshold import THRESHOLDS, tune

SIDE = 32


def smooth_fields(rng: np.random.Generator, n: int, width: float) -> np.ndarray:
    fields = ndimage.gaussian_filter(rng.standard_normal((n, SIDE, SIDE)), (0, width, width))
    return fields / fields.std(axis=(1, 2), keepdims=True)


def predictions(n: int, cut: float, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (float16) and masks where, but for smooth noise, a pixel is salt exactly where prob > cut."""
    rng = np.random.default_rng(seed)
    field = smooth_fields(rng, n, 5) + rng.normal(0, 0.7, (n, 1, 1))
    logits = 2 * field + noise * smooth_fields(rng, n, 3) + np.log(cut / (1 - cut))
    return (1 / (1 + np.exp(-logits))).astype(np.float16), field > 0


def slow_score(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The competition's score of each tile, from its text; no IoU of these sizes is hit or missed by rounding alone."""
    scores = []
    for p, t in zip(pred, true, strict=True):
        union = (p | t).sum()
        iou = (p & t).sum() / union if union else 1.0
        scores.append(np.mean([iou > k / 100 + 1e-9 for k in range(50, 100, 5)]))
    return np.array(scores)


FIVE = np.arange(300) % 5
ONE = np.full(300, 3)


class TestPlantedShift:
    @pytest.mark.parametrize("folds", [FIVE, ONE], ids=["five folds", "one fold"])
    @pytest.mark.parametrize("cut", [0.2, 0.35, 0.65, 0.8])
    def test_is_found_and_accepted(self, cut, folds):
        tuning = tune(*predictions(300, cut), folds)
        assert tuning.decision.accepted
        assert tuning.decision.threshold == pytest.approx(cut, abs=0.02)
        assert tuning.decision.gain_low > 0
        assert len(tuning.by_fold) == 5
        assert all(abs(threshold - cut) <= 0.0201 for threshold, _ in tuning.by_fold.values())

    @pytest.mark.slow
    def test_is_found_through_noise_as_well_as_a_large_sample_knows_it(self):
        prob, true = predictions(4000, 0.35, noise=0.4, seed=1)
        grid = np.arange(0.2, 0.5, 0.02)
        truth = grid[np.argmax([slow_score(prob > np.float64(t), true).mean() for t in grid])]
        assert tune(*predictions(600, 0.35, noise=0.4, seed=2), np.arange(600) % 5).decision.threshold == pytest.approx(
            truth, abs=0.0201
        )

    def test_right_predictions_are_left_alone(self):
        tuning = tune(*predictions(300, 0.5, noise=0.4), FIVE)
        decision = tuning.decision
        assert not decision.accepted
        assert (decision.threshold, decision.min_component) == (0.5, 0)
        assert decision.gain_low <= 0
        assert decision.score == pytest.approx(decision.baseline, abs=0.02)

    def test_predictions_of_two_values_are_left_alone(self):
        _, true = predictions(100, 0.5)
        tuning = tune(true.astype(np.float32), true, np.arange(100) % 5)
        assert tuning.decision == Decision(0.5, 0, (), 1.0, 1.0, 0.0, 0.0, False)
        assert tuning.candidate == (0.5, 0)


class TestComponents:
    def speckled(self) -> tuple[np.ndarray, np.ndarray]:
        """Right predictions with three squares of 9 pixels of false salt on each tile."""
        prob, true = predictions(200, 0.5)
        rng = np.random.default_rng(3)
        for tile, mask in zip(prob, true, strict=True):
            free = np.argwhere(~ndimage.binary_dilation(mask, iterations=5))
            for row, col in rng.permutation(free[(free > 0).all(1) & (free < SIDE - 1).all(1)])[:3]:
                tile[row - 1 : row + 2, col - 1 : col + 2] = 0.95
        return prob, true

    def test_planted_speckles_get_a_component_size_that_removes_them(self):
        prob, true = self.speckled()
        decision = tune(prob, true, np.arange(200) % 5).decision
        assert decision.accepted
        assert decision.min_component > 9
        assert decision.threshold == pytest.approx(0.5, abs=0.02)
        cleaned = slow_score(decision.masks(prob), true)
        assert cleaned.mean() - slow_score(prob > 0.5, true).mean() > 0.03

    def test_the_speckles_do_hurt(self):
        prob, true = self.speckled()
        assert slow_score(prob > 0.5, true).mean() < slow_score(predictions(200, 0.5)[0] > 0.5, true).mean() - 0.03


class TestNesting:
    def test_the_score_is_that_of_each_folds_own_choice(self):
        prob, true = predictions(300, 0.4, noise=1.0)
        tuning = tune(prob, true, FIVE)
        nested = np.empty(300)
        for fold, (threshold, size) in tuning.by_fold.items():
            masks = Decision(threshold, size).masks(prob[fold == FIVE])
            nested[fold == FIVE] = slow_score(masks, true[fold == FIVE])
        assert tuning.decision.score == pytest.approx(nested.mean(), abs=1e-12)

    def test_no_folds_choice_depends_on_its_own_tiles(self):
        prob, true = predictions(300, 0.4, noise=1.0)
        other = predictions(300, 0.8, seed=9)[0]
        changed = np.where((FIVE == 2)[:, None, None], other, prob)
        assert tune(changed, true, FIVE).by_fold[2] == tune(prob, true, FIVE).by_fold[2]

    @pytest.mark.slow
    def test_the_score_is_not_optimistic_on_noise(self):
        """Predictions of other tiles: every choice is luck. What each choice is worth is known from 2,000 tiles."""
        prob, true = predictions(2000, 0.5, noise=1.0, seed=4)
        prob = np.roll(prob, 1, axis=0)[:, 8:20, 8:20]
        true = true[:, 8:20, 8:20]
        table = {}
        optimism, naive = [], []
        rng = np.random.default_rng(5)
        for _ in range(40):
            tiles = rng.permutation(2000)[:40]
            folds = np.arange(40) % 5
            tuning = tune(prob[tiles], true[tiles], folds)
            for choice in {*tuning.by_fold.values(), tuning.candidate} - set(table):
                table[choice] = slow_score(Decision(*choice).masks(prob), true).mean()
            worth = np.mean([table[choice] for choice in tuning.by_fold.values()])
            optimism.append(tuning.decision.score - worth)
            on_its_own_tiles = slow_score(Decision(*tuning.candidate).masks(prob[tiles]), true[tiles]).mean()
            naive.append(on_its_own_tiles - table[tuning.candidate])
        assert np.mean(optimism) < 2 * stats.sem(optimism)
        # the same test does catch the score of the tiles that were searched
        assert np.mean(naive) > 2 * stats.sem(naive)


class TestBootstrap:
    def test_interval_is_the_normal_one_where_that_holds(self):
        prob, true = predictions(600, 0.4, noise=1.0)
        folds = np.arange(600) % 5
        tuning = tune(prob, true, folds)
        choices = np.array([tuning.by_fold[fold] for fold in folds])
        nested = np.empty(600)
        for threshold, size in set(tuning.by_fold.values()):
            mine = (choices == (threshold, size)).all(1)
            nested[mine] = slow_score(Decision(threshold, size).masks(prob[mine]), true[mine])
        gain = nested - slow_score(prob > 0.5, true)
        low, high = gain.mean() + np.array([-1, 1]) * stats.norm.ppf(0.975) * stats.sem(gain)
        assert tuning.decision.gain_low == pytest.approx(low, abs=0.1 * (high - low))
        assert tuning.decision.gain_high == pytest.approx(high, abs=0.1 * (high - low))

    def test_band_is_that_of_the_paired_difference(self):
        prob, true = predictions(200, 0.4, noise=1.0)
        tuning = tune(prob, true, np.arange(200) % 5)
        half = slow_score(prob > 0.5, true)
        for index in (0, 15, 40):
            decision = Decision(float(tuning.thresholds[index]), tuning.candidate[1])
            scores = slow_score(decision.masks(prob), true)
            assert tuning.curve[index] == pytest.approx(scores.mean(), abs=1e-12)
            assert tuning.band[index] == pytest.approx(1.96 * stats.sem(scores - half), abs=1e-12)
        assert tuning.baseline == pytest.approx(half.mean(), abs=1e-12)


def test_same_seed_same_decision():
    prob, true = predictions(60, 0.4, noise=1.0)
    first, second = (tune(prob, true, np.zeros(60, int), seed=7) for _ in range(2))
    assert first.decision == second.decision
    assert first.by_fold == second.by_fold


def test_constant_tiles_count_as_empty_from_the_start():
    prob, true = predictions(300, 0.35)
    constant = np.arange(300) % 10 == 0
    true[constant] = False
    tuning = tune(prob, true, FIVE, constant)
    assert tuning.decision.rules == ("constant-empty",)
    emptied = np.where(constant[:, None, None], 0, prob)
    assert tuning.decision.baseline == pytest.approx(slow_score(emptied > 0.5, true).mean(), abs=1e-12)
    assert tuning.decision.threshold == pytest.approx(0.35, abs=0.02)
    assert not tuning.decision.masks(prob, constant)[constant].any()


def test_too_few_tiles_are_refused():
    prob, true = predictions(4, 0.5)
    with pytest.raises(InputError, match="4 tiles are too few"):
        tune(prob, true, np.arange(4))


def test_the_grids_hold_the_default():
    assert 0.5 in THRESHOLDS
    assert SIZES[0] == 0
