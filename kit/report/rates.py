"""The learning rate of each step of a training, from its recipe and its history, and what happened at which."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from kit.recipe import Recipe, Stage
from kit.runs import Run
from kit.training.schedules import SCHEDULES, Epoch, Position, monitored, plan


def by_step(recipe: Recipe, history: pd.DataFrame) -> pd.DataFrame:
    """The rate of every step of the epochs in a fold's history: step (from 1), epoch, stage, lr."""
    rows: list[tuple[int, int, float]] = []
    for number in history["stage"].unique():
        stage, done = recipe.stages[number], history[history["stage"] == number].to_dict("records")
        steps = [max(1, int(row["tiles"]) // stage.bs) for row in done]
        for k, (epoch, row) in enumerate(zip(_epochs(recipe, stage, steps), done, strict=False)):
            values = monitored(stage, done[:k])
            for step in range(epoch.first_step, epoch.first_step + epoch.steps):
                rate = SCHEDULES[stage.schedule](stage, Position(step, epoch.cycle_steps, values))
                rows.append((int(row["epoch"]), int(number), rate.lr))
    table = pd.DataFrame(rows, columns=["epoch", "stage", "lr"])
    table.insert(0, "step", table.index + 1)
    return table


def _epochs(recipe: Recipe, stage: Stage, steps: Sequence[int]) -> list[Epoch]:
    """The plan of a stage by what its epochs took: the number of its tiles is not known, and not needed."""
    if stage.epochs < stage.cycles:  # each cycle is less than one pass
        return [Epoch(number, 0, 0, count, count) for number, count in enumerate(steps)]
    alone = replace(recipe, stages=(replace(stage, pseudo="none", bs=1),))
    return plan(alone, steps[0])  # the first epoch is a full pass


def events(run: Run, fold: int | None, recipe: Recipe, rates: pd.DataFrame) -> dict[str, list[tuple[float, float]]]:
    """The points (step, lr) at the ends of epochs whose weights a fold kept as a snapshot, or averaged (SWA)."""
    ends = rates.groupby("epoch").last()
    kept = ends.index.isin([int(path.stem) for path in run.weights(fold, "snapshots")])
    averaged = ends["stage"].map(lambda number: recipe.stages[number].average).astype(bool)
    found = {"snapshot kept": ends[kept], "weights averaged (SWA)": ends[averaged]}
    return {what: list(zip(own["step"], own["lr"], strict=True)) for what, own in found.items() if len(own)}


def in_words(number: int, stage: Stage) -> str:
    """A stage as the legend has it."""
    extras = [f"EMA {stage.ema:g}"] * bool(stage.ema) + ["encoder frozen"] * stage.freeze
    return ", ".join([f"stage {number + 1}: {stage.loss}, {stage.schedule}", *extras])
