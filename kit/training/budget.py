"""A time budget: the first steps are timed, and the epochs of a recipe become what fits."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from fastai.callback.core import Callback, CancelFitException, CancelTrainException
from fastai.learner import Learner

from kit.errors import InputError
from kit.nets.tta import TTA
from kit.recipe import Recipe, Stage
from kit.training import checkpoint, trial
from kit.training.schedules import plan, tiles_drawn

RESERVE = 0.07  # of the budget: start-up, files, and a machine that is slower later than at first
WARM_UP, FEWEST, MOST = 2, 4, 12  # steps
ENOUGH = 5.0  # seconds, after which no more than the FEWEST are timed


def fit_to(recipe: Recipe, learn: Learner, budget: float, turns: int = 1) -> Recipe:
    """The recipe with its epochs scaled so that training one fold takes `budget` seconds on this machine.

    What the timing takes is taken from the budget, in equal parts from those of `turns` folds one after another.
    Raises InputError when not even one step a stage fits.
    """
    started = time.monotonic()
    train, n_valid = learn.dls.train.dataset, learn.dls.valid.n

    def drawn(stage: Stage) -> int:
        return tiles_drawn(stage, train.n_tiles, train.n_pseudo)

    def kind(stage: Stage) -> tuple:
        """Steps of one kind are taken to cost the same."""
        bs = min(stage.bs, drawn(stage))
        return bs, stage.loss, stage.consistency, stage.ema > 0, stage.freeze, stage.at_once

    step = {key: _step_seconds(learn, recipe, stage) for key, stage in
            {kind(stage): stage for stage in recipe.stages if drawn(stage)}.items()}  # fmt: skip
    look, save = _look_seconds(learn), _save_seconds(learn)
    snapshots = recipe.stages[-1].snapshots
    # after the training: the scores of best, averaged and the snapshots, and out-of-fold with the costliest
    passes = 2 + snapshots + len(TTA[recipe.tta]) * max(1, snapshots)

    def cost(epochs: float) -> float:
        scaled = recipe.scaled(epochs)
        todo = plan(scaled, train.n_tiles, train.n_pseudo)
        stages = [scaled.stages[epoch.stage] for epoch in todo]
        steps = sum(epoch.steps * step[kind(stage)] for epoch, stage in zip(todo, stages, strict=True))
        batch_norm = drawn(stages[-1]) * look if any(stage.average for stage in recipe.stages) else 0.0
        return steps + (len(todo) + 1) * save + (len(todo) + passes) * n_valid * look + batch_norm

    low, high = 0.0, 1.0
    spent = (time.monotonic() - started) / turns
    allowed = budget * (1 - RESERVE) - spent
    while cost(high) < allowed:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= allowed else (low, middle)
    if low == 0.0 or cost(low) > allowed:
        raise InputError(
            f"a time budget of {budget:.0f} s is too short: the fewest steps take {cost(1e-9) + spent:.0f} s here, "
            "give more"
        )
    steps = sum(epoch.steps for epoch in plan(recipe.scaled(low), train.n_tiles, train.n_pseudo))
    rates = ", ".join(
        f"{seconds:.3f} s a step of {bs} tiles with {loss}{'' if added == 'none' else f' and {added}'}"
        for (bs, loss, added, *_), seconds in step.items()
    )
    print(f"time budget: {rates}, so {steps:,} steps ({low:.2f} epochs)")
    return replace(recipe.scaled(low), time_budget=f"{budget:g}s a fold")


class Stopwatch(Callback):
    """Ends a fit after a few steps; `seconds` is what one took, those of the warm-up left out where there are more."""

    order = 100

    def before_train(self) -> None:
        self.steps, self.started = 0, time.monotonic()

    def after_batch(self) -> None:
        self.steps += 1
        timed = self.steps - WARM_UP
        if timed == 0:
            _wait(self.learn)
            self.warm = time.monotonic()
        elif timed >= MOST or (timed >= FEWEST and time.monotonic() - self.warm > ENOUGH):
            raise CancelTrainException

    def after_train(self) -> None:
        _wait(self.learn)
        timed = self.steps - WARM_UP
        since, count = (self.warm, timed) if timed > 0 else (self.started, self.steps)
        self.seconds = (time.monotonic() - since) / count
        raise CancelFitException


def _step_seconds(learn: Learner, recipe: Recipe, stage: Stage) -> float:
    """Seconds of one training step of a stage with all that belongs to it, measured; the learner is then as before."""
    watch = Stopwatch()
    trial.run(learn, recipe, stage, watch)
    return watch.seconds


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


def _save_seconds(learn: Learner) -> float:
    """Seconds that an epoch's files take: weights, optimiser (two of their size), average, best (or a snapshot).

    A second net's weights and optimiser come to these.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        checkpoint.save_weights(Path(folder) / "weights", learn.model.state_dict())
    return (8 if learn.second else 5) * (time.monotonic() - started)


def _wait(learn: Learner) -> None:
    """GPU work is queued: a clock means something only when it is done."""
    if torch.device(learn.dls.device).type == "cuda":
        torch.cuda.synchronize()
