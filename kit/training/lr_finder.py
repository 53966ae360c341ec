"""The learning-rate finder: fastai's mock training, in which the rate grows with each step, of a recipe's stage."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.callback.core import Callback
from fastai.learner import Learner
from tqdm import tqdm

from kit.recipe import Recipe
from kit.training import optimisers
from kit.training.checkpoint import State
from kit.training.learner import begin_stage
from kit.training.schedules import plan

STEPS, LOWEST, HIGHEST = 100, 1e-7, 10.0  # as fastai's


class Bar(Callback):
    """A bar on a terminal: a hundred steps of a large net on a CPU take minutes."""

    order = 80

    def before_fit(self) -> None:
        self.shown = tqdm(total=STEPS, desc="finding the learning rate", unit="step", disable=None, leave=False)

    def after_batch(self) -> None:
        self.shown.update()

    def after_fit(self) -> None:
        self.shown.close()


def curve(learn: Learner, recipe: Recipe) -> pd.DataFrame:
    """The smoothed loss at each rate of a range test (Smith, arXiv 1506.01186, section 3.3): lr, loss, suggested.

    One row is suggested: the middle, by rate, of the longest valley of the loss (fastai's `valley`). Loss, optimiser,
    frozen layers and the layers' ratio of rates are those of the recipe's first stage. The weights are as before in the
    end.
    """
    train = learn.dls.train.dataset
    epochs = plan(recipe, train.n_tiles, train.n_pseudo)
    first = epochs[0].stage
    begin_stage(learn, recipe, first, epochs, State(), learn.loss_func)
    # an array, for fastai takes no list; above 0, for the rates grow by a factor
    factors = np.maximum(optimisers.lr_factors(recipe, recipe.stages[first]), 1e-9)
    with tempfile.TemporaryDirectory() as folder, learn.no_bar(), learn.added_cbs(Bar()):
        learn.path = Path(folder)  # fastai keeps the weights there meanwhile
        found = learn.lr_find(LOWEST * factors, HIGHEST * factors, num_it=STEPS, show_plot=False).valley
    losses = [float(loss) for loss in learn.recorder.losses]
    table = pd.DataFrame({"lr": learn.recorder.lrs, "loss": losses})
    table["suggested"] = table.index == (table["lr"] - found).abs().idxmin()
    return table
