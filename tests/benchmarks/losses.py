"""The Lovasz hinge, forward and backward, beside that of segmentation_models.pytorch."""

from collections.abc import Iterator
from pathlib import Path

import torch
from segmentation_models_pytorch.losses import LovaszLoss

from kit.data.tiles import Tiles
from kit.nets.losses import lovasz_hinge
from tests.benchmarks.side import Row, in_turn


def rows(tiles: Tiles, folder: Path) -> Iterator[Row]:
    """A batch of 32 tiles of 101x101."""
    rounds = 15
    logits = torch.randn(32, 101, 101, requires_grad=True)
    targets = torch.tensor(tiles.masks[:32]).float()
    peer = LovaszLoss(mode="binary", per_image=True)

    def step(loss):
        return lambda: loss(logits, targets).backward()

    own, theirs, ratio = in_turn(step(lovasz_hinge), step(peer), rounds)
    times = f"{own * 1e3:.1f} ms", f"{theirs * 1e3:.1f} ms (smp)"
    yield Row("Lovasz hinge, 32 tiles, forward and backward", *times, ratio, rounds)
