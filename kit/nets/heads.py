"""What a net may say beside its mask, and the one loss of all that it says."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.nets.losses import Loss, has_salt, over_salt
from kit.recipe import Salt


class Outputs(NamedTuple):
    """The logits of a batch: of the mask, and of the extra heads that there are."""

    logits: Tensor  # (B, 1, S, S)
    deep: tuple[Tensor, ...] = ()  # the mask at the decoder's scales, coarse to fine, (B, 1, s, s)
    empty: Tensor | None = None  # (B,): the tile has no salt
    nonempty: Tensor | None = None  # (B, 1, S, S): the mask, learnt from tiles with salt only

    @property
    def further(self) -> bool:
        """Whether there is more than the mask's own logits."""
        return bool(self.deep) or self.empty is not None or self.nonempty is not None


class EmptyHead(nn.Module):
    """Maps (B, C, H, W) -> logits (B,) of "there is no salt in the tile"."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3))).squeeze(1)


class HeadLoss(Loss):
    """A Loss of the mask plus those of the extra heads, weighted by `weights` (deep, empty, nonempty).

    Called with a Tensor of logits (N, H, W) and targets (N, H, W) it is the Loss itself; with Outputs whose maps are
    all (N, H, W) it adds the mean of the Loss over the deep maps, the cross-entropy of the empty head, and the Loss of
    the non-empty map over tiles with salt (the fourth place of TGS, after Heng). With `deep_nonempty` the deep maps
    too learn from tiles with salt only (the ninth place). float32, reduced as a Loss.
    """

    def __init__(self, loss: Loss, weights: Salt):
        super().__init__(loss.terms, loss.reduction)
        self.weights = weights

    def __call__(self, pred: Tensor | Outputs, target: Tensor) -> Tensor:
        loss = super().__call__
        if isinstance(pred, Tensor):
            return loss(pred, target)
        total = loss(pred.logits, target)
        if pred.deep:
            of_scale = self._on_salt if self.weights.deep_nonempty else loss
            scales = torch.stack([of_scale(logits, target) for logits in pred.deep])
            total = total + self.weights.deep * scales.mean(0)
        if pred.empty is not None:
            total = total + self.weights.empty * self._emptiness(pred.empty, target)
        if pred.nonempty is not None:
            total = total + self.weights.nonempty * self._on_salt(pred.nonempty, target)
        return total

    def _on_salt(self, logits: Tensor, target: Tensor) -> Tensor:
        return over_salt(Loss(self.terms, "none")(logits, target), target, self.reduction)

    def _emptiness(self, logits: Tensor, target: Tensor) -> Tensor:
        # fastai's tensor types refuse to meet each other in one operation
        empty = ~has_salt(target)
        return F.binary_cross_entropy_with_logits(
            logits.as_subclass(Tensor).float(), empty.float(), reduction=self.reduction
        )
