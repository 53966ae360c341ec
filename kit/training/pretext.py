"""Self-supervised pretraining: a recipe's net learns to restore hidden blocks of tiles, for which it needs no labels.

After Context Encoders (Pathak et al., CVPR 2016, arXiv 1604.07379) and SimMIM (Xie et al., CVPR 2022, arXiv
2111.09886): the grey levels themselves are the target, and the loss is the absolute error on the hidden pixels alone.
The loop is that of every training (kit.training.learner.fit); only the tiles, the loss and the metric are others.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from fastai.learner import Learner, Metric
from torch import Tensor

from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.nets.losses import per_tile
from kit.recipe import Recipe
from kit.runs import Run, write_json
from kit.training import checkpoint, learner, masking, optimisers
from kit.training.augment import Augmenter
from kit.training.checkpoint import State
from kit.training.loaders import TileDataset, loaders_of

HELD_OUT = 0.05  # of the tiles tells what was learnt
FEWEST = 20  # tiles, of which one is held out
EXAMPLES = 6


class MaskedTiles(TileDataset):
    """Tiles with hidden blocks and what is missing: (H, W) uint8, (depth,) (H, W) float32.

    The target is the true grey level less the one that stands in its place, both in 0..1, and NaN where the tile is
    visible: a net begins at the mean of the visible pixels. Which blocks are hidden is a function of (seed, epoch,
    draw); an item i without an epoch has always the same ones.
    """

    def __init__(self, images: np.ndarray, depth: np.ndarray | None, seed: int, augmenter: Augmenter | None = None):
        super().__init__(images, images, augmenter, depth)  # the image in place of a mask: it is not looked at
        self.seed = seed

    def __getitem__(self, item: int | tuple[int, int]) -> tuple:
        image, *depth, _ = super().__getitem__(item)
        place = item if isinstance(item, tuple) else (item,)
        hidden = masking.hidden_blocks(image.shape, np.random.default_rng((self.seed, *place, 4)))
        covered = masking.cover(image, hidden)
        missing = (image.astype(np.float32) - covered) / 255
        return covered, *depth, np.where(hidden, missing, np.float32(np.nan))


@per_tile
def restoration(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error over the hidden pixels of each tile: those whose target is a number."""
    hidden = ~targets.isnan()
    errors = (logits - targets.nan_to_num()).abs() * hidden
    return errors.sum(1) / hidden.sum(1)


class Skill(Metric):
    """Which share of the error of the best trivial answer is gone: 1 for no error, 0 and less for nothing learnt.

    It stands in the history as "score", by which the best weights are chosen.
    """

    name = "score"

    def __init__(self, trivial: dict[str, float]):
        self.trivial = trivial

    def reset(self) -> None:
        self.losses: list[Tensor] = []

    def accumulate(self, learn) -> None:
        self.losses.append(restoration(learn.pred.detach(), learn.yb[0], reduction="none"))

    @property
    def value(self) -> float:
        if not self.losses:
            return math.nan
        return 1 - torch.cat(self.losses).double().mean().item() / min(self.trivial.values())


def trivial_errors(valid: MaskedTiles) -> dict[str, float]:
    """The error on hidden pixels, as `restoration` has it, of the visible pixels' mean and of OpenCV's inpainting."""
    errors: dict[str, list[float]] = {"mean": [], "inpainting": []}
    for i, image in enumerate(valid.images):
        covered, *_, target = valid[i]
        hidden = ~np.isnan(target)
        for name, answer in (("mean", covered), ("inpainting", masking.inpaint(image, hidden))):
            errors[name].append(np.abs(answer[hidden] - image[hidden].astype(float)).mean() / 255)
    return {name: float(np.mean(values)) for name, values in errors.items()}


