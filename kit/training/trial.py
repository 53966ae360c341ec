"""The first steps of a stage on trial: to time them, or to see whether they fit into the memory."""

import copy
from dataclasses import replace

import torch
from fastai.callback.core import Callback
from fastai.learner import Learner

from kit.errors import InputError
from kit.nets.heads import HeadLoss
from kit.recipe import Recipe, Stage
from kit.training import team
from kit.training.checkpoint import State
from kit.training.learner import begin_stage, device, loss_of
from kit.training.schedules import plan


def run(learn: Learner, recipe: Recipe, stage: Stage, watch: Callback) -> None:
    """Train a stage's first steps, with all that belongs to them, until `watch` ends the fit; then all is as before.

    That is weights and batch-norm statistics of both nets, no gradients, no optimiser, the loss scale, the loader's
    place and torch's random numbers, also where the steps raise. To be called before the training has begun.
    Raises InputError where other processes would have to take these steps too.
    """
    if team.size() > 1:
        raise InputError("steps are tried in one process: leave out --time-budget and --bs auto, or the launcher")
    nets = [net for net in (learn.model, learn.second) if net]
    # on the host: a device that is nearly full has no room for copies
    weights = [{name: tensor.to("cpu", copy=True) for name, tensor in net.state_dict().items()} for net in nets]
    loader, usual, loss_func = learn.dls.train, learn.dls.train.stage, learn.loss_func
    scaling = getattr(learn, "loss_scaling", None)
    scaler = scaling and copy.deepcopy(scaling.scaler)
    alone = replace(recipe, stages=(replace(stage, epochs=1.0, cycles=1),))
    loss = loss_of(recipe, stage) if isinstance(loss_func, HeadLoss) else loss_func  # targets that are no masks
    epochs = plan(alone, loader.dataset.n_tiles, loader.dataset.n_pseudo)
    gpus = [torch.cuda.current_device()] if device() == "cuda" else []
    try:
        with torch.random.fork_rng(devices=gpus), learn.no_bar(), learn.no_logging():
            learn.fit(1, cbs=[*begin_stage(learn, alone, 0, epochs, State(), loss), watch])
    finally:
        for net, before in zip(nets, weights, strict=True):
            net.load_state_dict(before)
            net.zero_grad(set_to_none=True)
        if scaling:
            scaling.scaler = scaler
        learn.opt, learn.loss_func, learn.loss_grad = None, loss_func, None
        learn._end_cleanup()  # fastai lets go of the last batch only where nothing was raised
        loader.serve(usual)
        loader.part, loader.epoch = None, -1
