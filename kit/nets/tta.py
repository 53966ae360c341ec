"""Probabilities of tiles from nets, averaged over test-time augmentations, in batches of bounded memory."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kit.errors import InputError
from kit.nets.heads import Outputs
from kit.nets.model import TileNet

CAST = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)  # whose weights autocast casts at each pass
# each view of a tile is made before the net and undone on its logits; undo(make(x)) is x
View = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def _same(x: Tensor) -> Tensor:
    return x


def _mirror(x: Tensor) -> Tensor:
    return x.flip(-1)


TTA: dict[str, list[View]] = {"none": [(_same, _same)], "hflip": [(_same, _same), (_mirror, _mirror)]}


class Prediction(NamedTuple):
    """What is predicted of N tiles, float32 in [0, 1]."""

    prob: np.ndarray  # (N, H, W), the probability that a pixel is salt
    empty: np.ndarray  # (N,), that the tile has none; NaN from a net without a head that says so


def check_tta(name: str) -> str:
    """Raises InputError for an unknown name."""
    if name not in TTA:
        raise InputError(f"unknown test-time augmentation {name!r}; there are: {', '.join(TTA)}")
    return name


@torch.no_grad()
def predictions(net: nn.Module, images: np.ndarray, tta: str, depth: np.ndarray | None = None) -> Iterator[Prediction]:
    """Yield the mean over the views of `tta`, batch after batch.

    images (N, H, W) uint8, a memory-mapped array too; depth (N,), their relative depths, for a net that needs them.
    The net, a TileNet or any module that gives logits (N, H, W), is put into evaluation mode.
    """
    check_tta(tta)
    device = next(net.parameters()).device
    bs = 64 if device.type == "cuda" else 8  # a CPU gains nothing from more, and DynamicUnet's last maps are large
    net.eval()
    for first in range(0, len(images), bs):
        batch = torch.from_numpy(np.array(images[first : first + bs])).to(device)
        depths = [] if depth is None else [torch.from_numpy(np.array(depth[first : first + bs], np.float32)).to(device)]
        yield Prediction(*(each.cpu().numpy() for each in mean_of_views(net, tta, batch, *depths)))


def mean_of_views(net: nn.Module, tta: str, tiles: Tensor, *depth: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities of a batch (B, T, T) as tensors: (B, T, T) of salt, (B,) of an empty tile; see Prediction."""
    prob, empty = [], []
    for make, undo in TTA[tta]:
        logits, of_empty = _logits(net, make(tiles), *depth)  # a mirrored tile lies as deep
        prob.append(undo(torch.sigmoid(logits)))
        empty.append(torch.sigmoid(of_empty))
    return torch.stack(prob).mean(0), torch.stack(empty).mean(0)


def mean_probability(
    nets: Iterable[tuple[float, TileNet]],
    images: np.ndarray,
    tta: str,
    depth: np.ndarray | None = None,
    done: Callable[[int], object] = lambda tiles: None,
) -> Prediction:
    """The weighted mean over nets, given with weights that sum to 1, of the predictions of all images (N, H, W) uint8.

    depth (N,): needed where a net needs it, else ignored. `done` is told after each batch how many tiles it had.
    """
    mean = Prediction(np.zeros(images.shape, np.float32), np.zeros(len(images), np.float32))
    for weight, net in nets:
        first = 0
        with cast_once(net):
            for part in predictions(net, images, tta, depth if net.needs_depth else None):
                rows = slice(first, first + len(part.prob))
                mean.prob[rows] += weight * part.prob
                mean.empty[rows] += weight * part.empty
                first = rows.stop
                done(len(part.prob))
    return mean


@contextmanager
def cast_once(net: TileNet) -> Iterator[None]:
    """Keep the weights in the type that autocast makes of them at each pass: sooner done, and the same to the bit.

    Those of plain convolutions and linear layers; others may compute with theirs in float32 first.
    """
    layers = [module for module in net.modules() if type(module) in CAST] if net.precision else []
    weights = [p for layer in layers for p in (layer.weight, layer.bias) if isinstance(p, nn.Parameter)]
    whole = [p.data for p in weights]
    try:
        for p in weights:
            p.data = p.data.to(net.precision)
        yield
    finally:
        for p, data in zip(weights, whole, strict=True):
            p.data = data


def _logits(net: nn.Module, tiles: Tensor, *depth: Tensor) -> tuple[Tensor, Tensor]:
    """Of the mask, (b, H, W), and of the tile being empty, (b,), NaN where the net does not say it."""
    found = net.predicted(tiles, *depth) if isinstance(net, TileNet) else Outputs(net(tiles, *depth))
    unknown = found.logits.new_full(found.logits.shape[:1], torch.nan)
    return found.logits, unknown if found.empty is None else found.empty
