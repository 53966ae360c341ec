"""Schedules are functions of where a stage stands; the plan gives every stage and cycle its steps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastai.callback.schedule import combined_cos

from kit import recipe
from kit.errors import InputError
from kit.recipe import Stage
from kit.training import schedules
from kit.training.schedules import SCHEDULES, Position, monitored, plan, stalled

LR = 0.3


def rates(n, **keys):
    stage = Stage(lr=LR, **keys)
    schedules.check(stage, "stages.0")
    return [SCHEDULES[stage.schedule](stage, Position(step, n)).lr for step in range(n)]


def torchs(make, steps):
    """The rates of one of torch's schedulers."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler, found = make(optimiser), []
    for _ in range(steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return found


def test_one_cycle_is_fastais():
    lr, momentum = combined_cos(0.25, 1 / 25, 1, 1e-5), combined_cos(0.25, 0.95, 0.85, 0.95)
    for step in range(50):
        rate = SCHEDULES["one-cycle"](Stage(lr=LR), Position(step, 50))
        assert rate.lr == pytest.approx(LR * float(lr(step / 50)), abs=1e-7)
        assert rate.momentum == pytest.approx(float(momentum(step / 50)), abs=1e-7)


def test_cosine_is_torchs_annealing():
    expected = torchs(lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=40, eta_min=0.01), 40)
    assert rates(40, schedule="cosine", lr_min=0.01) == pytest.approx(expected)


def test_triangular2_is_torchs_cyclic_rate():
    def cyclic(optimiser):
        return torch.optim.lr_scheduler.CyclicLR(
            optimiser, base_lr=0.1, max_lr=LR, step_size_up=7, mode="triangular2", cycle_momentum=False
        )

    assert rates(50, schedule="triangular2", lr_min=0.1, steps=7) == pytest.approx(torchs(cyclic, 50))


def test_poly_is_torchs_polynomial():
    def polynomial(optimiser):
        return torch.optim.lr_scheduler.PolynomialLR(optimiser, total_iters=30, power=0.9)

    assert rates(30, schedule="poly") == pytest.approx(torchs(polynomial, 30))
    assert np.subtract(rates(30, schedule="poly", lr_min=0.1), 0.1) == pytest.approx(
        np.multiply(torchs(polynomial, 30), 2 / 3)
    )


def test_noam_is_the_papers_formula_scaled_to_its_top():
    d_model, warm_up = 512, 10
    formula = [d_model**-0.5 * min(step**-0.5, step * warm_up**-1.5) for step in range(1, 61)]
    assert rates(60, schedule="noam", steps=warm_up) == pytest.approx([LR * x / max(formula) for x in formula])


@pytest.mark.parametrize("mode", ["max", "min"])
def test_plateau_follows_kerass_callback(mode):
    """torch's ReduceLROnPlateau with a threshold of 0 waits one epoch longer than that of Keras, for it asks for more
    than `patience` epochs that are no better.
    """
    values = list(np.random.default_rng(0).random(80).round(2))
    stage = Stage(schedule="plateau", lr=1.0, factor=0.5, patience=3, lr_min=1e-3, monitor="valid_loss", mode=mode)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, mode=mode, factor=0.5, patience=2, min_lr=1e-3, threshold=0, threshold_mode="abs", eps=0
    )
    for number in range(1, len(values) + 1):
        reference.step(values[number - 1])
        seen = monitored(stage, [{"valid_loss": value} for value in values[:number]])
        assert SCHEDULES["plateau"](stage, Position(0, 1, seen)).lr == pytest.approx(optimiser.param_groups[0]["lr"])
    assert optimiser.param_groups[0]["lr"] == 1e-3


def test_epochs_without_a_better_value_are_counted_by_hand():
    assert stalled([]) == stalled([0.5]) == stalled([0.4, 0.5]) == 0
    assert stalled([0.5, 0.4, 0.5]) == 2  # as good is no better
    assert stalled([0.5, 0.4, 0.4, 0.6, 0.6]) == 1
    assert stalled([math.nan, math.nan]) == 2


