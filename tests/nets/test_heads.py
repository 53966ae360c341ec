"""The loss of all heads against its sum written out, and in the hands of fastai."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kit.nets.heads import EmptyHead, HeadLoss, Outputs
from kit.nets.losses import LOSSES, mix
from kit.recipe import Salt

WEIGHTS = Salt(deep=0.1, empty=0.05, nonempty=0.5)


def masks(*salted: bool) -> torch.Tensor:
    """One tile (8, 8) for each answer to: is there salt in it?"""
    tiles = torch.zeros(len(salted), 8, 8, dtype=torch.uint8)
    for tile, some in zip(tiles, salted, strict=True):
        tile[2:6, 3:] = some
    return tiles


def maps(tiles: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tiles, 8, 8, generator=torch.Generator().manual_seed(seed))


def outputs(tiles: int = 3) -> Outputs:
    deep = tuple(maps(tiles, seed) for seed in (1, 2, 3))
    return Outputs(maps(tiles), deep, maps(tiles, 4)[:, 0, 0], maps(tiles, 5))


@pytest.mark.parametrize("name", ["bce", "0.1*bce + 0.9*lovasz_elu", "symmetric_lovasz_nonempty"])
def test_the_loss_is_the_weighted_sum_of_its_heads(name):
    pred, target, plain = outputs(), masks(True, False, True), mix(name)
    deep = (plain(pred.deep[0], target) + plain(pred.deep[1], target) + plain(pred.deep[2], target)) / 3
    empty = F.binary_cross_entropy_with_logits(pred.empty, torch.tensor([0.0, 1.0, 0.0]))
    nonempty = plain(pred.nonempty[[0, 2]], target[[0, 2]])
    expected = plain(pred.logits, target) + 0.1 * deep + 0.05 * empty + 0.5 * nonempty
    assert HeadLoss(mix(name), WEIGHTS)(pred, target).item() == pytest.approx(expected.item(), rel=1e-6)


def test_heads_that_are_not_there_cost_nothing():
    target, loss = masks(True, False), HeadLoss(mix("bce"), WEIGHTS)
    plain = mix("bce")(maps(2), target)
    assert loss(maps(2), target) == loss(Outputs(maps(2)), target) == plain


def test_a_batch_without_salt_teaches_the_nonempty_head_nothing():
    pred = outputs(2)._replace(nonempty=maps(2).requires_grad_())
    loss = HeadLoss(mix("lovasz"), WEIGHTS)
    value = loss(pred, masks(False, False))
    value.backward()
    assert value == loss(pred._replace(nonempty=None), masks(False, False))
    assert not pred.nonempty.grad.any()


@pytest.mark.parametrize("salted", [(True, False, True), (False, False, False)])
def test_deep_maps_can_learn_from_tiles_with_salt_only(salted):
    pred, target, plain = Outputs(maps(3), outputs().deep), masks(*salted), mix("symmetric_lovasz_elu")
    deep = [plain(x[[0, 2]], target[[0, 2]]) for x in pred.deep] if any(salted) else [torch.zeros(())]
    expected = plain(pred.logits, target) + 0.5 * sum(deep) / len(deep)
    found = HeadLoss(plain, Salt(deep=0.5, deep_nonempty=True))(pred, target)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_unreduced_it_gives_a_loss_for_each_tile():
    pred, target = outputs(), masks(True, False, True)
    loss = HeadLoss(mix("bce + dice"), WEIGHTS)
    loss.reduction = "none"
    each = loss(pred, target)
    loss.reduction = "mean"
    for i in range(3):
        tile = slice(i, i + 1)
        deep = tuple(x[tile] for x in pred.deep)
        alone = loss(Outputs(pred.logits[tile], deep, pred.empty[tile], pred.nonempty[tile]), target[tile])
        assert each[i].item() == pytest.approx(alone.item(), rel=1e-6)


def test_it_is_float32_and_takes_fastais_tensor_types():
    from fastai.vision.core import TensorImage, TensorMask

    pred, target = outputs(), masks(True, False, True)
    half = Outputs(*(tuple(y.bfloat16() for y in x) if isinstance(x, tuple) else x.bfloat16() for x in pred))
    loss = HeadLoss(mix("lovasz"), WEIGHTS)
    assert loss(half, target).dtype == torch.float32
    wrapped = Outputs(*(tuple(map(TensorImage, x)) if isinstance(x, tuple) else TensorImage(x) for x in pred))
    assert loss(wrapped, TensorMask(target)).item() == loss(pred, target).item()


def test_it_names_and_decodes_like_the_loss_it_holds():
    loss, plain = HeadLoss(mix("0.1*bce + 0.9*lovasz"), WEIGHTS), mix("0.1*bce + 0.9*lovasz")
    assert loss.name == plain.name
    assert loss.reduction == "mean"
    assert torch.equal(loss.activation(maps(1)), plain.activation(maps(1)))
    assert torch.equal(loss.decodes(maps(1)), plain.decodes(maps(1)))


def test_fastai_takes_probabilities_and_losses_of_tiles_from_it():
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.vision.all import Learner

    data = list(zip(maps(4), masks(True, False, True, False), strict=True))
    loaders = DataLoaders(*(DataLoader(data, bs=3, num_workers=0) for _ in range(2)), device="cpu")
    learner = Learner(loaders, nn.PReLU(init=1.0), loss_func=HeadLoss(mix("bce"), WEIGHTS))
    with learner.no_bar(), learner.no_logging():
        prob, _, each = learner.get_preds(with_loss=True)
    torch.testing.assert_close(prob, maps(4).sigmoid())
    expected = [mix("bce")(x[None], y[None]).item() for x, y in data]
    assert each.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_empty_head_is_a_linear_function_of_the_mean():
    head, x = EmptyHead(5), torch.randn(3, 5, 4, 6)
    expected = x.mean((2, 3)) @ head.linear.weight[0] + head.linear.bias
    torch.testing.assert_close(head(x), expected)


@pytest.mark.parametrize("name", [name for name in LOSSES if "nonempty" in name])
class TestLossesOverSalt:
    def test_are_the_loss_of_the_tiles_with_salt(self, name):
        target, plain = masks(False, True, False, True), LOSSES[name.replace("_nonempty", "")]
        expected = plain(maps(4)[[1, 3]], target[[1, 3]])
        assert LOSSES[name](maps(4), target).item() == pytest.approx(expected.item(), rel=1e-6)

    def test_are_nothing_where_there_is_no_salt(self, name):
        logits = maps(2).requires_grad_()
        loss = LOSSES[name](logits, masks(False, False))
        loss.backward()
        assert loss == 0
        assert not logits.grad.any()
