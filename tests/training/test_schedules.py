"""Schedules are functions of progress; the plan gives every stage its steps."""

import numpy as np
import pytest
from fastai.callback.schedule import combined_cos

from kit import recipe
from kit.training.schedules import one_cycle, plan, plateau


def test_one_cycle_is_fastais():
    lr, momentum = combined_cos(0.25, 1 / 25, 1, 1e-5), combined_cos(0.25, 0.95, 0.85, 0.95)
    for done in np.linspace(0, 0.999, 50):
        assert one_cycle(done).lr == pytest.approx(float(lr(done)), abs=1e-7)
        assert one_cycle(done).momentum == pytest.approx(float(momentum(done)), abs=1e-7)


def test_plateau_follows_torchs_scheduler():
    """factor and patience mean what they mean in torch.optim.lr_scheduler.ReduceLROnPlateau (mode max, threshold 0)."""
    import torch

    scores = list(np.random.default_rng(0).random(60).round(2))
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, mode="max", factor=0.5, patience=3, threshold=0, threshold_mode="abs", eps=0
    )
    for number in range(1, len(scores) + 1):
        reference.step(scores[number - 1])
        assert plateau(scores[:number], 0.5, 3, 100)[0] == pytest.approx(optimiser.param_groups[0]["lr"])


def test_plateau_stops_after_so_many_epochs_without_a_better_score():
    assert not plateau([], 0.5, 2, 3)[1]
    assert not plateau([0.5, 0.4, 0.4], 0.5, 2, 3)[1]
    assert plateau([0.5, 0.4, 0.4, 0.5], 0.5, 2, 3)[1]
    assert not plateau([0.5, 0.4, 0.4, 0.6], 0.5, 2, 3)[1]


@pytest.mark.parametrize("epochs", [0.01, 1, 2.5, 43, 100])
def test_the_plan_has_the_steps_of_the_stages(epochs):
    scaled, n_tiles = recipe.load("baseline").scaled(epochs), 1000
    todo = plan(scaled, n_tiles)
    full = n_tiles // 16
    assert [epoch.number for epoch in todo] == list(range(len(todo)))
    for number, stage in enumerate(scaled.stages):
        own = [epoch for epoch in todo if epoch.stage == number]
        steps = max(1, round(stage.epochs * full))
        assert sum(epoch.steps for epoch in own) == steps == own[0].stage_steps
        assert [epoch.first_step for epoch in own] == list(range(0, steps, full))
        assert all(0 < epoch.steps <= full for epoch in own)


def test_fewer_tiles_than_a_batch_still_make_a_step():
    assert all(epoch.steps == 1 for epoch in plan(recipe.load("baseline"), 3))
