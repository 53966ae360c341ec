"""The competition's score of masks while they are trained on: of the validation tiles, and running over an epoch's own.

Both are sums of whole numbers that stay on the device until the epoch ends: nothing waits for the device in a step,
and a sum that a resume goes on with is the same to the bit.
"""

import math
from functools import cache

import torch
from fastai.callback.core import Callback
from fastai.learner import Metric
from torch import Tensor

from kit.data.competition import TGS
from kit.training.checkpoint import State


class TileScore(Metric):
    """The competition's score at threshold 0.5 as a fastai metric: mean over tiles, not over batches.

    Predictions are logits (B, H, W), alone or as those of heads.Outputs.
    """

    name = "score"

    def reset(self) -> None:
        self.counts: Tensor | int = 0

    def accumulate(self, learn) -> None:
        self.counts = self.counts + counts(learn.pred, learn.yb[0])

    @property
    def value(self) -> float:
        return means(self.counts)[0]


class RunningScore(Callback):
    """Score and pixel accuracy of an epoch's training batches, each as the net was before the step that it made.

    Tiles are counted as they were trained on: augmented, and a pseudo-labelled one against its label.
    """

    order = 65  # before the Journal, which writes them down
    run_valid = False

    def __init__(self, state: State):
        self.state = state

    def after_batch(self) -> None:
        self.state.counts = self.state.counts + counts(self.learn.pred, self.learn.yb[0])


def figures(train: Tensor | int, valid: Tensor | int) -> dict[str, float]:
    """The columns of history.csv that two sums of `counts` make; the validation score itself is one already."""
    (train_score, train_accuracy), (_, valid_accuracy) = means(train), means(valid)
    return {"train_score": train_score, "train_accuracy": train_accuracy, "valid_accuracy": valid_accuracy}


def counts(pred, true: Tensor) -> Tensor:
    """Tiles, thresholds of IoU that they exceed, pixels, and wrong ones: int64 (4,) on the tensors' device.

    pred: logits (B, H, W), alone or as those of heads.Outputs; true (B, H, W): masks of 0 and 1, or soft labels. The
    comparison is that of kit.scoring.metric, on integers.
    """
    logits = getattr(pred, "logits", pred).detach().as_subclass(Tensor)
    salt, true = logits > 0, true.as_subclass(Tensor) > 0.5
    both, either = (salt & true).sum((1, 2)), (salt | true).sum((1, 2))
    hits = ((20 * both[:, None] > _twentieths(both.device) * either[:, None]) | (either == 0)[:, None]).sum(1)
    of_tile = [torch.ones_like(both), hits, torch.full_like(both, true[0].numel()), either - both]
    return torch.stack(of_tile).sum(1)


def means(sums: Tensor | int) -> tuple[float, float]:
    """Score and pixel accuracy of a sum of `counts`; NaN where nothing was counted. Waits for the device."""
    if isinstance(sums, int):
        return math.nan, math.nan
    tiles, hits, pixels, wrong = sums.tolist()
    return hits / (tiles * len(TGS.iou_thresholds)), 1 - wrong / pixels


@cache
def _twentieths(device: torch.device) -> Tensor:
    """The thresholds of the score, copied to a device once."""
    return torch.tensor([round(20 * threshold) for threshold in TGS.iou_thresholds], device=device)
