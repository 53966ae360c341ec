"""A recipe becomes a fastai Learner, and a Learner is trained through the recipe's stages."""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import fastai.callback.progress
import fastai.callback.schedule
import fastai.vision.data  # noqa: F401  these three patch lr_find, fit_one_cycle, no_bar, show_results into Learner
import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner, Metric
from tqdm import tqdm

from kit.data import folds as folding
from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.machine import cpus
from kit.nets import losses, model
from kit.nets.allocator import keep_freed_memory
from kit.nets.heads import HeadLoss
from kit.nets.tta import check_tta
from kit.recipe import Recipe, Stage
from kit.training import (
    averaging,
    checkpoint,
    consistency,
    micro_batches,
    optimisers,
    pseudo,
    schedules,
    team,
    unlabelled,
)
from kit.training.averaging import Averaging
from kit.training.callbacks import (
    Conductor,
    Journal,
    LossScaling,
    Progress,
    StopRequest,
    TensorBoard,
)
from kit.training.checkpoint import State
from kit.training.loaders import make_loaders
from kit.training.recorder import DeviceRecorder
from kit.training.schedules import Epoch, plan
from kit.training.score import RunningScore, TileScore

LossFunction: TypeAlias = Callable[[Any, torch.Tensor], torch.Tensor]  # predictions and targets -> scalar


def device() -> str:
    """The device that trainings and predictions use."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def settle() -> None:
    """On a CPU, use the cores that this process may use, and keep what steps free from now on.

    Called when the net is there, whose making frees much for good. torch itself looks at the machine's cores, and not
    at a container's share of them; what the user asks for by OMP_NUM_THREADS stays.
    """
    if device() == "cpu":
        if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > cpus():
            torch.set_num_threads(cpus())
        keep_freed_memory()


def make_folds(recipe: Recipe, tiles: Tiles, placement: pd.DataFrame | None = None) -> pd.DataFrame:
    """The recipe's folds as a DataFrame(id, fold); with `limit` only so many random tiles, of each fold alike."""
    table = folding.make(tiles, recipe.data.folds, recipe.data.folds_by, recipe.seed, placement)
    if recipe.limit:
        if recipe.limit < 2 * recipe.data.folds:
            raise InputError(
                f"limit {recipe.limit} is too small for {recipe.data.folds} folds: give at least two a fold"
            )
        table = table.sample(frac=1, random_state=recipe.seed)
        turns = table.groupby("fold").cumcount().sort_values(kind="stable").index
        table = table.loc[turns[: recipe.limit]].sort_index()
    return table.reset_index(drop=True)


def make_net(recipe: Recipe) -> model.TileNet:
    """The recipe's net on the device. Its random weights follow from the recipe's seed."""
    if recipe.net.pretrained and not recipe.net.weights:
        print(f"weights of {recipe.net.encoder}: from the hub or its cache", file=sys.stderr)
    torch.manual_seed(recipe.seed)
    net = model.build(
        encoder=recipe.net.encoder,
        decoder=recipe.net.decoder,
        stem=recipe.net.stem,
        size=recipe.data.size,
        resize=recipe.data.resize,
        fit=recipe.data.fit,
        channels=recipe.data.channels,
        pretrained=recipe.net.pretrained,
        weights=recipe.net.weights or None,
        options=recipe.salt,
        precision=recipe.precision,
    )
    return team.synchronised(net.to(device()))


