"""A step whose batch goes through the net in parts, where the memory does not hold it at once."""

from collections.abc import Sequence
from contextlib import suppress

import torch
from fastai.callback.core import Callback, CancelBatchException
from torch import Tensor


class MicroBatches(Callback):
    """Takes a step in as few equal parts as have at most the stage's `micro_bs` tiles, and adds up their gradients.

    A part counts by its tiles, so for a loss that is a mean over tiles the step is that of the whole batch, but for
    rounding; a mean over the tiles with salt is one over those of each part. Batch-norms see a part at a time. All that
    looks at the batch after its step, such as losses and scores, finds it whole.
    """

    order = 9.5  # behind fastai's CastToTensor; before the loss scaling, and before anything that looks at gradients
    run_valid = False

    def before_batch(self) -> None:
        tiles, at_once = len(self.learn.yb[0]), self.learn.dls.train.stage.at_once
        self.number, self.count = 0, -(-tiles // at_once)
        if self.count == 1:
            return
        self.batch = self.learn.xb, self.learn.yb
        self.part_losses: list[Tensor] = []
        self.part_logits: list[Tensor] = []
        for number in range(self.count - 1):
            self._show(number)
            with suppress(CancelBatchException):  # from before_step
                self.learn._do_one_batch()  # fastai's own: prediction, loss and gradients, with what callbacks add
        self._show(self.count - 1)  # fastai is about to do the same with the last part, and then the step

    def _show(self, number: int) -> None:
        self.number = number
        self.learn.xb, self.learn.yb = (self.part_of(tensors) for tensors in self.batch)

    def part_of(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Of tensors with a row for each tile of a batch the rows that belong to the part under way."""
        return tuple(tensor.tensor_split(self.count)[self.number] for tensor in tensors)

    @property
    def share(self) -> float:
        """How much of the batch the part under way is."""
        return 1.0 if self.count == 1 else len(self.learn.yb[0]) / len(self.batch[1][0])

    def after_loss(self) -> None:
        if self.count == 1:
            return
        self.learn.loss_grad = self.learn.loss_grad * self.share
        self.part_losses.append(self.learn.loss.detach() * self.share)
        self.part_logits.append(getattr(self.learn.pred, "logits", self.learn.pred).detach())

    def before_step(self) -> None:
        if self.number < self.count - 1:
            raise CancelBatchException
        if self.count > 1:
            self.learn.xb, self.learn.yb = self.batch
            self.learn.loss, self.learn.pred = torch.stack(self.part_losses).sum(), torch.cat(self.part_logits)
