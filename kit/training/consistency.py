"""Losses on unlabelled tiles in one training: a mean teacher, or two nets that teach each other.

Both are callbacks that add to the loss of each step; their weight rises as ramp_up says. What they need for a resume is
in the State: the teacher is the running average that the stage keeps anyway, the second net's weights lie beside it.
"""

import copy
import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.torch_core import norm_types
from torch import Tensor, nn
from torch.func import functional_call

from kit.errors import InputError
from kit.nets.heads import Outputs
from kit.nets.losses import bce
from kit.recipe import Recipe, Stage
from kit.training import team
from kit.training.callbacks import Conductor
from kit.training.loaders import TileLoader
from kit.training.schedules import Epoch
from kit.training.unlabelled import CO_TRAINING

MEAN_TEACHER = "mean-teacher"
MODES = ("none", MEAN_TEACHER, CO_TRAINING)


def used(recipe: Recipe) -> set[str]:
    """The kinds of consistency that stages of the recipe train with."""
    return {stage.consistency for stage in recipe.stages if recipe.trains(stage)} - {"none"}


def ramp_up(done: float, ramp: float) -> float:
    """Factor on the weight where a share `done` of the stage is behind: exp(-5 (1 - done / ramp)^2), 1 from `ramp` on.

    Laine & Aila, arXiv 1610.02242, section 2.1; so that noise is not what the net learns to agree on.
    """
    return math.exp(-5 * (1 - done / ramp) ** 2) if done < ramp else 1.0


class Consistency(Callback):
    """Adds to each step's loss what `losses` makes of the step's batches, one from each of `loaders`.

    epochs: those of the whole stage. The mean of the consistency loss is a column of the history; the loss there stays
    that of the labelled tiles.
    """

    order = -5  # the Conductor has said where the step is; MicroBatches weighs the sum, by the part that it is of
    run_valid = False

    def __init__(self, conductor: Conductor, epochs: Sequence[Epoch], loaders: Sequence[TileLoader]):
        self.conductor, self.epochs, self.loaders = conductor, epochs, loaders
        self.state, self.stage = conductor.state, conductor.stage

    def before_epoch(self) -> None:
        now = self.conductor.now
        for loader in self.loaders:
            loader.serve(self.stage)
            loader.bs = self.learn.dls.train.bs  # fewer than the stage's where there are fewer labelled tiles
            loader.window(now.number, self.state.step, now.steps)
        self.batches = [iter(loader) for loader in self.loaders]
        self.steps_before = sum(epoch.steps for epoch in self.epochs if epoch.number < now.number)

    @property
    def weight(self) -> float:
        """That of the step under way."""
        done = (self.steps_before + self.state.step) / sum(epoch.steps for epoch in self.epochs)
        return self.stage.consistency_weight * ramp_up(done, self.stage.consistency_ramp)

    def before_batch(self) -> None:
        with torch.random.fork_rng(devices=[]):  # a loader's start draws one of the numbers that belong to the step
            self.batch = [next(batch) for batch in self.batches]
        self.agreement = torch.zeros((), device=self.learn.dls.device)

    def after_loss(self) -> None:
        step = self.learn.micro_batches
        agreement, further = self.losses(*map(step.part_of, self.batch))
        self.learn.loss_grad = self.learn.loss_grad + self.weight * agreement + further
        self.agreement += agreement.detach() * step.share

    def after_batch(self) -> None:
        self.state.consistency_sum = self.state.consistency_sum + team.total(self.agreement)

    def losses(self, *batches: Sequence[Tensor]) -> tuple[Tensor, Tensor | float]:
        """The consistency loss, which is weighted, and a further one, which is not; of a step or of a part of one."""
        raise NotImplementedError


class MeanTeacher(Consistency):
    """The stage's running average of the weights teaches the net (Tarvainen & Valpola, arXiv 1703.01780, section 2).

    Mean squared difference of the probabilities per pixel, between the teacher on a tile as it is and the net on the
    same tile strongly changed. The teacher predicts as it would be used: in evaluation mode.
    """

    def losses(self, *batches: Sequence[Tensor]) -> tuple[Tensor, float]:
        ((weak, strong, *depth),) = batches
        net = self.learn.model
        weights = self.state.averaged or net.state_dict()  # before the first step nothing is averaged
        target = predict(net, weights, weak, *depth)
        return F.mse_loss(_logits(net(strong, *depth)).sigmoid(), target), 0.0