def test_a_score_should_rise_and_a_loss_fall_unless_the_recipe_says_otherwise():
    rows = [{"score": 0.5, "valid_loss": 0.9, "train_loss": 0.8}, {"score": 0.6, "valid_loss": 0.7, "train_loss": 0.6}]
    for monitor in schedules.MONITORS:
        assert stalled(monitored(Stage(monitor=monitor), rows)) == 0
    assert stalled(monitored(Stage(monitor="score", mode="min"), rows)) == 1
    assert stalled(monitored(Stage(monitor="train_loss", mode="max"), rows)) == 1


@pytest.mark.parametrize("epochs", [0.01, 1, 2.5, 43, 100])
def test_the_plan_has_the_steps_of_the_stages(epochs):
    scaled, n_tiles = recipe.load("baseline").scaled(epochs), 1000
    todo = plan(scaled, n_tiles)
    full = n_tiles // 16
    assert [epoch.number for epoch in todo] == list(range(len(todo)))
    for number, stage in enumerate(scaled.stages):
        own = [epoch for epoch in todo if epoch.stage == number]
        steps = max(1, round(stage.epochs * full))
        assert sum(epoch.steps for epoch in own) == steps == own[0].cycle_steps
        assert [epoch.first_step for epoch in own] == list(range(0, steps, full))
        assert [epoch.ends_cycle for epoch in own] == [False] * (len(own) - 1) + [True]
        assert all(0 < epoch.steps <= full for epoch in own)


@pytest.mark.parametrize("epochs", [0.01, 3, 10, 10.5])
def test_a_cycle_ends_with_an_epoch(epochs):
    """Three cycles share the steps of the stage, alike but for one step, whether or not they are whole epochs."""
    stage = Stage(epochs=epochs, bs=10, schedule="cosine", cycles=3)
    todo = plan(replace(recipe.Recipe(), stages=(stage,)), n_tiles=100)
    ends = [number for number, epoch in enumerate(todo) if epoch.ends_cycle]
    assert (len(ends), ends[-1]) == (3, len(todo) - 1)
    cycles = np.split(todo, [number + 1 for number in ends[:-1]])
    lengths = [sum(epoch.steps for epoch in cycle) for cycle in cycles]
    assert sum(lengths) == max(3, round(10 * epochs))
    assert max(lengths) - min(lengths) <= 1
    for cycle, length in zip(cycles, lengths, strict=True):
        assert [epoch.first_step for epoch in cycle] == list(range(0, length, 10))
        assert {epoch.cycle_steps for epoch in cycle} == {length}


def test_fewer_tiles_than_a_batch_still_make_a_step():
    assert all(epoch.steps == 1 for epoch in plan(recipe.load("baseline"), 3))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"schedule": "cosin"}, "schedule 'cosin' is unknown; use one-cycle, constant, cosine"),
        ({"monitor": "loss"}, "monitor 'loss' is unknown; use score, valid_loss, train_loss"),
        ({"mode": "most"}, "mode 'most' is unknown"),
        ({"schedule": "one-cycle", "cycles": 2}, "cycles means nothing to schedule one-cycle.*cosine or poly"),
        ({"schedule": "constant", "lr_min": 1e-4}, "lr_min means nothing"),
        ({"schedule": "cosine", "cycles": 0}, "cycles must be 1 or more, not 0"),
        ({"schedule": "noam"}, "steps must be above 0 for noam"),
        ({"schedule": "triangular2", "steps": -5}, "steps must be above 0"),
        ({"schedule": "plateau", "lr_min": 0.1}, "lr_min must be between 0 and the stage's lr of 0.001"),
        ({"schedule": "plateau", "factor": 1.5}, "factor must be between 0 and 1, not 1.5"),
        ({"schedule": "plateau", "patience": 0}, "patience must be 1 or more"),
        ({"patience": 3}, "patience means nothing to schedule one-cycle: leave it out, or use plateau"),
        ({"stop": -1}, "stop must be 0"),
    ],
)
def test_what_no_schedule_can_be_is_one_line(keys, words):
    with pytest.raises(InputError, match=rf"^recipe key stages\.3\.{words}"):
        schedules.check(Stage(**keys), "stages.3")
