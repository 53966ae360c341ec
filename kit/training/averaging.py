"""Averages over a training: of its weights after each epoch (SWA) or step (EMA), and of its snapshots' predictions."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from fastai.callback.core import Callback
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kit.errors import InputError
from kit.recipe import Recipe, Stage
from kit.training.checkpoint import State
from kit.training.consistency import MEAN_TEACHER

SWA = "swa"
AGEING = 0.8  # the systems that weigh their snapshots by age do not say how fast the weights fall
SNAPSHOT_WEIGHTS = {"mean": 1.0, "exponential": AGEING}  # of a snapshot, relative to the next newer one


def kind(stage: Stage) -> str:
    """What the stage averages; stages in a row that average alike go on with one average, any other begins anew."""
    if stage.ema:
        return f"ema {stage.ema}"
    return SWA if stage.average else ""


class Averaging(Callback):
    """A running average of the weights in `state`, the batch-norms' statistics with them.

    SWA (Izmailov et al., arXiv 1803.05407): the mean over the ends of epochs. EMA: after each step the newest weights
    count 1 - decay; Adam's bias correction (arXiv 1412.6980, section 3) makes it a true average from the first step,
    so that a short training is not held back by its random beginning.
    State dicts are averaged, not modules: DynamicUnet's hooks hold activations that cannot be copied.
    """

    order = 60

    def __init__(self, state: State, stage: Stage):
        self.state, self.decay = state, stage.ema

    def after_batch(self) -> None:
        if self.training and self.decay:
            self._add((1 - self.decay) / (1 - self.decay ** (self.state.averaged_count + 1)))

    def after_epoch(self) -> None:
        if not self.decay:
            self._add(1 / (self.state.averaged_count + 1))

    def _add(self, rate: float) -> None:
        tensors = self.learn.model.state_dict()
        self.state.averaged_count += 1
        if self.state.averaged_count == 1:
            self.state.averaged = {name: tensor.clone() for name, tensor in tensors.items()}
        else:
            mix_in(self.state.averaged, tensors, rate)


def mix_in(averaged: dict[str, Tensor], tensors: dict[str, Tensor], rate: float) -> None:
    """averaged += rate * (tensors - averaged), in place; whole numbers, such as counts of batches, are taken over."""
    names = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([averaged[name] for name in names], [tensors[name] for name in names], rate)
    for name in tensors.keys() - names:
        averaged[name].copy_(tensors[name])


@torch.no_grad()
def recompute_batch_norm(net: nn.Module, batches: Iterable[Sequence[Tensor]]) -> None:
    """Give the batch-norms the mean statistics of one pass over batches of inputs, in training mode.

    A mean over epochs has other activations than any of the weights in it (arXiv 1803.05407, section 3.2). Nothing is
    passed where there are no batch-norms.
    """
    norms = {module: module.momentum for module in net.modules() if isinstance(module, _BatchNorm)}
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    net.train()
    for inputs in batches:
        net(*inputs)
    for norm, momentum in norms.items():
        norm.momentum = momentum


def snapshot_weights(count: int, how: str) -> list[float]:
    """Weights of `count` snapshots' predictions, the oldest first; they sum to 1."""
    weights = [SNAPSHOT_WEIGHTS[how] ** (count - 1 - number) for number in range(count)]
    return [weight / sum(weights) for weight in weights]


def check(stage: Stage, where: str) -> None:
    """Raises InputError for averages that cannot be; `where` is the stage's key, "stages.0"."""
    if not 0 <= stage.ema < 1:
        raise InputError(f"recipe key {where}.ema must be 0 (none) or a decay below 1, not {stage.ema}")
    if stage.ema and stage.average:
        raise InputError(f"recipe keys {where}.ema and {where}.average are two averages of one stage: choose one")
    if stage.snapshots < 0:
        raise InputError(f"recipe key {where}.snapshots must be 0 (none) or more, not {stage.snapshots}")


def check_kept(recipe: Recipe) -> None:
    """Raises InputError for averages and snapshots of a stage that the next one begins anew or does not keep."""
    stages = [(number, stage) for number, stage in enumerate(recipe.stages) if recipe.trains(stage)]
    for (number, stage), (after, following) in pairwise(stages):
        teaches = stage.consistency == MEAN_TEACHER  # which is worth an average by itself
        if kind(stage) not in ("", kind(following)) and not teaches:
            key = "ema" if stage.ema else "average"
        elif stage.snapshots and not following.snapshots:
            key = "snapshots"
        else:
            continue
        off, value = (str(each).lower() for each in (getattr(Stage(), key), getattr(stage, key)))
        raise InputError(
            f"recipe key stages.{number}.{key} comes to nothing, for stages.{after} does not go on with it: "
            f"give stages.{after}.{key}={value} too, or stages.{number}.{key}={off}"
        )


def check_snapshot_weights(how: str) -> None:
    """Raises InputError for an unknown name."""
    if how not in SNAPSHOT_WEIGHTS:
        raise InputError(f"recipe key snapshot_weights {how!r} is unknown; use {' or '.join(SNAPSHOT_WEIGHTS)}")
