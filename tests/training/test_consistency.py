"""Consistency on unlabelled tiles: who the mean teacher is, how strongly anything teaches, and what it costs."""

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback

from kit.errors import InputError
from kit.recipe import Stage
from kit.training import budget, consistency, learner
from kit.training.consistency import MeanTeacher, ramp_up
from tests.small import easy_tiles, tiny_recipe
from tests.training.toys import PAIR, TEACHER, TILES, VIEWS, Toy, fit, stub, toys

pytestmark = pytest.mark.slow

HALFWAY = math.exp(-1.25)


@pytest.mark.parametrize(
    ("done", "ramp", "expected"),
    [(0, 0.25, math.exp(-5)), (0.125, 0.25, HALFWAY), (0.25, 0.25, 1), (0.9, 0.25, 1), (0, 0, 1), (0.5, 1, HALFWAY)],
)
def test_the_ramp_is_that_of_the_paper(done, ramp, expected):
    assert ramp_up(done, ramp) == pytest.approx(expected)


def test_the_weight_rises_over_the_whole_stage_cycles_and_a_resume_included(tmp_path):
    class Watch(Callback):
        order, run_valid = 90, False

        def __init__(self, stop_at: int):
            self.seen, self.stop_at = [], stop_at

        def after_loss(self):
            self.seen.append(self.learn.mean_teacher.weight)

        def after_step(self):
            if len(self.seen) == self.stop_at:
                raise InterruptedError("cut")

    stage = replace(TEACHER, schedule="cosine", cycles=2, consistency_weight=3.0, consistency_ramp=0.5)
    expected = [3 * math.exp(-5 * (1 - step / 6) ** 2) for step in range(6)] + [3.0] * 6
    whole, before, after = Watch(99), Watch(10), Watch(99)
    fit(tmp_path / "whole", *toys(stage), whole)
    assert whole.seen == pytest.approx(expected)
    with pytest.raises(InterruptedError):
        fit(tmp_path / "cut", *toys(stage), before)
    fit(tmp_path / "cut", *toys(stage), after)  # from the last epoch that was saved
    assert after.seen == pytest.approx(expected[-len(after.seen) :])
    assert 2 < len(after.seen) < 12


def test_an_unlabelled_batch_leaves_the_random_numbers_of_a_step_alone(tmp_path):
    """A loader draws one where it starts: a resume, which starts it in mid-epoch, would give other dropout."""

    class Numbers(Callback):
        order, run_valid = 50, False

        def __init__(self):
            self.seen = []

        def after_loss(self):
            self.seen.append(torch.rand(1).item())

    seen = []
    for stage in (PAIR, replace(PAIR, consistency="none")):
        numbers = Numbers()
        fit(tmp_path / stage.consistency, *toys(stage), numbers)
        seen.append(numbers.seen)
    assert seen[0] == seen[1]


def test_the_mean_teacher_is_taught_by_nobody():
    net, teacher = Toy(1.0, 0.2).train(), Toy(0.3, 0.9).train()
    teacher(VIEWS[1])  # its statistics are its own too
    made = stub(MeanTeacher, model=net)
    made.state.averaged = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    made.state.averaged["level"].requires_grad_()
    before = {name: tensor.clone() for name, tensor in made.state.averaged.items()}

    loss, further = made.losses(VIEWS)
    loss.backward()
    assert further == 0
    assert made.state.averaged["level"].grad is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state.averaged.items())
    assert net.training

    twin = Toy(1.0, 0.2).train()
    with torch.no_grad():
        target = torch.sigmoid(teacher.eval()(VIEWS[0]))
    expected = ((torch.sigmoid(twin(VIEWS[1])) - target) ** 2).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert net.level.grad.item() == pytest.approx(twin.level.grad.item(), rel=1e-5)
    assert net.level.grad.item() != 0


def test_the_teacher_is_the_average_of_the_weights_after_each_step(tmp_path, monkeypatch):
    """After n steps: sum over i of 0.1 * 0.9^(n - i) times the weights after step i, over 1 - 0.9^n."""
    teachers, after = [], []
    own = consistency.predict

    def spy(net, weights, *inputs):
        teachers.append({name: tensor.clone() for name, tensor in weights.items()})
        return own(net, weights, *inputs)

    class Keep(Callback):
        order, run_valid = 40, False

        def after_batch(self):
            after.append({name: tensor.clone() for name, tensor in self.learn.model.state_dict().items()})

    monkeypatch.setattr(consistency, "predict", spy)
    fit(tmp_path, *toys(TEACHER), Keep())
    assert len(teachers) == len(after) == 12
    for n in (1, 2, 3, 11):
        for name in ("level", "difference", "norm.running_mean"):
            weights = [0.1 * 0.9 ** (n - i) for i in range(1, n + 1)]
            expected = sum(weight * after[i][name] for i, weight in enumerate(weights)) / (1 - 0.9**n)
            torch.testing.assert_close(teachers[n][name], expected, rtol=1e-5, atol=1e-6)
    assert teachers[0]["level"] == 1  # before the first step the net itself


