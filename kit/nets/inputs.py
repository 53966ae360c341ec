"""What an encoder is shown of a tile, its size and its channels; and the way back to the tile's own pixels.

A tile is resized (or not), padded (or not), normalised, and joined by channels that tell where a pixel lies.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.errors import InputError

PADDING = {"pad-reflect": "reflect", "pad-edge": "replicate", "pad-random": "replicate"}  # torch's names
FITS = (*PADDING, "resize")
CHANNELS = ("grey", "depth", "y", "grey*y")
SMALLEST = 32  # pixels: less leaves nothing for an encoder's last stage

Corners = list[list[int]] | None  # for each tile the padding (above, left of) it; None: all in the middle


class Inputs(nn.Module):
    """Tiles of grey levels 0..255 and their relative depths -> an encoder's input; `back` takes its maps to the tiles.

    size: side of the input in pixels. resize: side that a tile gets first, 0 as it is. fit: how it then becomes `size`:
    "pad-reflect" and "pad-edge" with the tile in the middle; "pad-random" as "pad-edge", but in training mode the tile
    lies anywhere, by torch's generator; "resize" bilinear. channels: "grey3", the grey level thrice, or some of these
    joined by "+": "grey"; "depth", the relative depth everywhere; "y", 0 in the top row of the input and 1 in the
    bottom row; "grey*y", the product of both, in place of CoordConv's layers (Liu et al., NeurIPS 2018).
    mean, std: per channel of an RGB image scaled to 0..1; the grey level is normalised by them, a single one by their
    means. `check` says whether these values go together. The state dict is empty.
    """

    mean: Tensor
    std: Tensor
    rows: Tensor

    def __init__(
        self,
        *,
        size: int,
        resize: int = 0,
        fit: str = "pad-reflect",
        channels: str = "grey3",
        tile_size: int = 101,
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
    ):
        super().__init__()
        self.size, self.fit, self.tile_size = size, fit, tile_size
        self.side = size if fit == "resize" else resize or tile_size  # of the tile within the input
        self.names = ("grey",) if channels == "grey3" else tuple(channels.split("+"))
        for name, values in {"mean": mean, "std": std}.items():
            constant = torch.tensor(values).reshape(1, -1, 1, 1)
            if channels != "grey3":
                constant = constant.mean(1, keepdim=True)
            self.register_buffer(name, constant, persistent=False)
        self.register_buffer("rows", torch.linspace(0, 1, size).reshape(1, 1, -1, 1), persistent=False)

    @property
    def needs_depth(self) -> bool:
        return "depth" in self.names

    def forward(self, tiles: Tensor, depth: Tensor | None = None) -> tuple[Tensor, Corners]:
        """(B, T, T) or (B, 1, T, T) of any type and depth (B,) -> (B, C, size, size) float32 and where the tiles lie.

        ValueError for tiles of another shape, and where a depth is needed and there is none for each tile.
        """
        grey, corners = self._pad(_resize(self._levels(tiles), self.side))
        grey = (grey - self.mean) / self.std  # a grey level becomes as many channels as there are means
        channels = {"grey": grey, "y": self.rows.expand_as(grey), "grey*y": grey * self.rows}
        if self.needs_depth:
            channels["depth"] = self._depths(depth, grey.shape[0]).expand_as(grey)
        return torch.cat([channels[name] for name in self.names], 1), corners

    def back(self, maps: Tensor, corners: Corners) -> Tensor:
        """Maps of an input, (B, C, S, S) of any resolution -> of its tiles, (B, C, T, T)."""
        return _resize(self._cut(_resize(maps, self.size), corners), self.tile_size)

    def _levels(self, tiles: Tensor) -> Tensor:
        """(B, 1, T, T) float32 in 0..1."""
        # fastai's tensor types refuse to meet each other in one operation; torch.export shows a type that must stay
        x = tiles if torch.compiler.is_compiling() else tiles.as_subclass(Tensor)
        x = x.unsqueeze(1) if x.ndim == 3 else x
        if x.shape[1:] != (1, self.tile_size, self.tile_size):
            raise ValueError(f"tiles {tuple(tiles.shape)}: give (B, T, T) or (B, 1, T, T) with T = {self.tile_size}")
        return x.float() / 255

    def _depths(self, depth: Tensor | None, n: int) -> Tensor:
        if depth is None or depth.shape != (n,):
            shape = None if depth is None else tuple(depth.shape)
            raise ValueError(f"depth {shape}: the net sees depths, give one for each of the {n} tiles, (B,)")
        depth = depth if torch.compiler.is_compiling() else depth.as_subclass(Tensor)
        return depth.to(self.rows).reshape(-1, 1, 1, 1)

    def _pad(self, x: Tensor) -> tuple[Tensor, Corners]:
        spare = self.size - self.side
        mode = PADDING.get(self.fit, "replicate")
        if self.fit != "pad-random" or not self.training:
            before = spare // 2
            return F.pad(x, (before, spare - before, before, spare - before), mode=mode), None
        # drawn on the CPU: no waiting for a GPU, and the same places there
        corners = torch.randint(spare + 1, (len(x), 2)).tolist()
        wide = F.pad(x, (spare, spare, spare, spare), mode=mode)
        return _windows(wide, [[spare - top, spare - left] for top, left in corners], self.size), corners

    def _cut(self, maps: Tensor, corners: Corners) -> Tensor:
        if corners is not None:
            return _windows(maps, corners, self.side)
        before = (self.size - self.side) // 2
        return maps[..., before : before + self.side, before : before + self.side]


def _windows(x: Tensor, corners: list[list[int]], side: int) -> Tensor:
    """A square of each of (B, C, H, W), its own place for each: (B, C, side, side)."""
    each = zip(x, corners, strict=True)
    return torch.stack([one[:, top : top + side, left : left + side] for one, (top, left) in each])


def _resize(x: Tensor, side: int) -> Tensor:
    """Bilinear; the same tensor where it has that side already."""
    return x if x.shape[-1] == side else F.interpolate(x, (side, side), mode="bilinear", antialias=False)


def channel_count(channels: str) -> int:
    """How many channels an encoder gets. Raises InputError for a name that is none, or stands there twice."""
    if channels == "grey3":
        return 3
    names = channels.split("+")
    for name in names:
        if name not in CHANNELS:
            raise InputError(f"channels {channels!r}: {name!r} is unknown, use grey3 or {', '.join(CHANNELS)} with +")
        if names.count(name) > 1:
            raise InputError(f"channels {channels!r}: {name} stands there more than once, give each channel once")
    return len(names)


def check(*, size: int, resize: int, fit: str, tile_size: int) -> None:
    """Raises InputError for sizes that no tile of `tile_size` pixels can get."""
    if fit not in FITS:
        raise InputError(f"fit {fit!r} is unknown: use {' or '.join(FITS)}")
    if size < SMALLEST:
        raise InputError(f"size {size} is too small for an encoder's stages: give at least {SMALLEST}")
    if resize and fit == "resize":
        raise InputError(f"resize {resize} comes before padding: with fit resize leave it 0, or choose a fit that pads")
    if resize and resize < SMALLEST:
        raise InputError(f"resize {resize} is too small: give at least {SMALLEST}, or 0 to leave tiles as they are")
    if fit != "resize":
        _check_padding(size, resize or tile_size, fit)


def _check_padding(size: int, side: int, fit: str) -> None:
    if size < side:
        raise InputError(
            f"recipe key data.size {size} is smaller than a tile of {side} px: give at least {side}, or data.fit=resize"
        )
    widest = side + 2 * (side - 1)  # a reflection leaves the border pixel out
    if fit == "pad-reflect" and size > widest:
        raise InputError(f"size {size} needs more padding than a tile of {side} px reflects: give at most {widest}")
