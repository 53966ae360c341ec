"""Test-time augmentation: what is done to a tile is undone on its logits."""

import numpy as np
import pytest
import torch
from torch import nn

from kit.errors import InputError
from kit.nets import model
from kit.nets.heads import Outputs
from kit.nets.model import TileNet
from kit.nets.tta import TTA, Prediction, cast_once, mean_probability, predictions


class Pointwise(nn.Module):
    """Logits are the grey levels: a net that does not care for the view."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(100.0))

    def forward(self, tiles):
        return (tiles.float() - self.shift) / 20


class Leftmost(Pointwise):
    """Logits are the level of the row's first pixel: a net that sees the view it is given."""

    def forward(self, tiles):
        return super().forward(tiles)[..., :1].expand(tiles.shape)


IMAGES = np.random.default_rng(0).integers(0, 256, (37, 101, 101), dtype=np.uint8)


def whole(*args):
    """The predictions of all batches as one."""
    return Prediction(*map(np.concatenate, zip(*predictions(*args), strict=True)))


@pytest.mark.parametrize("tta", TTA)
def test_views_are_undone(tta):
    prob = whole(Pointwise(), IMAGES, tta).prob
    np.testing.assert_allclose(prob, 1 / (1 + np.exp((100 - IMAGES.astype(float)) / 20)), atol=1e-6)


def test_hflip_is_the_mean_of_both_views():
    prob = whole(Leftmost(), IMAGES, "hflip").prob
    ends = 1 / (1 + np.exp((100 - IMAGES[:, :, [0, -1]].astype(float)) / 20))
    np.testing.assert_allclose(prob, np.broadcast_to(ends.mean(2)[..., None], prob.shape), atol=1e-6)


class Depths(Pointwise):
    """Logits are the tile's depth: a net that looks at nothing else."""

    def forward(self, tiles, depth):
        return depth[:, None, None].expand(tiles.shape)


@pytest.mark.parametrize("tta", TTA)
def test_each_tile_keeps_its_depth(tta):
    depth = np.linspace(-3, 3, len(IMAGES)).astype(np.float32)
    prob = whole(Depths(), IMAGES, tta, depth).prob
    np.testing.assert_allclose(prob[:, 7, 9], 1 / (1 + np.exp(-depth)), atol=1e-6)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="hflip"):
        next(predictions(Pointwise(), IMAGES, "rot90"))


class Dark(TileNet):
    """Logits are the grey levels; calls a tile empty whose left half is dark."""

    precision = None

    def __init__(self, gating=False, needs_depth=False):
        nn.Module.__init__(self)
        self.shift = nn.Parameter(torch.tensor(100.0))
        self.gating, self.depths = gating, needs_depth

    @property
    def needs_depth(self):
        return self.depths

    def outputs(self, tiles, depth=None):
        assert (depth is not None) == self.depths
        grey = (tiles.float() - self.shift) / 20
        return Outputs(grey, empty=-grey[:, :, :50].mean((1, 2)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


LEVELS = (IMAGES.astype(float) - 100) / 20
EMPTY = np.stack([sigmoid(-half.mean((1, 2))) for half in (LEVELS[:, :, :50], LEVELS[:, :, 51:])])  # of both views


def test_that_a_tile_is_empty_is_the_mean_over_the_views():
    found = whole(Dark(), IMAGES, "hflip")
    np.testing.assert_allclose(found.prob, sigmoid(LEVELS), atol=1e-6)
    np.testing.assert_allclose(found.empty, EMPTY.mean(0), atol=1e-6)


def test_gated_tiles_are_predicted_empty():
    dark = np.where(np.arange(37)[:, None, None] % 3 == 0, IMAGES // 4, IMAGES)  # every third
    prob, empty = whole(Dark(gating=True), dark, "hflip")
    gated = np.arange(37) % 3 == 0
    assert (prob[gated] < 1e-8).all()
    np.testing.assert_array_equal(empty > 0.5, gated)
    np.testing.assert_allclose(prob[~gated], sigmoid(LEVELS[~gated]), atol=1e-6)


def test_a_net_without_the_head_does_not_say_what_is_empty():
    assert np.isnan(whole(Pointwise(), IMAGES, "hflip").empty).all()


def test_nets_are_averaged_by_their_weights_and_get_depths_where_they_need_them():
    bright, told = Dark(needs_depth=True), []
    nn.init.constant_(bright.shift, 60)
    depth = np.linspace(0, 1, len(IMAGES)).astype(np.float32)
    mean = mean_probability([(0.25, Dark()), (0.75, bright)], IMAGES, "none", depth, told.append)
    brighter = LEVELS + 2  # 40 grey levels of 20 each
    np.testing.assert_allclose(mean.prob, 0.25 * sigmoid(LEVELS) + 0.75 * sigmoid(brighter), atol=1e-6)
    halves = [each[:, :, :50].mean((1, 2)) for each in (LEVELS, brighter)]
    np.testing.assert_allclose(mean.empty, 0.25 * sigmoid(-halves[0]) + 0.75 * sigmoid(-halves[1]), atol=1e-6)
    assert sum(told) == 2 * len(IMAGES)


@pytest.mark.parametrize("decoder", ["dynamic", "salt"])
def test_weights_that_are_cast_beforehand_predict_the_same_and_are_whole_again(decoder):
    torch.manual_seed(0)
    net = model.build(encoder="test_resnet.r160_in1k", decoder=decoder, pretrained=False, size=64, fit="resize",
                      precision="bfloat16").eval()  # fmt: skip
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    at_each_pass = whole(net, IMAGES[:9], "hflip").prob
    with cast_once(net):
        assert {torch.bfloat16} < {p.dtype for p in net.parameters()}
        np.testing.assert_array_equal(whole(net, IMAGES[:9], "hflip").prob, at_each_pass)
    np.testing.assert_array_equal(mean_probability([(1.0, net)], IMAGES[:9], "hflip").prob, at_each_pass)
    with pytest.raises(ZeroDivisionError):
        mean_probability([(1.0, net)], IMAGES[:9], "none", done=lambda tiles: 1 / 0)
    after = net.state_dict()
    assert all(
        after[name].dtype == tensor.dtype and torch.equal(after[name], tensor) for name, tensor in before.items()
    )
