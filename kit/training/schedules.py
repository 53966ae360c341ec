"""Learning-rate schedules as pure functions of where a stage stands, and a recipe's stages as a list of epochs to run.

A schedule never remembers anything: the rate of a step follows from the step's number (and, for plateau and an early
end, from the monitored values so far), so a resumed training has the rates of an uninterrupted one.
To add a schedule: one function, one line in SCHEDULES, and in USED_BY the keys that it reads.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kit.errors import InputError
from kit.recipe import Recipe, Stage

WARM_UP, LR_START, LR_END = 0.25, 1 / 25, 1e-5  # fastai's fit_one_cycle
MOMENTUM = (0.95, 0.85, 0.95)
POWER = 0.9  # of poly


class Position(NamedTuple):
    """Where a stage stands: `step` of the `steps` of its cycle, and its monitored values so far, higher is better."""

    step: int
    steps: int
    values: Sequence[float] = ()

    @property
    def done(self) -> float:
        return self.step / self.steps


class Rate(NamedTuple):
    """The decoder's learning rate, and the momentum (Adam's first beta) where the schedule moves it."""

    lr: float
    momentum: float | None = None


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def one_cycle(stage: Stage, now: Position) -> Rate:
    """Smith's one-cycle policy (arXiv 1803.09820) with cosine ends as in fastai."""
    if now.done < WARM_UP:
        part = now.done / WARM_UP
        return Rate(stage.lr * _cosine(LR_START, 1, part), _cosine(MOMENTUM[0], MOMENTUM[1], part))
    part = (now.done - WARM_UP) / (1 - WARM_UP)
    return Rate(stage.lr * _cosine(1, LR_END, part), _cosine(MOMENTUM[1], MOMENTUM[2], part))


def constant(stage: Stage, now: Position) -> Rate:
    """The same rate throughout: what SWA averages over (arXiv 1803.05407, section 3.2)."""
    return Rate(stage.lr)


def cosine(stage: Stage, now: Position) -> Rate:
    """From `lr` to `lr_min` along half a cosine in each cycle (SGDR, arXiv 1608.03983, eq. 5)."""
    return Rate(_cosine(stage.lr, stage.lr_min, now.done))


def triangular2(stage: Stage, now: Position) -> Rate:
    """Up from `lr_min` and down again in `steps` steps each, half as high every time (Smith, arXiv 1506.01186)."""
    cycle = now.step // (2 * stage.steps)
    height = 1 - abs(now.step / stage.steps - 2 * cycle - 1)
    return Rate(stage.lr_min + (stage.lr - stage.lr_min) * height / 2**cycle)


def poly(stage: Stage, now: Position) -> Rate:
    """From `lr` to `lr_min` with (1 - done)^0.9 in each cycle (DeepLab, arXiv 1606.00915, section 4.1)."""
    return Rate(stage.lr_min + (stage.lr - stage.lr_min) * (1 - now.done) ** POWER)


def noam(stage: Stage, now: Position) -> Rate:
    """Up to `lr` in a line for `steps` steps, then down with the root of the step (arXiv 1706.03762, eq. 3)."""
    step = now.step + 1
    return Rate(stage.lr * min(step / stage.steps, math.sqrt(stage.steps / step)))


def plateau(stage: Stage, now: Position) -> Rate:
    """`lr` times `factor` each time that `patience` epochs were no better, as Keras counts them (torch: one more)."""
    lowered, waited, best = 0, 0, -math.inf
    for value in now.values:
        waited = 0 if value > best else waited + 1
        best = max(best, value)
        if waited >= stage.patience:
            lowered, waited = lowered + 1, 0
    return Rate(max(stage.lr * stage.factor**lowered, stage.lr_min))


SCHEDULES: dict[str, Callable[[Stage, Position], Rate]] = {
    "one-cycle": one_cycle,
    "constant": constant,
    "cosine": cosine,
    "triangular2": triangular2,
    "poly": poly,
    "noam": noam,
    "plateau": plateau,
}
CYCLIC = ("cosine", "poly")
USED_BY = {
    "cycles": CYCLIC,
    "steps": ("triangular2", "noam"),
    "lr_min": (*CYCLIC, "triangular2", "plateau"),
    "factor": ("plateau",),
    "patience": ("plateau",),
}
MONITORS = {"score": "max", "valid_loss": "min", "train_loss": "min"}