class CoTraining(Consistency):
    """A second net, trained beside the first, and each learns the other's masks (co-training, Qiao et al., CVPR 2018).

    The masks of one net, cut at 0.5, are targets of the other's cross-entropy, in both directions (cross pseudo
    supervision, Chen et al., arXiv 2106.01226, eq. 2). The nets stay different by their random weights, by their own
    order and augmentation of the labelled tiles (Qiao et al., algorithm 1) and by their own strong view of the others.
    """

    def before_train(self) -> None:
        self.learn.second.train()

    def losses(self, *batches: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        (*inputs, masks), (one_view, other_view, *depth) = batches
        one, other = self.learn.model, self.learn.second
        labelled = self.learn.loss_func(other(*inputs), masks)
        ours, theirs = _logits(one(one_view, *depth)), _logits(other(other_view, *depth))
        return bce(ours, theirs > 0) + bce(theirs, ours > 0), labelled


def _logits(pred: Tensor | Outputs) -> Tensor:
    return pred if isinstance(pred, Tensor) else pred.logits


@torch.no_grad()
def predict(net: nn.Module, weights: dict[str, Tensor], *inputs: Tensor) -> Tensor:
    """Probabilities (B, H, W) of the net in evaluation mode with other weights; it is in training mode again after."""
    net.eval()
    prob = functional_call(net, weights, inputs).sigmoid()
    net.train()
    return prob


def second_seed(seed: int) -> int:
    """The seed of co-training's second net: its random weights, its order, its augmentation."""
    return int(np.random.SeedSequence((seed, 7)).generate_state(1)[0])


def create_optimiser(learn: Learner, second: nn.Module | None) -> None:
    """The learner's optimiser; in co-training of both nets, the layers of one depth in one group."""
    nets = [learn.model, second] if second else [learn.model]
    by_depth = zip(*(net.parameter_groups() for net in nets), strict=True)
    groups = [list(chain(*each)) for each in by_depth]
    learn.splitter = lambda _: groups
    learn.create_opt()
    kinds = (*norm_types, nn.SyncBatchNorm)
    norms: list[nn.Module] = [module for net in nets for module in net.modules() if isinstance(module, kinds)]
    for p in (p for norm in norms for p in norm.parameters()):
        learn.opt.state[p]["force_train"] = True  # in a frozen encoder too; create_opt says so of usual ones of one net


def callback(learn: Learner, conductor: Conductor, epochs: Sequence[Epoch]) -> Consistency | None:
    """What adds to the loss in the conductor's stage, of which `epochs` are all; None where nothing does."""
    if conductor.stage.consistency == MEAN_TEACHER:
        return MeanTeacher(conductor, epochs, [learn.dls[2]])
    if conductor.stage.consistency == CO_TRAINING:
        labelled = _reseeded(learn.dls.train, second_seed(conductor.recipe.seed))
        return CoTraining(conductor, epochs, [labelled, learn.dls[2]])
    return None


def _reseeded(loader: TileLoader, seed: int) -> TileLoader:
    """The same training tiles drawn and augmented as with another seed."""
    dataset = copy.copy(loader.dataset)
    dataset.augmenter = copy.copy(dataset.augmenter)
    dataset.augmenter.seed = seed
    workers, pin = loader.fake_l.num_workers, loader.pin_memory
    return TileLoader(
        dataset, loader.bs, seed, loader.sampling,
        shuffle=True, num_workers=workers, pin_memory=pin, device=loader.device,
    )  # fmt: skip


def check(stage: Stage, where: str) -> None:
    """Raises InputError for values of the stage's consistency keys that cannot be; `where` is its key, "stages.0"."""
    if stage.consistency not in MODES:
        raise InputError(f"recipe key {where}.consistency {stage.consistency!r} is unknown; use {', '.join(MODES)}")
    for key in ("consistency_weight", "consistency_ramp"):
        if stage.consistency == "none" and getattr(stage, key) != getattr(Stage(), key):
            raise InputError(f"recipe key {where}.{key} means nothing without {where}.consistency")
    if not 0 < stage.consistency_weight < math.inf:
        raise InputError(f"recipe key {where}.consistency_weight must be above 0, not {stage.consistency_weight}")
    if not 0 <= stage.consistency_ramp <= 1:
        raise InputError(
            f"recipe key {where}.consistency_ramp must be between 0 and 1, a share of the stage's steps, "
            f"not {stage.consistency_ramp}"
        )
    if stage.consistency == MEAN_TEACHER and not stage.ema:
        raise InputError(
            f"{where}.consistency={MEAN_TEACHER} needs a teacher: add --set {where}.ema=0.99, "
            "the decay of the average of the net's weights"
        )
