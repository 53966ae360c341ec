"""The "salt" decoder: a lean U-Net decoder on any checked encoder, with the parts that the competition's winners used.

It spends little where pixels are many: no block is wider than the skip that it meets, and the finest block works at
the scale of the encoder's finest map (half the input's for most stems), from where the logits are interpolated.
"""

import math

import torch
from torch import Tensor, nn

from kit.errors import InputError
from kit.nets import blocks, switches
from kit.nets.blocks import BAM, SCSE
from kit.nets.encoders import Encoder
from kit.nets.heads import EmptyHead, Outputs
from kit.recipe import Salt

CHOICES = {
    "upsample": blocks.UPSAMPLING,
    "activation": tuple(blocks.ACTIVATIONS),
    "centre": ("none", *blocks.CENTRES),
    "scse": ("none", "decoder", "encoder", "both"),
}


class Block(nn.Module):
    """One scale up: x enlarged, the skip beside it, two 3x3 convolutions or two residual units, attention.

    `channels` of the result: `width`, but no more than the skip has; without a skip (0) no more than half of x's.
    """

    def __init__(self, inputs: int, skip: int, width: int, options: Salt):
        super().__init__()
        self.channels = min(width, skip or max(1, inputs // 2))
        self.gate = blocks.AttentionGate(skip, inputs) if options.gate and skip else None
        self.up = blocks.Upsample(inputs, self.channels, options.upsample)
        self.convs = _convs(self.up.channels + skip, self.channels, options)
        self.bam = BAM(self.channels) if options.bam else nn.Identity()
        self.scse = SCSE(self.channels) if options.scse in ("decoder", "both") else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """x (B, inputs, h, w), skip (B, skip, H, W) -> (B, channels, H, W); without a skip the side is doubled."""
        if skip is None:
            return self._merge(self.up(x, torch.Size(2 * side for side in x.shape[-2:])))
        up = self.up(x, skip.shape[-2:])
        return self._merge(torch.cat([up, self.gate(skip, x) if self.gate else skip], 1))

    def _merge(self, x: Tensor) -> Tensor:
        return self.scse(self.bam(self.convs(x)))


class SaltUnet(nn.Module):
    """(B, C, S, S) -> logits (B, 1, S, S) float32, or Outputs where the options ask for an extra head.

    The attention behind each encoder stage (options.bam, options.scse) is new and no part of the encoder. Deep maps
    come at the scale of each block, coarse to fine.
    """

    def __init__(self, encoder: Encoder, options: Salt):
        super().__init__()
        self.encoder = encoder
        self.attention = nn.ModuleList(_attention(channels, options) for channels in encoder.channels)
        self.centre, channels = _centre(encoder.channels[-1], options)
        built = _blocks(encoder, channels, options)
        widths = [block.channels for block in built]
        self.blocks = nn.ModuleList(built)
        self.hypercolumn = blocks.Hypercolumn(widths, widths[-1], options.activation) if options.hypercolumn else None
        self.dropout = nn.Dropout2d(options.dropout)
        self.mask = nn.Conv2d(widths[-1], 1, 1)
        self.deep = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in widths if options.deep)
        self.empty = EmptyHead(encoder.channels[-1]) if options.empty else None
        self.nonempty = nn.Conv2d(widths[-1], 1, 1) if options.nonempty else None

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[-2:]
        coarsest, scales = self._scales(x)
        fine = self.dropout(self.hypercolumn(scales) if self.hypercolumn else scales[-1])
        logits = blocks.resize(self.mask(fine).float(), size)
        deep = tuple(head(x).float() for head, x in zip(self.deep, scales, strict=False))  # all scales or none
        empty = self.empty(coarsest).float() if self.empty else None
        nonempty = blocks.resize(self.nonempty(fine).float(), size) if self.nonempty else None
        outputs = Outputs(logits, deep, empty, nonempty)
        return outputs if outputs.further else logits

    def _scales(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The encoder's coarsest map, and the map of each block, coarse to fine."""
        skips = []
        for stage, attention in zip(self.encoder, self.attention, strict=True):
            x = attention(stage(x))
            skips.append(x)
        coarsest, scales = skips.pop(), []
        x = self.centre(coarsest)
        for block in self.blocks:
            x = block(x, skips.pop() if skips else None)
            scales.append(x)
        return coarsest, scales


def build(encoder: Encoder, options: Salt) -> SaltUnet:
    """The decoder that the options describe around `encoder`, whose modules it takes over.

    The new layers are initialised at random. Raises InputError for options that cannot be.
    """
    for key, allowed in CHOICES.items():
        if getattr(options, key) not in allowed:
            raise InputError(f"recipe key salt.{key} {getattr(options, key)!r} is unknown: use {' or '.join(allowed)}")
    if options.width < 1:
        raise InputError(f"recipe key salt.width must be 1 or more, not {options.width}")
    switches.check_numbers(options)
    return SaltUnet(encoder, options)


def _convs(inputs: int, outputs: int, options: Salt) -> nn.Sequential:
    """What makes a block's map of what meets in it."""
    if not options.residual:
        return blocks.double_conv(inputs, outputs, options.activation)
    return blocks.residual_conv(inputs, outputs, options.activation).append(blocks.ACTIVATIONS[options.activation]())


def _attention(channels: int, options: Salt) -> nn.Sequential:
    """What stands behind an encoder stage; an empty Sequential hands on what it gets."""
    parts: list[nn.Module] = [BAM(channels)] if options.bam else []
    return nn.Sequential(*parts, *[SCSE(channels)] * (options.scse in ("encoder", "both")))


def _centre(channels: int, options: Salt) -> tuple[nn.Module, int]:
    """The centre, and how many channels leave it."""
    if options.centre == "none":
        return nn.Identity(), channels
    return blocks.CENTRES[options.centre](channels, options.width, options.activation), options.width


def _blocks(encoder: Encoder, channels: int, options: Salt) -> list[Block]:
    """A block for each skip, coarse to fine; one without a skip where the finest map is a quarter of the side."""
    bare = max(0, round(math.log2(encoder.reductions[0])) - 1)
    built: list[Block] = []
    for level, skip in enumerate((*reversed(encoder.channels[:-1]), *[0] * bare)):
        width = max(1, options.width >> level) if options.narrow else options.width
        built.append(Block(channels, skip, width, options))
        channels = built[-1].channels
    return built