@pytest.mark.parametrize("stage", [TEACHER, PAIR], ids=lambda stage: stage.consistency)
def test_unlabelled_tiles_of_other_brightness_teach_what_the_labelled_ones_cannot(tmp_path, stage):
    """Planted: a grey level tells salt as well as a difference in the labelled tiles; in the others it does not."""
    every = easy_tiles(72, 1, seed=3)
    others = every.train_images[32:].astype(int) + np.tile([-45, 45], 20)[:, None, None]
    tiles = replace(
        every,
        train_ids=every.train_ids[:32],
        test_ids=every.train_ids[32:],
        train_images=every.train_images[:32],
        test_images=others.clip(0, 255).astype(np.uint8),
        masks=every.masks[:32],
        train_depth=every.train_depth[:32],
        test_depth=every.train_depth[32:],
    )
    right = {}
    for kind in ("none", stage.consistency):
        wanted = replace(stage, epochs=15, consistency=kind, consistency_weight=10.0 if kind != "none" else 1.0)
        recipe, learn = toys(wanted, tiles=tiles)
        fit(tmp_path / kind, recipe, learn)
        with torch.no_grad():
            found = learn.model.eval()(torch.from_numpy(tiles.test_images[:, None])) > 0
        right[kind] = (found.numpy() == every.masks[32:]).mean()
    assert right[stage.consistency] > right["none"] + 0.02


def test_a_step_has_as_many_tiles_without_labels_as_with(tmp_path):
    class Watch(Callback):
        order, run_valid = -4, False

        def before_fit(self):
            own = self.learn.mean_teacher.losses

            def spy(views):
                assert len(views[0]) == len(self.learn.x)
                return own(views)

            self.learn.mean_teacher.losses = spy

    recipe, learn = toys(replace(TEACHER, bs=1000), replace(TEACHER, bs=5))
    assert len(fit(tmp_path, recipe, learn, Watch()).rows) == 6


def test_the_history_has_the_mean_of_the_loss_on_unlabelled_tiles(tmp_path):
    class Keep(Callback):
        order, run_valid = -4, False
        seen: ClassVar[list[float]] = []

        def before_fit(self):
            own = self.learn.mean_teacher.losses

            def spy(views):
                found = own(views)
                Keep.seen.append(found[0].item())
                return found

            self.learn.mean_teacher.losses = spy

    fit(tmp_path, *toys(TEACHER), Keep())
    history = pd.read_csv(tmp_path / "history.csv")
    np.testing.assert_allclose(history["consistency"], np.reshape(Keep.seen, (3, 4)).mean(1), rtol=1e-5)


@pytest.mark.parametrize("stage", [TEACHER, PAIR], ids=lambda stage: stage.consistency)
def test_float16_scales_what_is_added_too(tmp_path, stage):
    found = []
    for precision in ("float32", "float16"):  # a toy computes in float32: only the scale differs
        recipe, learn = toys(stage, precision=precision)
        fit(tmp_path / precision, recipe, learn)
        found.append([p.item() for net in (learn.model, learn.second) if net for p in net.parameters()])
    assert learn.loss_scaling.scaler.get_scale() > 1
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize(("stage", "passes"), [(replace(TEACHER, consistency="none"), 1), (TEACHER, 3), (PAIR, 4)])
def test_the_time_budget_counts_the_further_passes_and_leaves_the_nets_alone(stage, passes):
    recipe, learn = toys(stage, net=lambda *weights: Toy(*weights, pause=0.02))
    if learn.second is not None:
        learn.second.pause = 0.02
    nets = [net for net in (learn.model, learn.second) if net is not None]
    before = [{name: tensor.clone() for name, tensor in net.state_dict().items()} for net in nets]
    assert budget._step_seconds(learn, recipe, stage) > 0.02 * passes
    for net, weights in zip(nets, before, strict=True):
        assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (replace(TEACHER, consistency="meanteacher"), "'meanteacher' is unknown; use none, mean-teacher, co-training"),
        (replace(TEACHER, ema=0.0), "needs a teacher: add --set stages.3.ema=0.99"),
        (replace(TEACHER, consistency_weight=0.0), "consistency_weight must be above 0"),
        (replace(TEACHER, consistency_weight=math.inf), "consistency_weight must be above 0"),
        (replace(TEACHER, consistency_ramp=1.5), "consistency_ramp must be between 0 and 1"),
        (replace(TEACHER, consistency_ramp=-0.1), "consistency_ramp must be between 0 and 1"),
        (Stage(consistency_weight=2.0), "consistency_weight means nothing without stages.3.consistency"),
        (Stage(consistency_ramp=0.5), "consistency_ramp means nothing without stages.3.consistency"),
    ],
)
def test_stages_with_bad_values(stage, words):
    with pytest.raises(InputError, match=words) as caught:
        consistency.check(stage, "stages.3")
    assert "\n" not in str(caught.value)


def test_recipes_that_ask_for_none_have_neither_loader_nor_second_net():
    learn = learner.make_learner(tiny_recipe(), TILES, 0)
    assert len(learn.dls.loaders) == 2
    assert learn.second is None