def monitored(stage: Stage, rows: Iterable[Mapping[str, Any]]) -> list[float]:
    """The values that the stage monitors in its rows of the history, signed so that higher is better."""
    mode = MONITORS[stage.monitor] if stage.mode == "auto" else stage.mode
    return [row[stage.monitor] if mode == "max" else -row[stage.monitor] for row in rows]


def stalled(values: Sequence[float]) -> int:
    """For how many epochs no value has been better than all before it."""
    since_best, best = 0, -math.inf
    for value in values:
        since_best = 0 if value > best else since_best + 1
        best = max(best, value)
    return since_best


def needs_validation(stage: Stage) -> bool:
    """Whether the course of the stage follows from what its validation tiles say."""
    return stage.monitor != "train_loss" and (stage.stop > 0 or stage.schedule == "plateau")


@dataclass(frozen=True)
class Epoch:
    """One epoch to run: its number in the training, its stage, and its steps within the cycle of the stage."""

    number: int
    stage: int
    first_step: int  # of the cycle's steps
    steps: int
    cycle_steps: int  # those of the whole stage where it has one cycle

    @property
    def ends_cycle(self) -> bool:
        return self.first_step + self.steps == self.cycle_steps


def tiles_drawn(stage: Stage, n_tiles: int, n_pseudo: int) -> int:
    """How many tiles an epoch of the stage draws, of so many training tiles and pseudo-labelled ones."""
    if stage.pseudo == "only":
        return n_pseudo
    return n_tiles + (round(stage.pseudo_weight * n_tiles) if stage.pseudo == "mix" and n_pseudo else 0)


def plan(recipe: Recipe, n_tiles: int, n_pseudo: int = 0) -> list[Epoch]:
    """The epochs of a recipe on `n_tiles` training tiles; the last one of a cycle may be shorter than a full pass.

    A stage that trains on pseudo-labels only has no epochs where there are none.
    """
    epochs: list[Epoch] = []
    for index, stage in enumerate(recipe.stages):
        drawn = tiles_drawn(stage, n_tiles, n_pseudo)
        if not drawn:
            continue
        full = max(1, drawn // min(stage.bs, drawn))
        total = max(stage.cycles, round(stage.epochs * full))
        for cycle in range(stage.cycles):
            steps = total * (cycle + 1) // stage.cycles - total * cycle // stage.cycles
            for first in range(0, steps, full):
                epochs.append(Epoch(len(epochs), index, first, min(full, steps - first), steps))
    return epochs


def check(stage: Stage, where: str) -> None:
    """Raises InputError for values of the schedule's keys that cannot be; `where` is the stage's key, "stages.0"."""
    names = {"schedule": tuple(SCHEDULES), "monitor": tuple(MONITORS), "mode": ("auto", "max", "min")}
    for key, known in names.items():
        if getattr(stage, key) not in known:
            raise InputError(f"recipe key {where}.{key} {getattr(stage, key)!r} is unknown; use {', '.join(known)}")
    for key, users in USED_BY.items():
        if stage.schedule not in users and getattr(stage, key) != getattr(Stage(), key):
            raise InputError(
                f"recipe key {where}.{key} means nothing to schedule {stage.schedule}: "
                f"leave it out, or use {' or '.join(users)}"
            )
    needs = {
        "cycles": (stage.cycles >= 1, "1 or more"),
        "steps": (stage.steps >= 1 or stage.schedule not in USED_BY["steps"], f"above 0 for {stage.schedule}"),
        "lr_min": (0 <= stage.lr_min <= stage.lr, f"between 0 and the stage's lr of {stage.lr:g}"),
        "factor": (0 < stage.factor < 1, "between 0 and 1"),
        "patience": (stage.patience >= 1, "1 or more"),
        "stop": (stage.stop >= 0, "0 (never) or more"),
    }
    for key, (good, wanted) in needs.items():
        if not good:
            raise InputError(f"recipe key {where}.{key} must be {wanted}, not {getattr(stage, key)}")
