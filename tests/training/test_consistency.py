"""Mean teacher and co-training: who teaches whom, on which tiles, how strongly, and that a resume is bit for bit."""

import copy
import math
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from torch import nn

from kit.errors import InputError
from kit.recipe import Recipe, Stage
from kit.training import budget, checkpoint, consistency, learner, unlabelled
from kit.training.consistency import CoTraining, MeanTeacher, ramp_up
from kit.training.schedules import plan
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


def unlabelled_loader(tiles=TILES, workers: int = 0, depth: bool = False, stage: Stage = TEACHER):
    loader = unlabelled.make_loader(tiny_recipe(), tiles, "cpu", depth, workers)
    loader.serve(stage)
    return loader


def batches(loader, epoch: int = 0, first: int = 0, last: int = 4) -> list:
    loader.window(epoch, first, last)
    return list(loader)


def numbered_tiles():
    """Tiles that say in their four corners which they are, training and test; three test tiles are constant."""
    tiles = easy_tiles(32, 10)
    images = [tiles.train_images.copy(), tiles.test_images.copy()]
    for number, image in enumerate([*images[0], *images[1]]):
        image[[0, 0, -1, -1], [0, -1, 0, -1]] = number
    images[1][[2, 5, 9]] = 77
    return replace(tiles, train_images=images[0], test_images=images[1])


def test_only_test_tiles_that_are_not_constant_are_ever_shown():
    tiles = numbered_tiles()
    recipe = replace(tiny_recipe(), stages=(TEACHER,))
    loader = learner.make_learner(recipe, tiles, 0).dls[2]
    loader.serve(TEACHER)
    seen = [weak[:, 0, 0, 0] for epoch in range(3) for weak, _ in batches(loader, epoch, 0, 5)]
    numbers, times = torch.cat(seen).unique(return_counts=True)
    assert set(numbers.tolist()) == {32 + i for i in range(10) if i not in (2, 5, 9)}
    assert times.max() - times.min() <= 3  # each as often as any other, to within one an epoch


def test_the_views_show_the_same_place_and_only_the_strong_ones_are_changed():
    tiles = numbered_tiles()
    shown = {32 + i: image.astype(int) for i, image in enumerate(tiles.test_images)}
    weak, strong = (torch.cat(part) for part in zip(*batches(unlabelled_loader(tiles)), strict=True))
    mirrored = []
    for one, other in zip(weak[:, 0].numpy(), strong[:, 0].numpy(), strict=True):
        tile = shown[one[0, 0]]
        mirrored.append(np.array_equal(one, tile[:, ::-1]))
        assert mirrored[-1] or np.array_equal(one, tile)
        here, there = (np.corrcoef(each.ravel(), other.ravel())[0, 1] for each in (one, one[:, ::-1]))
        assert here > there
    assert 4 < sum(mirrored) < 20
    changed = (weak != strong).flatten(1).any(1)
    assert changed.float().mean() > 0.8

    both = [torch.cat(part) for part in zip(*batches(unlabelled_loader(tiles, stage=PAIR)), strict=True)]
    assert torch.equal(both[1], strong)
    first_changed = (both[0] != weak).flatten(1).any(1)
    assert first_changed.float().mean() > 0.8
    assert (both[0] != both[1]).flatten(1).any(1).float().mean() > 0.9


@pytest.mark.filterwarnings("ignore")
def test_views_are_the_same_from_any_number_of_workers_and_from_the_middle_and_others_in_the_next_epoch():
    whole, elsewhere = (batches(unlabelled_loader(workers=n, depth=True)) for n in (0, 2))
    middle, later = batches(unlabelled_loader(depth=True), 0, 1, 4), batches(unlabelled_loader(depth=True), 1)
    for batch, again in [*zip(whole, elsewhere, strict=True), *zip(whole[1:], middle, strict=True)]:
        assert all(torch.equal(one, other) for one, other in zip(batch, again, strict=True))
    assert not torch.equal(whole[0][1], later[0][1])
    weak, _, depth = whole[0]
    pictures = [tile.tobytes() for tile in TILES.test_images] + [tile[:, ::-1].tobytes() for tile in TILES.test_images]
    rows = [pictures.index(tile.numpy().tobytes()) % 10 for tile in weak[:, 0]]
    np.testing.assert_allclose(depth, TILES.relative_depth("test")[rows])


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


def stub(kind, **learn):
    """A callback that acts in no training: its `losses` is looked at alone."""
    conductor = SimpleNamespace(state=checkpoint.State(), stage=TEACHER)
    made = kind(conductor, [], [])
    made.learn = SimpleNamespace(**learn)
    return made


VIEWS = tuple(torch.from_numpy(TILES.test_images[rows, None]) for rows in (slice(1, 4), slice(6, 9)))


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


def test_each_of_two_nets_is_taught_by_the_other_alone():
    one, other = Toy(1.0, 0.2).train(), Toy(-0.4, 0.3).train()
    labelled = (torch.from_numpy(TILES.train_images[:3, None]), torch.from_numpy(TILES.masks[:3]))

    def loss_func(pred, target):
        return F.binary_cross_entropy_with_logits(pred, target.float())

    made = stub(CoTraining, model=one, second=other, loss_func=loss_func)
    agreement, further = made.losses(labelled, VIEWS)

    twins = [copy.deepcopy(one), copy.deepcopy(other)]
    logits = [net(view) for net, view in zip(twins, VIEWS, strict=True)]
    masks = [(each.detach() > 0).float() for each in logits]
    assert (masks[0] != masks[1]).float().mean() > 0.01
    expected = [loss_func(logits[0], masks[1]), loss_func(logits[1], masks[0])]
    assert agreement.item() == pytest.approx(sum(each.item() for each in expected), rel=1e-6)

    agreement.backward()
    for net, twin, loss in zip((one, other), twins, expected, strict=True):
        loss.backward()
        assert net.level.grad.item() == pytest.approx(twin.level.grad.item(), rel=1e-5)
        assert net.difference.grad.item() == pytest.approx(twin.difference.grad.item(), rel=1e-5)
    kept = one.level.grad.clone()
    further.backward()  # the labels of the second net's own batch teach the second net
    assert torch.equal(one.level.grad, kept)
    assert other.level.grad.item() != pytest.approx(twins[1].level.grad.item(), rel=1e-3)


