"""Learning-rate schedules as pure functions of progress, and a recipe's stages as a list of epochs to run.

A schedule never remembers anything: the rate of a step follows from the step's number (and, for plateau, from the
scores so far), so a resumed training has the rates of an uninterrupted one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kit.errors import InputError
from kit.recipe import Recipe, Stage

WARM_UP, LR_START, LR_END = 0.25, 1 / 25, 1e-5  # fastai's fit_one_cycle
MOMENTUM = (0.95, 0.85, 0.95)


class Rate(NamedTuple):
    """Factor on the stage's learning rate, and the momentum (Adam's first beta)."""

    lr: float
    momentum: float


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def one_cycle(done: float) -> Rate:
    """Smith's one-cycle policy (arXiv 1803.09820) with cosine ends as in fastai; `done` runs from 0 to 1."""
    if done < WARM_UP:
        part = done / WARM_UP
        return Rate(_cosine(LR_START, 1, part), _cosine(MOMENTUM[0], MOMENTUM[1], part))
    part = (done - WARM_UP) / (1 - WARM_UP)
    return Rate(_cosine(1, LR_END, part), _cosine(MOMENTUM[1], MOMENTUM[2], part))


def constant(done: float) -> Rate:
    """The same rate throughout: what SWA averages over (arXiv 1803.05407, section 3.2)."""
    return Rate(1.0, 0.9)


def plateau(scores: Sequence[float], factor: float, patience: int, stop: int) -> tuple[float, bool]:
    """What the scores of a stage so far mean: the factor on its learning rate, and whether the stage ends."""
    multiplier, waited, since_best, best = 1.0, 0, 0, -math.inf
    for score in scores:
        if score > best:
            best, waited, since_best = score, 0, 0
            continue
        waited, since_best = waited + 1, since_best + 1
        if waited > patience:
            multiplier, waited = multiplier * factor, 0
    return multiplier, since_best >= stop


SCHEDULES = {"one-cycle": one_cycle, "constant": constant, "plateau": constant}


@dataclass(frozen=True)
class Epoch:
    """One epoch to run: its number in the training, its stage, and its steps within the stage."""

    number: int
    stage: int
    first_step: int  # of the stage's steps
    steps: int
    stage_steps: int


def plan(recipe: Recipe, n_tiles: int) -> list[Epoch]:
    """The epochs of a recipe on `n_tiles` training tiles; a stage's last one may be shorter than a full pass."""
    epochs: list[Epoch] = []
    for index, stage in enumerate(recipe.stages):
        _check(stage, index)
        bs = min(stage.bs, n_tiles)
        full = max(1, n_tiles // bs)
        total = max(1, round(stage.epochs * full))
        for first in range(0, total, full):
            epochs.append(Epoch(len(epochs), index, first, min(full, total - first), total))
    return epochs


def _check(stage: Stage, index: int) -> None:
    if stage.schedule not in SCHEDULES:
        raise InputError(f"stages.{index}.schedule {stage.schedule!r} is unknown; there are: {', '.join(SCHEDULES)}")
