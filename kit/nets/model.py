"""The whole net of a recipe: tiles as the competition gives them in, logits of the same tiles out."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.errors import InputError
from kit.nets import decoders, encoders

CHANNELS = {"grey3": 3, "grey": 1}
PADDING = {"pad-reflect": "reflect", "pad-edge": "replicate"}  # torch's names
FITS = (*PADDING, "resize")
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TileNet(nn.Module):
    """Tiles of grey levels 0..255, (B, T, T) or (B, 1, T, T), uint8 or float -> logits (B, T, T) float32.

    Inside: scaled to 0..1 and normalised as the encoder's weights were trained, padded or resized to `size` pixels,
    run under autocast in `precision` (None is float32), and cut or resized back. T is `tile_size`. ValueError for tiles
    of another shape. The state dict holds what is learnt: neither the constants nor anything twice.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: encoders.Encoder,
        decoder: str,
        *,
        size: int,
        fit: str,
        channels: str,
        tile_size: int,
        precision: torch.dtype | None,
    ):
        super().__init__()
        self.size, self.fit, self.tile_size, self.precision = size, fit, tile_size, precision
        for name, values in {"mean": encoder.mean, "std": encoder.std}.items():
            constant = torch.tensor(values).reshape(1, -1, 1, 1)
            if CHANNELS[channels] == 1:
                constant = constant.mean(1, keepdim=True)
            self.register_buffer(name, constant, persistent=False)
        self.decoder = decoders.build(decoder, encoder, size)
        self._groups = self._name_groups(encoder)
        self.to(memory_format=torch.channels_last)

    def forward(self, tiles: Tensor) -> Tensor:
        # fastai's tensor types refuse to meet each other in one operation
        x = tiles.as_subclass(Tensor)
        x = x.unsqueeze(1) if x.ndim == 3 else x
        if x.shape[1:] != (1, self.tile_size, self.tile_size):
            raise ValueError(f"tiles {tuple(tiles.shape)}: give (B, T, T) or (B, 1, T, T) with T = {self.tile_size}")
        # a grey level becomes as many channels as there are means
        x = (self._fit(x.float() / 255) - self.mean) / self.std
        # DynamicUnet's last cross puts the input beside the last maps: in float32 it would make them float32 too
        x = x.to(self.precision or torch.float32, memory_format=torch.channels_last)
        with torch.autocast(x.device.type, dtype=self.precision, enabled=self.precision is not None):
            logits = self.decoder(x)
        return self._unfit(logits.float()).squeeze(1)

    def _fit(self, x: Tensor) -> Tensor:
        if self.fit == "resize":
            return F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=False)
        before, after = self._margins
        return F.pad(x, (before, after, before, after), mode=PADDING[self.fit])

    def _unfit(self, x: Tensor) -> Tensor:
        if self.fit == "resize":
            return F.interpolate(x, (self.tile_size, self.tile_size), mode="bilinear", antialias=False)
        tile = slice(self._margins[0], self._margins[0] + self.tile_size)
        return x[..., tile, tile]

    @property
    def _margins(self) -> tuple[int, int]:
        """Pixels of padding before and after the tile: 13 and 14 from 101 to 128."""
        spare = self.size - self.tile_size
        return spare // 2, spare - spare // 2

    def _name_groups(self, encoder: encoders.Encoder) -> list[list[str]]:
        """The names of the parameters by group: names last through copies, parameters do not."""
        half = (len(encoder) + 1) // 2
        early = {id(p) for stage in list(encoder)[:half] for p in stage.parameters()}
        late = {id(p) for stage in list(encoder)[half:] for p in stage.parameters()}
        groups: list[list[str]] = [[], [], []]
        for name, p in self.named_parameters():
            groups[0 if id(p) in early else 1 if id(p) in late else 2].append(name)
        return groups

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """Every parameter once, for learning rates by depth: first half of the encoder's stages, second half, decoder.

        The middle stage of an odd number is in the first half, as in fastai's own split of a resnet.
        """
        parameters = dict(self.named_parameters())
        return [[parameters[name] for name in names] for names in self._groups]


def build(
    *,
    encoder: str = "resnet34",
    decoder: str = "dynamic",
    stem: str = "own",
    size: int = 128,
    fit: str = "pad-reflect",
    channels: str = "grey3",
    pretrained: bool = True,
    weights: str | None = None,
    tile_size: int = 101,
    precision: str = "auto",
) -> TileNet:
    """The net that a recipe names; see encoders.build for encoder, stem, pretrained and weights.

    size: side in pixels of what the encoder sees, reached by fit: "pad-reflect", "pad-edge" or "resize" (bilinear).
    channels: "grey3" repeats the grey level thrice, "grey" gives it once. precision: "float32", "bfloat16", "float16",
    or "auto" for the best of this machine. Raises InputError for a value that cannot be.
    """
    _check("fit", fit, FITS)
    _check("channels", channels, CHANNELS)
    _check("precision", precision, ("auto", *PRECISIONS))
    _check_size(size, fit, tile_size)
    stages = encoders.build(
        encoder,
        in_channels=CHANNELS[channels],
        stem=stem,
        pretrained=pretrained,
        weights=weights,
        image_size=size,
    )
    auto = precision == "auto"
    return TileNet(
        stages,
        decoder,
        size=size,
        fit=fit,
        channels=channels,
        tile_size=tile_size,
        precision=best_precision("cuda" if torch.cuda.is_available() else "cpu") if auto else PRECISIONS[precision],
    )


def _check(key: str, value: str, allowed: Any) -> None:
    if value not in allowed:
        raise InputError(f"{key} {value!r} is unknown: use {' or '.join(allowed)}")


def _check_size(size: int, fit: str, tile_size: int) -> None:
    if size < 32:
        raise InputError(f"size {size} is too small for an encoder's stages: give at least 32")
    if fit == "resize":
        return
    if size < tile_size:
        raise InputError(
            f"size {size} is smaller than a tile of {tile_size} px: give at least {tile_size}, or fit resize"
        )
    # a reflection leaves the border pixel out, so it is at most one pixel short of the tile
    widest = tile_size + 2 * (tile_size - 1)
    if fit == "pad-reflect" and size > widest:
        raise InputError(
            f"size {size} needs more padding than a tile of {tile_size} px reflects: give at most {widest}"
        )


def best_precision(device: str | torch.device) -> torch.dtype | None:
    """The fastest type that autocast should use on `device`; None where float32 is.

    GPUs: bfloat16 from compute capability 8.0, else float16 (`torch.cuda.is_bf16_supported` is true on a T4 as well,
    by slow emulation). CPUs: bfloat16 where they have instructions for it.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if kind == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return torch.bfloat16
    return None


def parameter_count(net: nn.Module) -> int:
    """How many numbers the net learns."""
    return sum(p.numel() for p in net.parameters())
