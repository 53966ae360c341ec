"""How much of a batch goes through the net at once where a recipe leaves that open (`--bs auto`): real steps tell.

A GPU says that its memory is full, so there the whole batch is tried first, then its halves. A CPU says nothing before
the kernel ends the process, so there parts grow from the smallest for as long as the next is sure to fit.
"""

import gc
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import Learner

from kit import machine
from kit.errors import InputError
from kit.recipe import AUTO, Recipe, Stage
from kit.training import trial
from kit.training.learner import device

STEPS = 2  # the optimiser's state and the running average come with the first
SPARE = 0.05  # of a GPU's memory is kept free: later blocks may not fit into the gaps of earlier ones


def resolve(recipe: Recipe, learn: Learner) -> Recipe:
    """The recipe with a `micro_bs` in each stage that leaves it open; what was found is printed in one line.

    The learner, which must stand before its training, is as before, but takes its steps as the new recipe says.
    Raises InputError where not even the smallest part of a batch fits.
    """

    def kind(stage: Stage) -> tuple:
        """Stages of one kind are taken to need the same memory."""
        trains = recipe.trains(stage)
        return stage.bs, stage.optimiser, stage.normalise, stage.ema > 0, stage.freeze, stage.consistency, trains

    left_open = {kind(stage): stage for stage in recipe.stages if stage.micro_bs == AUTO}
    if not left_open:
        return recipe
    found = {key: _largest(learn, recipe, stage) for key, stage in left_open.items()}
    stages = tuple(
        replace(stage, micro_bs=found[kind(stage)]) if stage.micro_bs == AUTO else stage for stage in recipe.stages
    )
    learn.dls.train.serve(next(stage for stage in stages if recipe.trains(stage)))
    print("tiles through the net at once: " + ", ".join(
        f"{stage.at_once} of a batch of {stage.bs} in stage {number}" for number, stage in enumerate(stages, 1)
    ), flush=True)  # fmt: skip
    return replace(recipe, stages=stages)


def parts(bs: int) -> list[int]:
    """The sizes that are tried: a batch, its halves, and so on, the largest first.

    No part has less than two tiles, as the batch has them: one is too few for a batch-norm behind a pooled map.
    """
    counts = itertools.takewhile(lambda count: count == 1 or bs // count >= 2, (2**n for n in itertools.count()))
    return [-(-bs // count) for count in counts]


def _largest(learn: Learner, recipe: Recipe, stage: Stage) -> int:
    """The largest part of the stage's batches that fits; a stage that waits for pseudo-labels takes other tiles."""
    consistency = stage.consistency if recipe.trains(stage) else "none"  # else its loader may not be there
    tried = replace(stage, pseudo="none", consistency=consistency)
    sizes = parts(min(stage.bs, learn.dls.train.dataset.n_tiles))

    def fits(size: int) -> bool:
        return _fits(learn, recipe, replace(tried, micro_bs=size))

    found = (_shrinking if device() == "cuda" else _growing)(sizes, fits)
    if not found:
        raise InputError(
            f"not even {sizes[-1]} tiles fit into the memory at once: "
            "free it, or choose a smaller --set data.size=N or a lighter --arch"
        )
    return stage.bs if found == sizes[0] else found


def _shrinking(sizes: Sequence[int], fits: Callable[[int], bool]) -> int:
    """The first size that fits, 0 where none does."""
    return next((size for size in sizes if fits(size)), 0)


def _growing(sizes: Sequence[int], fits: Callable[[int], bool]) -> int:
    """The last size, from the smallest on, that needs no more memory than is free, 0 where none does.

    n times the tiles need at most n times the memory: less, as the weights stay the same. Where nothing says how much
    memory is free, it is the whole batch.
    """
    room, before = machine.free_memory(), machine.resident_memory()
    if room is None or before is None:
        return sizes[0]
    found, needed = 0, 0
    for size in reversed(sizes):
        if (found and needed * size > room * found) or not fits(size):
            break
        found, needed = size, (machine.peak_memory() or 0) - before
    return found


def _fits(learn: Learner, recipe: Recipe, stage: Stage) -> bool:
    """Whether steps of the stage can be taken; all their memory is free again."""
    done = _run(learn, recipe, stage)
    gc.collect()
    torch.cuda.empty_cache()
    return done


def _run(learn: Learner, recipe: Recipe, stage: Stage) -> bool:
    try:
        _spare = _keep_free()  # held during the steps
        trial.run(learn, recipe, stage, FewSteps())
    except torch.OutOfMemoryError:
        return False
    return True


def _keep_free() -> torch.Tensor | None:
    """The part of a GPU's memory that steps may not take."""
    if device() != "cuda":
        return None
    return torch.empty(int(SPARE * torch.cuda.mem_get_info()[1]), dtype=torch.uint8, device="cuda")


class FewSteps(Callback):
    """Ends a fit after STEPS steps."""

    order = 100
    run_valid = False

    def before_train(self) -> None:
        self.left = STEPS

    def after_batch(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise CancelFitException
