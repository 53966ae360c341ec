"""A step whose batch goes through the net in parts: where memory does not hold it at once, or on several GPUs."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from fastai.callback.core import Callback, CancelBatchException
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from kit.errors import InputError
from kit.nets.model import TileNet
from kit.nets.tta import mean_probability
from kit.recipe import Recipe
from kit.training import schedules, team
from kit.training.loaders import TileDataset


def count_of(tiles: int, at_once: int) -> int:
    """In how many parts so many tiles of a batch go through the net: as many in every process, for a synchronised
    batch-norm waits for all of them.
    """
    largest, smallest = -(-tiles // team.size()), tiles // team.size()
    return min(-(-largest // at_once), smallest)


def check(recipe: Recipe, net: TileNet, data: TileDataset) -> None:
    """Raises InputError for batches too small for the processes, or with too small parts for the net."""
    for number, stage in enumerate(recipe.stages):
        if not recipe.trains(stage):
            continue
        tiles = min(stage.bs, schedules.tiles_drawn(stage, data.n_tiles, data.n_pseudo))
        own = tiles // team.size()
        if not own:
            raise InputError(
                f"a batch of {tiles} tiles is too small for {team.size()} processes: raise --bs, or start fewer"
            )
        together = team.size() if torch.cuda.is_available() else 1  # whose tiles a batch-norm sees
        if together * (own // count_of(tiles, stage.at_once)) == 1 and needs_two(net, data.images[:1]):
            raise InputError(
                f"one tile at a time, of a batch of {tiles} in stage {number + 1}, gives a batch-norm of this net a "
                f"single value, and nothing to normalise: raise stages.{number}.{'bs' if own == 1 else 'micro_bs'}"
            )


@torch.no_grad()
def needs_two(net: TileNet, tile: np.ndarray) -> bool:
    """Whether a batch-norm of the net stands behind a map of one pixel, for a tile (1, H, W) uint8."""
    seen: list[int] = []
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 0].numel())) for norm in norms]
    mean_probability([(1.0, net.eval())], tile, "none", np.zeros(1, np.float32))
    for hook in hooks:
        hook.remove()
    return 1 in seen


class MicroBatches(Callback):
    """Takes a step in as few equal parts as have at most the stage's `micro_bs` tiles, and adds up their gradients.

    Of processes that take steps together (kit.training.team) each has a share of the batch, validation's too, and the
    parts are of that.

    A part counts by its tiles, so for a loss that is a mean over tiles the step is that of the whole batch, but for
    rounding; a mean over the tiles with salt is one over those of each part. Batch-norms see a part at a time. All that
    looks at the batch after its step, such as losses and scores, finds it whole.
    """

    order = 9.5  # behind fastai's CastToTensor; before the loss scaling, and before anything that looks at gradients

    def before_batch(self) -> None:
        self.number, self.count, self.in_parts = 0, 1, False
        if not self.training and team.size() == 1:  # perhaps a batch without targets
            return
        tiles = len(self.learn.yb[0])
        if self.training:
            self.count = count_of(tiles, self.learn.dls.train.stage.at_once)
        self.in_parts = self.count > 1 or len(team.part_of(self.learn.yb[0])) < tiles
        if not self.in_parts:
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
        return tuple(team.part_of(tensor).tensor_split(self.count)[self.number] for tensor in tensors)

    @property
    def share(self) -> float:
        """How much of the batch the part under way is."""
        return len(self.learn.yb[0]) / len(self.batch[1][0]) if self.in_parts else 1.0

    def after_loss(self) -> None:
        if not self.in_parts:
            return
        self.learn.loss_grad = self.learn.loss_grad * self.share
        self.part_losses.append(self.learn.loss.detach() * self.share)
        self.part_logits.append(getattr(self.learn.pred, "logits", self.learn.pred).detach())
        if not self.training:
            self._put_together()

    def before_step(self) -> None:
        if self.number < self.count - 1:
            raise CancelBatchException
        if self.in_parts:
            team.join([net for net in (self.learn.model, self.learn.second) if net])
            self._put_together()

    def _put_together(self) -> None:
        self.learn.xb, self.learn.yb = self.batch
        self.learn.loss = team.total(torch.stack(self.part_losses).sum())
        self.learn.pred = team.whole(torch.cat(self.part_logits), len(self.learn.yb[0]))
