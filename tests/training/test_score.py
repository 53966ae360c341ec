"""The score as a fastai metric: equal to the exact one, averaged over tiles and not over batches."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kit.nets.heads import Outputs
from kit.scoring.metric import mean_average_precision
from kit.training import checkpoint
from kit.training import score as score_of
from kit.training.score import RunningScore, TileScore


def test_it_is_the_exact_score_whatever_the_batches():
    generator = np.random.default_rng(0)
    true = generator.random((23, 20, 20)) < generator.random((23, 1, 1))
    true[::4] = False
    logits = generator.normal(0, 1, true.shape) + 3 * true - 1
    logits[::8] = -5
    expected = mean_average_precision(logits > 0, true)
    for bs in (23, 10, 1):  # a last batch of 3 tiles must not count as much as one of 10
        metric = TileScore()
        metric.reset()
        for first in range(0, 23, bs):
            batch = slice(first, first + bs)
            pred, masks = torch.tensor(logits[batch]), torch.tensor(true[batch].astype(np.uint8))
            metric.accumulate(SimpleNamespace(pred=pred, yb=(masks,)))
        assert metric.value == pytest.approx(expected, abs=1e-12)


def test_of_several_outputs_the_mask_is_scored():
    true = np.zeros((2, 4, 4), np.uint8)
    true[0, :2] = 1
    logits = torch.tensor(true * 2.0 - 1)
    metric = TileScore()
    metric.reset()
    outputs = Outputs(logits, deep=(-logits,), empty=torch.zeros(2), nonempty=-logits)
    metric.accumulate(SimpleNamespace(pred=outputs, yb=(torch.tensor(true),)))
    assert metric.value == 1


def test_without_tiles_there_is_no_score():
    metric = TileScore()
    metric.reset()
    assert math.isnan(metric.value)


def test_score_and_accuracy_of_sums_are_those_of_all_tiles_at_once():
    generator = np.random.default_rng(1)
    true = generator.random((11, 9, 7)) < generator.random((11, 1, 1))
    true[:3] = False
    logits = generator.normal(0, 1, true.shape) + 2 * true - 1
    logits[:2] = -1
    batches = [
        (torch.tensor(logits[rows]), torch.tensor(true[rows].astype(np.uint8))) for rows in (slice(4), slice(4, 11))
    ]
    score, accuracy = score_of.means(sum((score_of.counts(*batch) for batch in batches), 0))
    assert score == pytest.approx(mean_average_precision(logits > 0, true), abs=1e-12)
    assert accuracy == pytest.approx(((logits > 0) == true).mean(), abs=1e-12)


def test_soft_labels_are_cut_at_one_half():
    soft, hard = torch.tensor([[[0.2, 0.5, 0.6, 1.0]]]), torch.tensor([[[0, 0, 1, 1]]])
    logits = torch.tensor([[[-1.0, -1.0, 1.0, -1.0]]])
    assert score_of.counts(logits, soft).tolist() == score_of.counts(logits, hard).tolist() == [1, 0, 4, 1]


def test_nothing_is_copied_from_the_device_in_a_step():
    """Tensors of torch's meta device have no values: whatever asked for one would raise."""
    pred, true = torch.zeros(4, 8, 8, device="meta"), torch.zeros(4, 8, 8, dtype=torch.uint8, device="meta")
    state = checkpoint.State()
    running = RunningScore(state)
    running.learn = SimpleNamespace(pred=pred, yb=(true,))
    running.after_batch()
    running.after_batch()
    assert state.counts.dtype == torch.int64
    with pytest.raises((RuntimeError, NotImplementedError)):
        score_of.means(state.counts)
