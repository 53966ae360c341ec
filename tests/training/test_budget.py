"""A time budget is what the first steps say that a training takes."""

import time
from types import SimpleNamespace

import pytest
import torch

from kit.errors import InputError
from kit.nets import losses
from kit.training import budget, learner
from kit.training.schedules import plan
from tests.small import easy_tiles, tiny_recipe

pytestmark = pytest.mark.slow

TILES = easy_tiles(32, 4)


def test_timing_the_first_steps_leaves_the_weights_alone():
    averages = [f"stages.{number}.ema=0.9" for number in range(3)]
    recipe = tiny_recipe("data.channels=grey+depth+y", *averages, "stages.2.average=false", "stages.0.normalise=true")
    learn = learner.make_learner(recipe, TILES, 0)
    before = {key: tensor.clone() for key, tensor in learn.model.state_dict().items()}
    assert budget.fit_to(recipe, learn, 60).epochs > 0
    after = learn.model.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


SNAPSHOTS = ("stages.2.average=false", "stages.2.ema=0.9", "stages.2.schedule=cosine", "stages.2.snapshots=2")


@pytest.mark.parametrize("allowed", [30, 100, 1000])
@pytest.mark.parametrize(
    ("settings", "last_step", "looks"), [((), 0.5, 8 * 2 + 8 * 2 + 24), (SNAPSHOTS, 0.6, 8 * 4 + 8 * 4)]
)
def test_a_time_budget_is_spent_and_not_passed(monkeypatch, settings, last_step, looks, allowed):
    """At 0.5 s a step, 0.6 s one with an average, 0.1 s a look at a tile, counted by hand; stages keep their shares.

    After the training: a look for each of best, averaged and the snapshots, two views out of fold of the weights that
    take longest, and one for the batch-norms over the training tiles where weights of epochs were averaged.
    """
    monkeypatch.setattr(budget, "_step_seconds", lambda learn, recipe, stage: 0.6 if stage.ema else 0.5)
    monkeypatch.setattr(budget, "_look_seconds", lambda learn: 0.1)
    monkeypatch.setattr(budget, "_save_seconds", lambda learn: 0.2)
    recipe, learn = tiny_recipe(*settings), learner.make_learner(tiny_recipe(), TILES, 0)
    fitted = budget.fit_to(recipe, learn, allowed)
    epochs = plan(fitted, 24)
    after = 0.1 * looks + 0.2
    steps = sum(epoch.steps * (last_step if epoch.stage == 2 else 0.5) for epoch in epochs)
    spent = steps + (0.1 * 8 + 0.2) * len(epochs) + after
    assert 0.8 * allowed < spent <= (1 - budget.RESERVE) * allowed
    shares = [stage.epochs / fitted.epochs for stage in fitted.stages]
    assert shares == pytest.approx([stage.epochs / recipe.epochs for stage in recipe.stages])
    with pytest.raises(InputError, match="too short"):
        budget.fit_to(recipe, learn, 5)


@pytest.mark.parametrize("turns", [1, 4])
def test_the_seconds_of_timing_are_seconds_of_the_budgets(monkeypatch, turns):
    """40 s of one fold's budget, or 10 s of each of four."""
    now = [100.0]

    def forty_seconds_later(learn) -> float:
        now[0] += 40
        return 0.0

    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(budget, "_step_seconds", lambda learn, recipe, stage: 0.5)
    monkeypatch.setattr(budget, "_look_seconds", lambda learn: 0.0)
    monkeypatch.setattr(budget, "_save_seconds", forty_seconds_later)
    recipe = tiny_recipe()
    fitted = budget.fit_to(recipe, learner.make_learner(recipe, TILES, 0), 100, turns)
    steps = sum(epoch.steps for epoch in plan(fitted, 24))
    assert steps == pytest.approx((100 * (1 - budget.RESERVE) - 40 / turns) / 0.5, abs=3)  # one a stage


def test_each_loss_is_timed_by_itself(monkeypatch, capsys):
    """Another loss sorts all pixels of a batch, which cross-entropy does not."""

    def slow(*args, **kwargs):
        time.sleep(0.2)
        return losses.bce(*args, **kwargs)

    monkeypatch.setitem(losses.LOSSES, "lovasz_elu", slow)
    recipe = tiny_recipe("data.size=32", "stages.1.loss=bce", "stages.1.bs=5", "stages.1.optimiser=adam")
    learn = learner.make_learner(recipe, TILES, 0)
    before = learn.loss_func
    seconds = {stage.loss: budget._step_seconds(learn, recipe, stage) for stage in recipe.stages}
    assert seconds["bce"] + 0.1 < seconds["lovasz_elu"]
    assert learn.loss_func is before
    budget.fit_to(recipe, learn, 60)
    told = capsys.readouterr().out
    assert "tiles with bce, " in told
    assert "tiles with lovasz_elu, so " in told