def make_learner(
    recipe: Recipe,
    tiles: Tiles,
    fold: int | None,
    folds: pd.DataFrame | None = None,
    num_workers: int | None = None,
) -> Learner:
    """A fastai Learner for one fold of a recipe; fold None trains on every tile and validates on none.

    lr_find, fit_one_cycle, show_results and any fastai callback work on it; `fit` below trains it as the recipe says.
    Where a stage asks for consistency, a third loader, dls[2], has the unlabelled tiles, and for co-training the
    learner's `second` is the other net; else that is None.
    Raises InputError for unknown names in the recipe and for a fold that is not there.
    """
    table = make_folds(recipe, tiles) if folds is None else folds
    if fold is not None and not (table["fold"] == fold).any():
        raise InputError(f"there is no fold {fold}: choose one of 0 to {int(table['fold'].max())}")
    rows = pd.Index(tiles.train_ids).get_indexer(table["id"])
    if (rows < 0).any():
        raise InputError(
            f"id {table['id'][int(np.argmin(rows))]} of the folds is not among the training tiles of the data"
        )
    if recipe.data.drop_constant:
        kept = (table["fold"] == fold).to_numpy() | ~tiles.constant("train")[rows]
        table, rows = table[kept], rows[kept]
    _check(recipe, fold)
    labels = _labels(recipe, tiles, fold, table["id"][table["fold"] == fold].tolist()) if recipe.pseudo_run else None
    net = make_net(recipe)
    first = next(stage for stage in recipe.stages if recipe.trains(stage))
    loaders = make_loaders(
        np.asarray(tiles.train_images[rows]),
        np.asarray(tiles.masks[rows]),
        (table["fold"] == fold).to_numpy() if fold is not None else np.zeros(len(table), bool),
        augment=recipe.data.augment,
        seed=recipe.seed,
        bs=first.bs,
        device=device(),
        num_workers=num_workers,
        depth=tiles.relative_depth("train")[rows] if net.needs_depth else None,
        sampling=recipe.data.sampling,
        labels=labels,
    )
    micro_batches.check(recipe, net, loaders.train.dataset)
    kinds = consistency.used(recipe)
    if kinds:
        loaders.loaders.append(unlabelled.make_loader(recipe, tiles, device(), net.needs_depth, num_workers))
    learn = learner_of(loaders, net, first, loss_of(recipe, first), TileScore())
    if consistency.CO_TRAINING in kinds:
        learn.second = make_net(replace(recipe, seed=consistency.second_seed(recipe.seed)))
    return learn


def learner_of(loaders: DataLoaders, net: model.TileNet, first: Stage, loss: LossFunction, metric: Metric) -> Learner:
    """A fastai Learner that stands before its first stage, without a second net."""
    loaders.train.serve(first)
    settle()
    learn = Learner(
        loaders,
        net,
        loss_func=loss,
        opt_func=partial(optimisers.make, stage=first),
        splitter=lambda net: net.parameter_groups(),
        lr=first.lr,
        metrics=metric,
        cbs=[micro_batches.MicroBatches(), *([LossScaling(device())] if net.precision is torch.float16 else [])],
    )
    learn.remove_cb(learn.recorder)
    learn.add_cb(DeviceRecorder())
    learn.second = None
    return learn


def _check(recipe: Recipe, fold: int | None) -> None:
    """Names and values that would otherwise be looked at only after hours of training."""
    check_tta(recipe.tta)
    averaging.check_snapshot_weights(recipe.snapshot_weights)
    averaging.check_kept(recipe)
    for number, stage in enumerate(recipe.stages):
        losses.mix(stage.loss)
        for room in (optimisers, schedules, averaging, pseudo, consistency):
            room.check(stage, f"stages.{number}")
        if fold is None and schedules.needs_validation(stage):
            raise InputError(
                f"stages.{number} watches {stage.monitor}, and a training on every tile has none to validate on: "
                f"add --set stages.{number}.monitor=train_loss"
            )


def _labels(recipe: Recipe, tiles: Tiles, fold: int | None, valid_ids: list[str]) -> pseudo.Labels:
    """The pseudo-labels of the fold. Soft ones are refused where a loss would cut all of them at 0.5."""
    labels = pseudo.load(recipe, tiles, fold, valid_ids)
    for number, stage in enumerate(recipe.stages):
        names = {name for _, name in losses.mix(stage.loss).terms}
        if labels.soft and stage.pseudo != "none" and names.isdisjoint(losses.SOFT):
            raise InputError(
                f"the labels of {recipe.pseudo_run} are soft, and stages.{number}.loss {stage.loss} reads masks only: "
                f"label without --soft, or add one of {', '.join(losses.SOFT)} to the loss"
            )
    return labels


def loss_of(recipe: Recipe, stage: Stage) -> HeadLoss:
    """What a stage minimises where the targets are masks."""
    return HeadLoss(losses.mix(stage.loss), recipe.salt)


