"""Test-time augmentation: what is done to a tile is undone on its logits."""

import numpy as np
import pytest
import torch
from torch import nn

from kit.errors import InputError
from kit.nets.tta import TTA, probabilities


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


@pytest.mark.parametrize("tta", TTA)
def test_views_are_undone(tta):
    prob = np.concatenate(list(probabilities(Pointwise(), IMAGES, tta)))
    np.testing.assert_allclose(prob, 1 / (1 + np.exp((100 - IMAGES.astype(float)) / 20)), atol=1e-6)


def test_hflip_is_the_mean_of_both_views():
    prob = np.concatenate(list(probabilities(Leftmost(), IMAGES, "hflip")))
    ends = 1 / (1 + np.exp((100 - IMAGES[:, :, [0, -1]].astype(float)) / 20))
    np.testing.assert_allclose(prob, np.broadcast_to(ends.mean(2)[..., None], prob.shape), atol=1e-6)


class Depths(Pointwise):
    """Logits are the tile's depth: a net that looks at nothing else."""

    def forward(self, tiles, depth):
        return depth[:, None, None].expand(tiles.shape)


@pytest.mark.parametrize("tta", TTA)
def test_each_tile_keeps_its_depth(tta):
    depth = np.linspace(-3, 3, len(IMAGES)).astype(np.float32)
    prob = np.concatenate(list(probabilities(Depths(), IMAGES, tta, depth)))
    np.testing.assert_allclose(prob[:, 7, 9], 1 / (1 + np.exp(-depth)), atol=1e-6)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="hflip"):
        next(probabilities(Pointwise(), IMAGES, "rot90"))