def make_learner(recipe: Recipe, tiles: Tiles, num_workers: int | None = None) -> Learner:
    """A Learner that restores tiles of train and test, without the constant ones; 5 % of them are held out.

    No label is looked at, so validation tiles of any fold may be among them. recipe: as pretext_command.recipe_for
    gives it. Raises InputError for values that cannot be, and where there are too few tiles.
    """
    stage = recipe.stages[0]
    optimisers.check(stage, "stages.0")
    splits = ("train", "test")
    images = np.concatenate([tiles.images(split)[~tiles.constant(split)] for split in splits])
    depth = np.concatenate([tiles.relative_depth(split)[~tiles.constant(split)] for split in splits])
    rows = np.random.default_rng((recipe.seed, 5)).permutation(len(images))[: recipe.limit or None]
    n_valid = round(HELD_OUT * len(rows))
    if len(rows) < FEWEST:
        raise InputError(f"{len(rows)} tiles that are not constant are too few to pretrain on: give {FEWEST} or more")
    net = learner.make_net(recipe)
    held, shown = (
        MaskedTiles(images[part], depth[part] if net.needs_depth else None, recipe.seed, augmenter)
        for part, augmenter in (
            (rows[:n_valid], None),
            (rows[n_valid:], Augmenter(recipe.data.augment, recipe.seed)),
        )
    )
    loaders = loaders_of(shown, held, stage.bs, recipe.seed, learner.device(), num_workers)
    return learner.learner_of(loaders, net, stage, restoration, Skill(trivial_errors(held)))


class Restored(NamedTuple):
    """Held-out tiles, (n, H, W) uint8: as they are, as the net saw them, with the hidden pixels as it restored them."""

    original: np.ndarray
    covered: np.ndarray
    restored: np.ndarray


class Outcome(NamedTuple):
    """What a pretext run has come to; errors are mean absolute ones on hidden pixels of held-out tiles, in 0..1."""

    error: float
    trivial: dict[str, float]
    restored: Restored

    def in_words(self) -> str:
        trivial = ", ".join(f"{name} {error:.4f}" for name, error in self.trivial.items())
        return f"error of restored pixels on held-out tiles {self.error:.4f} ({trivial})" + (
            "" if self.error < min(self.trivial.values()) else ": nothing learnt beyond that, train longer"
        )


def train(run: Run, recipe: Recipe, learn: Learner, tensorboard: bool = False) -> Outcome | None:
    """Train, or go on, and write encoder.safetensors; None when Ctrl-C or SIGTERM stopped it."""
    state = learner.fit(learn, recipe, run.path, resume=True, tensorboard=tensorboard, loss=restoration)
    return None if state is None else _finish(run, recipe, learn, state)


def _finish(run: Run, recipe: Recipe, learn: Learner, state: State) -> Outcome:
    """Write the encoder of the epoch with the lowest error, last: by it a run is known to be finished."""
    best = max(state.rows, key=lambda row: row["score"])
    trivial = learn.metrics[0].trivial
    checkpoint.load_weights(run / "best.safetensors", learn.model)
    steps = sum(row["tiles"] for row in state.rows) // learn.dls.train.bs
    made: dict[str, Any] = {
        "net.encoder": recipe.net.encoder,
        "net.stem": recipe.net.stem,
        "data.channels": recipe.data.channels,
        "tiles": learn.dls.train.n,
        "steps": steps,
        "error": round(best["valid_loss"], 5),
        **{f"error_{name}": round(error, 5) for name, error in trivial.items()},
    }
    write_json(run / "pretext.json", made | {"epoch": best["epoch"], "seconds": round(state.seconds, 1)})
    said = {key: str(value) for key, value in made.items()}
    checkpoint.save_weights(run / "encoder.safetensors", learn.model.encoder_weights(), said)
    tidy(run)
    return Outcome(best["valid_loss"], trivial, _restored(learn))


def tidy(run: Run) -> None:
    """Delete what only an unfinished pretext run needs."""
    for name in ("best.safetensors", "resume.pt"):
        (run / name).unlink(missing_ok=True)


@torch.no_grad()
def _restored(learn: Learner) -> Restored:
    """The first held-out tiles."""
    valid = learn.dls.valid.dataset
    n = min(EXAMPLES, len(valid))
    *inputs, targets = learn.dls.valid.create_batch([valid[i] for i in range(n)])
    learn.model.eval()
    missing = learn.model(*(part.to(learn.dls.device) for part in inputs)).cpu().numpy()
    covered, hidden = np.asarray(inputs[0])[:, 0], ~np.isnan(np.asarray(targets))
    levels = np.rint(covered + 255 * missing).clip(0, 255).astype(np.uint8)
    return Restored(valid.images[:n], covered, np.where(hidden, levels, covered))
