"""The score as a fastai metric: equal to the exact one, averaged over tiles and not over batches."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kit.nets.heads import Outputs
from kit.scoring.metric import mean_average_precision
from kit.training.callbacks import TileScore


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
