"""Co-training: each net is taught by the other alone, and both stay what they are through accumulation and faults."""

import copy
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from torch import nn

from kit.errors import InputError
from kit.training import checkpoint, learner
from kit.training.consistency import CoTraining
from kit.training.schedules import plan
from tests.small import tiny_recipe
from tests.training.toys import PAIR, TILES, VIEWS, Toy, fit, stub, toys

pytestmark = pytest.mark.slow


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


def test_two_nets_learn_in_groups_of_equal_depth_and_apart_from_the_stages_before(tmp_path):
    recipe = replace(tiny_recipe(), stages=(PAIR,))
    learn = learner.make_learner(recipe, TILES, 0)
    one, other = learn.model.state_dict(), learn.second.state_dict()
    assert one.keys() == other.keys()
    assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items())
    learner.begin_stage(learn, recipe, 0, plan(recipe, 24), checkpoint.State(), learn.loss_func)
    pairs = zip(learn.opt.param_lists, learn.model.parameter_groups(), learn.second.parameter_groups(), strict=True)
    for group, own, others in pairs:
        assert [id(each) for each in group] == [id(each) for each in (*own, *others)]

    frozen = replace(recipe, stages=(replace(PAIR, freeze=True),), net=replace(recipe.net, weights="some"))
    learner.begin_stage(learn, frozen, 0, plan(recipe, 24), checkpoint.State(), learn.loss_func)
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
