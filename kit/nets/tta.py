"""Probabilities of tiles from a net, averaged over test-time augmentations, in batches of bounded memory."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from kit.errors import InputError

# each view of a tile is made before the net and undone on its logits; undo(make(x)) is x
View = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def _same(x: Tensor) -> Tensor:
    return x


def _mirror(x: Tensor) -> Tensor:
    return x.flip(-1)


TTA: dict[str, list[View]] = {"none": [(_same, _same)], "hflip": [(_same, _same), (_mirror, _mirror)]}


def check_tta(name: str) -> str:
    """Raises InputError for an unknown name."""
    if name not in TTA:
        raise InputError(f"unknown test-time augmentation {name!r}; there are: {', '.join(TTA)}")
    return name


@torch.no_grad()
def probabilities(
    net: nn.Module, images: np.ndarray, tta: str, depth: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Yield the mean probability over the views of `tta`, (b, H, W) float32 in [0, 1], batch after batch.

    images (N, H, W) uint8, a memory-mapped array too; depth (N,), their relative depths, for a net that needs them.
    The net is put into evaluation mode.
    """
    views = TTA[check_tta(tta)]
    device = next(net.parameters()).device
    bs = 64 if device.type == "cuda" else 8  # a CPU gains nothing from more, and DynamicUnet's last maps are large
    net.eval()
    for first in range(0, len(images), bs):
        batch = torch.from_numpy(np.array(images[first : first + bs])).to(device)
        # the same for every view: a mirrored tile lies as deep
        depths = [] if depth is None else [torch.from_numpy(np.array(depth[first : first + bs], np.float32)).to(device)]
        each = [undo(torch.sigmoid(net(make(batch), *depths))) for make, undo in views]
        yield torch.stack(each).mean(0).cpu().numpy()