def begin_stage(
    learn: Learner,
    recipe: Recipe,
    number: int,
    epochs: list[Epoch],
    state: State,
    loss: LossFunction,
    saved: dict | None = None,
) -> list[Callback]:
    """Set the loss and, where the stage needs others, its optimiser and averages; give back the optimiser's state.

    epochs: the plan of the whole training. Returns what gives each step of the stage its tiles, rates, losses and
    averages, the Conductor first.
    Another loss means a new optimiser: Adam remembers a thousand steps of the old gradients' size, and Lovasz after BCE
    would begin with steps several times as long as its learning rate allows.
    """
    stage = recipe.stages[number]
    learn.loss_func = loss
    second = learn.second if stage.consistency == consistency.CO_TRAINING else None
    frozen = stage.freeze and optimisers.is_pretrained(recipe)
    wanted = f"{stage.optimiser} {stage.weight_decay} {stage.normalise} {stage.loss} {'frozen' if frozen else 'all'}"
    wanted += " two nets" if second else ""
    if learn.opt is None or state.optimiser != wanted:
        learn.opt_func = partial(optimisers.make, stage=stage)
        consistency.create_optimiser(learn, second)
        learn.opt.freeze_to(-1 if frozen else 0)
    if saved and state.optimiser == wanted:
        learn.opt.opt.load_state_dict(saved)
    state.optimiser = wanted
    # what is averaged belongs to the stages up to the last one: nothing older than a stage without any
    if state.averaging != averaging.kind(stage):
        state.averaging, state.averaged, state.averaged_count = averaging.kind(stage), {}, 0
    own = [epoch for epoch in epochs if epoch.stage == number]
    ahead = [epoch for epoch in own if epoch.number >= state.epoch]
    conductor = Conductor(recipe, ahead, state, optimisers.lr_factors(recipe, stage))
    average = Averaging(state, stage) if state.averaging else None
    parts = (conductor, consistency.callback(learn, conductor, own), average)
    return [part for part in parts if part]


def fit(
    learn: Learner,
    recipe: Recipe,
    folder: Path,
    resume: bool,
    tensorboard: bool = False,
    loss: LossFunction | None = None,
) -> State | None:
    """Train through all stages, keeping best.safetensors, snapshots/, history.csv and resume.pt in `folder`.

    loss: instead of those that the stages name, where the targets are no masks.
    Returns the final state, or None when Ctrl-C or SIGTERM stopped it (resume.pt is saved then).
    Raises InputError when the loss stops being a number.
    """
    state, saved = State(), None
    scaling = getattr(learn, "loss_scaling", None)
    if resume and (folder / "resume.pt").exists():
        state, saved = checkpoint.load_resume(folder / "resume.pt", device())
        checkpoint.fill(learn.model, saved["net"], folder / "resume.pt")
        if learn.second:
            checkpoint.fill(learn.second, state.second, folder / "resume.pt")
        if scaling and saved["scaler"]:
            scaling.scaler.load_state_dict(saved["scaler"])
    if learn.second:
        state.second = learn.second.state_dict()
    train = learn.dls.train.dataset
    epochs = plan(recipe, train.n_tiles, train.n_pseudo)
    stop = StopRequest()
    progress = Progress(state, epochs, recipe)
    shared: list[Callback] = [progress, TensorBoard(state, folder)] if tensorboard else [progress]
    if isinstance(learn.metrics[0], TileScore):
        shared.append(RunningScore(state))
    with stop.listening(), closing(progress.bar), learn.no_bar(), learn.no_logging():
        for number, stage in enumerate(recipe.stages):
            if stage.pseudo != "none" and not train.n_pseudo:
                what = "trains on the training tiles alone" if recipe.trains(stage) else "is skipped"
                tqdm.write(f"stage {number + 1} {what}: no run is named for pseudo-labels (--set pseudo_run=RUN)")
            ahead = [epoch for epoch in epochs if epoch.stage == number and epoch.number >= state.epoch]
            if not ahead:
                continue
            optimiser = saved and saved["optimiser_state"]
            parts = begin_stage(learn, recipe, number, epochs, state, loss or loss_of(recipe, stage), optimiser)
            saved = None
            journal = Journal(state, folder, stop, parts[0], scaling)
            try:
                learn.fit(len(ahead), cbs=[*parts, journal, *shared])
            except InputError as error:  # fastai puts the callback's name before what a callback raises
                raise InputError(str(error).rpartition(":\n\t")[2]) from None
            except RuntimeError:
                if not stop.asked:  # a SIGTERM to the whole group also ends the loader's processes
                    raise
                return None
            if stop.agreed():
                return None
            state.epoch, state.step = ahead[-1].number + 1, 0
    return state


# the hub's retries fill a screen; the one line that matters comes from kit.nets.encoders
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
