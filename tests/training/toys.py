"""Nets of three numbers that are trained as any other: what the tests of consistency share."""

import time
from dataclasses import replace
from types import SimpleNamespace

import torch
from fastai.callback.core import Callback
from torch import nn

from kit.recipe import Recipe, Stage
from kit.training import checkpoint, learner
from tests.small import easy_tiles, tiny_recipe

TILES = easy_tiles(32, 10)
TEACHER = Stage(bs=6, epochs=3, lr=0.1, schedule="constant", consistency="mean-teacher", ema=0.9, weight_decay=0)
PAIR = replace(TEACHER, consistency="co-training", ema=0.0)


class Toy(nn.Module):
    """Three numbers: how much a pixel's grey level counts, how much its difference to the tile's mean, and a bias.

    A batch-norm behind them, so that training and evaluation differ.
    """

    precision = None

    def __init__(self, level: float = 1.0, difference: float = 0.0, pause: float = 0.0):
        super().__init__()
        self.level, self.difference = nn.Parameter(torch.tensor(level)), nn.Parameter(torch.tensor(difference))
        self.norm, self.pause = nn.BatchNorm2d(1, affine=False, momentum=0.3), pause

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        time.sleep(self.pause)
        x = torch.as_tensor(tiles).as_subclass(torch.Tensor).float() / 50
        level = x - 2.5
        difference = x - x.mean((2, 3), keepdim=True)
        self.norm(x)  # statistics only
        brightness = self.norm.running_mean if not self.training else x.mean()
        return (self.level * level + self.difference * difference + 0.01 * brightness).squeeze(1)

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        return [[], [], list(self.parameters())]


def toys(*stages: Stage, tiles=TILES, net=Toy, **changes):
    """A recipe of these stages and its learner, with toys in the place of the nets."""
    recipe = replace(tiny_recipe(), stages=stages, **changes)
    learn = learner.make_learner(recipe, tiles, 0)
    learn.model = net()
    if learn.second is not None:
        learn.second = net(0.5, 0.5)
    return recipe, learn


def fit(folder, recipe: Recipe, learn, *callbacks: Callback):
    learn.add_cbs(callbacks)
    return learner.fit(learn, recipe, folder, resume=True)


def stub(kind, **learn):
    """A callback that acts in no training: its `losses` is looked at alone."""
    conductor = SimpleNamespace(state=checkpoint.State(), stage=TEACHER)
    made = kind(conductor, [], [])
    made.learn = SimpleNamespace(**learn)
    return made


VIEWS = tuple(torch.from_numpy(TILES.test_images[rows, None]) for rows in (slice(1, 4), slice(6, 9)))