def test_the_two_nets_see_the_labelled_tiles_in_their_own_order(tmp_path):
    class Keep(Callback):
        order, run_valid = -4, False
        seen: ClassVar[tuple[list, list]] = ([], [])

        def before_fit(self):
            own = self.learn.co_training.losses

            def spy(labelled, views):
                Keep.seen[0].append(self.learn.x)
                Keep.seen[1].append(labelled[0])
                return own(labelled, views)

            self.learn.co_training.losses = spy

    fit(tmp_path, *toys(PAIR, data=replace(tiny_recipe().data, augment="none")), Keep())
    orders = [[tile.tobytes() for batch in seen for tile in batch.numpy()] for seen in Keep.seen]
    assert orders[0] != orders[1]
    assert set(orders[0][:24]) == set(orders[1][:24])  # an epoch is a pass over the same tiles
    assert len(set(orders[0][:24])) == 24


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


def test_two_nets_learn_in_groups_of_equal_depth_and_apart_from_the_stages_before(tmp_path):
    recipe = replace(tiny_recipe(), stages=(PAIR,))
    learn = learner.make_learner(recipe, TILES, 0)
    one, other = learn.model.state_dict(), learn.second.state_dict()
    assert one.keys() == other.keys()
    assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items())
    learner.begin_stage(learn, recipe, 0, plan(recipe, 24), checkpoint.State())
    pairs = zip(learn.opt.param_lists, learn.model.parameter_groups(), learn.second.parameter_groups(), strict=True)
    for group, own, others in pairs:
        assert [id(each) for each in group] == [id(each) for each in (*own, *others)]

    frozen = replace(recipe, stages=(replace(PAIR, freeze=True),), net=replace(recipe.net, weights="some"))
    learner.begin_stage(learn, frozen, 0, plan(recipe, 24), checkpoint.State())
    for net in (learn.model, learn.second):  # of both nets the decoder and the batch-norms learn
        early, late, decoder = net.parameter_groups()
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
        of_norms = {id(each) for norm in norms for each in norm.parameters()}
        assert all(each.requires_grad == (id(each) in of_norms) for each in (*early, *late))
        assert all(each.requires_grad for each in decoder)


def test_gradients_add_up_for_both_nets(tmp_path):
    """With fastai's GradientAccumulation over two batches neither net moves on the odd ones."""

    class Keep(Callback):
        order, run_valid = 90, False
        seen: ClassVar[list[tuple[float, float]]] = []

        def after_batch(self):
            Keep.seen.append((self.learn.model.level.item(), self.learn.second.level.item()))

    fit(tmp_path, *toys(PAIR), GradientAccumulation(12), Keep())
    for number, (before, now) in enumerate(zip(Keep.seen, Keep.seen[1:], strict=False)):
        moved = [one != other for one, other in zip(before, now, strict=True)]
        assert moved == [number % 2 == 0] * 2  # the step after batch 0 is that of batch 1


@pytest.mark.parametrize("stage", [TEACHER, PAIR], ids=lambda stage: stage.consistency)
def test_float16_scales_what_is_added_too(tmp_path, stage):
    found = []
    for precision in ("float32", "float16"):  # a toy computes in float32: only the scale differs
        recipe, learn = toys(stage, precision=precision)
        fit(tmp_path / precision, recipe, learn)
        found.append([p.item() for net in (learn.model, learn.second) if net for p in net.parameters()])
    assert learn.loss_scaling.scaler.get_scale() > 1
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_second_net_that_is_no_number_is_not_saved(tmp_path):
    class Spoil(Callback):
        order, seen, run_valid = 50, 0, False

        def after_step(self):
            Spoil.seen += 1
            if Spoil.seen == 8:  # the last of an epoch
                with torch.no_grad():
                    self.learn.second.level.fill_(torch.nan)

    with pytest.raises(InputError, match=r"^weights are no longer numbers"):
        fit(tmp_path, *toys(PAIR), Spoil())
    state, _ = checkpoint.load_resume(tmp_path / "resume.pt", "cpu")
    assert len(state.rows) == 1
    assert all(tensor.isfinite().all() for tensor in state.second.values())


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


@pytest.mark.parametrize("n_test", [0, 10])
def test_without_tiles_to_show_it_is_refused(n_test):
    tiles = easy_tiles(32, n_test)
    tiles = replace(tiles, test_images=np.zeros_like(tiles.test_images))
    with pytest.raises(InputError, match="every test tile is of one grey level") as caught:
        learner.make_learner(replace(tiny_recipe(), stages=(TEACHER,)), tiles, 0)
    assert "\n" not in str(caught.value)


def test_recipes_that_ask_for_none_have_neither_loader_nor_second_net():
    learn = learner.make_learner(tiny_recipe(), TILES, 0)
    assert len(learn.dls.loaders) == 2
    assert learn.second is None
