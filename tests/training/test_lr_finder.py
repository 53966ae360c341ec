"""The learning-rate finder: fastai's range test with the recipe's own stage, after which nothing has changed."""

import os

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback

from kit.training import learner, lr_finder
from tests.small import easy_tiles, tiny_recipe

pytestmark = pytest.mark.slow

TILES = easy_tiles(32, 4)


class Rates(Callback):
    """The rate of every group of layers in each step."""

    order = 90

    def __init__(self):
        self.seen = []

    def after_step(self) -> None:
        self.seen.append([hyper["lr"] for hyper in self.learn.opt.hypers])


def test_the_loss_is_that_of_rates_that_grow_evenly_and_the_weights_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lr_finder, "STEPS", 32)
    recipe = tiny_recipe()
    learn = learner.make_learner(recipe, TILES, 0)
    before = {key: tensor.clone() for key, tensor in learn.model.state_dict().items()}
    curve = lr_finder.curve(learn, recipe)
    assert all(torch.equal(tensor, before[key]) for key, tensor in learn.model.state_dict().items())
    assert os.listdir(tmp_path) == []
    expected = 1e-7 * 10 ** (8 * np.arange(len(curve)) / 32)
    np.testing.assert_allclose(curve["lr"], expected, rtol=1e-6)
    assert curve["suggested"].sum() == 1
    assert len(curve) > 16  # it may end where the loss goes up for good


def test_layers_keep_the_ratio_of_their_rates(monkeypatch):
    recipe = tiny_recipe("stages.0.encoder_lr=0.01")
    monkeypatch.setattr(lr_finder, "STEPS", 20)
    monkeypatch.setattr("kit.training.optimisers.is_pretrained", lambda recipe: True)
    learn, rates = learner.make_learner(recipe, TILES, 0), Rates()
    learn.add_cb(rates)
    lr_finder.curve(learn, recipe)
    own = np.array(rates.seen)
    np.testing.assert_allclose(own / own[:, -1:], np.tile([0.01, 0.1, 1], (len(own), 1)), rtol=1e-9)
