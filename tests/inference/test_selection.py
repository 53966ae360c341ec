"""Weights of several runs: near the best that there are, blind to the tiles they are scored on, equal if in doubt."""

import itertools

import numpy as np
import pytest

from kit.inference.selection import ROUNDS, choose, select, shares

N = 200
FOLDS = np.arange(N) % 4
NOISE = np.random.default_rng(0).normal(0, 0.01, N)


def towards(target):
    """Scores that fall with the distance of the weights from `target`."""
    return lambda counts: 0.8 - ((shares(counts) - target) ** 2).sum() + NOISE


@pytest.mark.parametrize("target", [(1, 0, 0), (0.5, 0.3, 0.2), (1 / 3, 1 / 3, 1 / 3), (0.1, 0.1, 0.8)])
def test_the_selection_is_near_the_best_of_all_weights(target):
    score = towards(np.array(target))
    every = [counts for counts in itertools.product(range(ROUNDS + 1), repeat=3) if 0 < sum(counts) <= ROUNDS]
    best = max(score(counts).mean() for counts in every)
    found = select(score, 3, np.ones(N, bool))
    assert score(found).mean() > best - 0.01
    assert max(abs(shares(found) - target)) <= 1 / ROUNDS + 1e-9


def test_one_run_alone_is_kept_where_the_others_only_harm():
    assert select(towards(np.array((0, 1, 0))), 3, np.ones(N, bool)) == (0, 1, 0)


def test_what_a_fold_gets_does_not_depend_on_its_own_tiles():
    def score(counts, turned=None):
        values = towards(np.array((0.9, 0.1)))(counts)
        inside = turned == FOLDS
        return np.where(inside, towards(np.array((0.7, 0.3)))(counts), values)

    plain = choose(score, 2, FOLDS)
    assert plain.accepted
    for fold in range(4):
        turned = choose(lambda counts, fold=fold: score(counts, fold), 2, FOLDS)
        assert (turned.by_tile[fold == FOLDS] == plain.by_tile[fold == FOLDS]).all()


def test_weights_that_gain_are_kept_and_the_gain_is_the_nested_one():
    target = np.array((0.9, 0.1, 0))
    found = choose(towards(target), 3, FOLDS)
    assert found.accepted
    assert max(abs(found.weights - target)) <= 1 / ROUNDS + 1e-9
    np.testing.assert_allclose(found.by_tile.sum(1), 1)
    assert found.equal == pytest.approx(towards(target)((1, 1, 1)).mean())
    assert found.gain_low <= found.nested - found.equal <= found.gain_high


def test_runs_that_differ_by_noise_alone_keep_equal_weights():
    generator = np.random.default_rng(1)
    each = generator.normal(0.8, 0.1, (3, N))
    found = choose(lambda counts: shares(counts) @ each, 3, FOLDS)
    assert not found.accepted
    np.testing.assert_allclose(found.weights, 1 / 3)
    np.testing.assert_allclose(found.by_tile, 1 / 3)


def test_a_single_fold_is_cross_fitted():
    target = np.array((0.9, 0.1))
    found = choose(towards(target), 2, np.zeros(N, int))
    assert found.accepted
    assert found.nested == pytest.approx(towards(target)((9, 1)).mean(), abs=0.01)
