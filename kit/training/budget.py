"""A time budget: the first steps are timed, and the epochs of a recipe become what fits."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from fastai.learner import Learner

from kit.errors import InputError
from kit.nets.tta import TTA
from kit.recipe import Recipe, Stage
from kit.training import averaging, checkpoint
from kit.training.schedules import plan, tiles_drawn

RESERVE = 0.07  # of the budget: start-up, files, and a machine that is slower later than at first
WARM_UP, TIMED = 2, 4  # steps


def fit_to(recipe: Recipe, learn: Learner, budget: float) -> Recipe:
    """The recipe with its epochs scaled so that training one fold takes `budget` seconds on this machine.

    Raises InputError when not even one step a stage fits.
    """
    train, n_valid = learn.dls.train.dataset, learn.dls.valid.n

    def drawn(stage: Stage) -> int:
        return tiles_drawn(stage, train.n_tiles, train.n_pseudo)

    by_bs = {min(stage.bs, drawn(stage)): stage for stage in recipe.stages if drawn(stage)}
    step = {bs: _step_seconds(learn, stage) for bs, stage in by_bs.items()}
    look, save = _look_seconds(learn), _save_seconds(learn)
    mix = _mix_seconds(learn) if any(stage.ema for stage in recipe.stages) else 0.0
    snapshots = recipe.stages[-1].snapshots
    # after the training: the scores of last, best, averaged and the snapshots, and out-of-fold with the costliest
    passes = 3 + snapshots + len(TTA[recipe.tta]) * max(1, snapshots)

    def cost(epochs: float) -> float:
        scaled = recipe.scaled(epochs)
        todo = plan(scaled, train.n_tiles, train.n_pseudo)
        stages = [scaled.stages[epoch.stage] for epoch in todo]
        each = [step[min(stage.bs, drawn(stage))] + mix for stage in stages]
        steps = sum(epoch.steps * seconds for epoch, seconds in zip(todo, each, strict=True))
        batch_norm = drawn(stages[-1]) * look if any(stage.average for stage in recipe.stages) else 0.0
        return steps + (len(todo) + 1) * save + (len(todo) + passes) * n_valid * look + batch_norm

    low, high = 0.0, 1.0
    allowed = budget * (1 - RESERVE)
    while cost(high) < allowed:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= allowed else (low, middle)
    if low == 0.0 or cost(low) > allowed:
        raise InputError(
            f"a time budget of {budget:.0f} s is too short: the fewest steps take {cost(1e-9):.0f} s here, give more"
        )
    steps = sum(epoch.steps for epoch in plan(recipe.scaled(low), train.n_tiles, train.n_pseudo))
    rates = ", ".join(f"{seconds:.3f} s a step of {bs} tiles" for bs, seconds in step.items())
    print(f"time budget: {rates}, so {steps:,} steps ({low:.2f} epochs)")
    return replace(recipe.scaled(low), time_budget=f"{budget:g}s a fold")


def _step_seconds(learn: Learner, stage: Stage) -> float:
    """Seconds of one training step of a stage's batch, measured; the learner's weights are as before."""
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    loader, usual = learn.dls.train, learn.dls.train.stage
    loader.serve(stage)
    steps = min(WARM_UP + TIMED, loader.steps_per_epoch)
    loader.window(0, 0, steps)
    learn.model.train()
    if learn.opt is None:
        learn.create_opt()
    started = time.monotonic()
    for number, (*x, y) in enumerate(loader):
        if number == WARM_UP:
            _wait(learn)
            started = time.monotonic()
        learn.loss_func(learn.model(*x), y).backward()
        learn.opt.step()
        learn.opt.zero_grad()
    _wait(learn)
    spent = (time.monotonic() - started) / max(1, steps - WARM_UP)
    learn.model.load_state_dict(before)
    learn.opt = None
    loader.serve(usual)
    loader.part, loader.epoch = None, -1
    return spent


def _look_seconds(learn: Learner) -> float:
    """Seconds of looking at one tile without training."""
    *x, y = learn.dls.train.one_batch()
    learn.model.eval()
    with torch.no_grad():
        learn.model(*x)
        _wait(learn)
        started = time.monotonic()
        learn.model(*x)
        _wait(learn)
    learn.dls.train.epoch = -1
    return (time.monotonic() - started) / len(y)


def _mix_seconds(learn: Learner) -> float:
    """Seconds of one step of an average of the weights."""
    tensors = learn.model.state_dict()
    averaged = {name: tensor.clone() for name, tensor in tensors.items()}
    _wait(learn)
    started = time.monotonic()
    averaging.mix_in(averaged, tensors, 0.5)
    _wait(learn)
    return time.monotonic() - started


def _save_seconds(learn: Learner) -> float:
    """Seconds that an epoch's files take: weights, optimiser (two of their size), average, best (or a snapshot)."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        checkpoint.save_weights(Path(folder) / "weights", learn.model.state_dict())
    return 5 * (time.monotonic() - started)


def _wait(learn: Learner) -> None:
    """GPU work is queued: a clock means something only when it is done."""
    if torch.device(learn.dls.device).type == "cuda":
        torch.cuda.synchronize()
