"""What augmentation does to a whole batch of tiles at once, on whatever device they are.

Each tile has its own row of parameters (kit.training.batch_augment draws them), and there is a row that leaves a tile
bit for bit as it is: so no tile is picked out, and the host never waits for the device. Sizes are in pixels, x to the
right, y downward, from the middle of the first pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Batch: TypeAlias = tuple[Tensor, Tensor]  # images and masks, (B, H, W) uint8 each


@dataclass(frozen=True)
class Change:
    """One row of parameters for each tile."""

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return tuple(vars(self).values())

    def each(self, function: Callable[[Tensor], Tensor]) -> "Change":
        """The same kind of change, whose parameters are what the function makes of these."""
        return type(self)(*map(function, self.parameters))

    def apply(self, images: Tensor, masks: Tensor) -> Batch:
        raise NotImplementedError


@dataclass(frozen=True)
class Mirror(Change):
    """Left becomes right in some tiles."""

    drawn: Tensor  # (B,) bool

    def apply(self, images: Tensor, masks: Tensor) -> Batch:
        drawn = self.drawn[:, None, None]
        return torch.where(drawn, images.flip(2), images), torch.where(drawn, masks.flip(2), masks)


@dataclass(frozen=True)
class Warp(Change):
    """An affine map; images are interpolated bilinearly, masks take the nearest pixel.

    The pixel (x, y) of the result comes from the place linear @ (x, y) + offset of the tile, at least `low` and at most
    `high`. Beyond the tile lies its mirror image, the border pixel not repeated (OpenCV's BORDER_REFLECT_101).
    """

    linear: Tensor  # (B, 2, 2) float32
    offset: Tensor  # (B, 2) float32, of images
    mask_offset: Tensor  # (B, 2) float32
    low: Tensor  # (B, 2) float32
    high: Tensor  # (B, 2) float32

    def apply(self, images: Tensor, masks: Tensor) -> Batch:
        levels = _sample(images, self._sources(self.offset, images), "bilinear")
        nearest = _sample(masks, self._sources(self.mask_offset, masks), "nearest")
        return levels.round_().clamp_(0, 255).byte(), nearest.byte()

    def _sources(self, offset: Tensor, tiles: Tensor) -> Tensor:
        """Where each pixel comes from, (B, H, W, 2): -1 is the first, 1 the last pixel of a side."""
        height, width = tiles.shape[1:]
        x = torch.arange(width, device=tiles.device)
        y = torch.arange(height, device=tiles.device)[:, None]
        sources = []
        for axis, side in enumerate((width, height)):
            # term by term: a product of matrices may have fewer digits on a GPU
            by_x, by_y, start, low, high = (
                part[:, None, None]
                for part in (*self.linear[:, axis].unbind(1), offset[:, axis], self.low[:, axis], self.high[:, axis])
            )
            place = (by_x * x + by_y * y + start).clamp(low, high)
            sources.append(place * (2 / (side - 1)) - 1)
        return torch.stack(sources, 3)


def _sample(tiles: Tensor, sources: Tensor, mode: str) -> Tensor:
    """Tiles (B, H, W) uint8 at `sources`, as float32."""
    return F.grid_sample(tiles[:, None].float(), sources, mode, padding_mode="reflection", align_corners=True)[:, 0]


@dataclass(frozen=True)
class Levels(Change):
    """Another grey level for each grey level; masks stay."""

    table: Tensor  # (B, 256) uint8

    def apply(self, images: Tensor, masks: Tensor) -> Batch:
        return self.table.gather(1, images.flatten(1).long()).view_as(images), masks


@dataclass(frozen=True)
class Blur(Change):
    """A convolution with the same weights along rows and columns, over a border as in Warp; masks stay."""

    kernel: Tensor  # (B, K) float32, K odd

    def apply(self, images: Tensor, masks: Tensor) -> Batch:
        half = self.kernel.shape[1] // 2
        x = F.pad(images.float(), (half,) * 4, mode="reflect")
        for axis in (1, 2):
            # weight by weight: a convolution's last digits would depend on how many tiles a batch has
            places = x.shape[axis] - 2 * half
            sums = torch.zeros_like(x.narrow(axis, 0, places))
            for i, weight in enumerate(self.kernel.T[:, :, None, None]):
                sums.addcmul_(x.narrow(axis, i, places), weight)
            x = sums
        return x.round_().clamp_(0, 255).byte(), masks
