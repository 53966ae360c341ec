"""The published nets that are whole by themselves: no encoder of timm's, no pretrained weights.

All but one are U-Nets of one shape with other blocks. `salt.width` is the number of channels at full size and
`salt.dropout` the share that is dropped; the other switches of the recipe's `salt` table are refused.
A new net is one line in NETS.
"""

import difflib
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.errors import InputError
from kit.nets import blocks, switches
from kit.nets.heads import Outputs
from kit.recipe import Salt

HALVINGS = 4


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def bare(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, a ReLU behind each."""
    return nn.Sequential(conv3x3(inputs, outputs), nn.ReLU(), conv3x3(outputs, outputs), nn.ReLU())


def normed(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, a batch-norm and a ReLU behind each."""
    parts = [[conv3x3(a, outputs), nn.BatchNorm2d(outputs), nn.ReLU()] for a in (inputs, outputs)]
    return nn.Sequential(*parts[0], *parts[1])


def residual(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution, two residual units, a last batch-norm and ReLU."""
    return nn.Sequential(*blocks.residual_conv(inputs, outputs, "relu"), nn.BatchNorm2d(outputs), nn.ReLU())


class Unet(nn.Module):
    """(B, C, S, S) -> logits (B, 1, S, S): four max-pools, twice the channels behind each, and the same way back.

    Upwards a 3x3 convolution is transposed with stride 2, which makes 2 n + 1 pixels of n (Keras's "valid"); where the
    skip has 2 n the last row and column go (Keras's "same"). So any side comes back exactly: 101 is 50, 25, 12 and 6.
    Dropout of single values stands behind each pool, `first` times as strong behind the first, and behind each join.
    With skips=False the way back sees only the coarsest map.
    """

    def __init__(
        self,
        block: Callable[[int, int], nn.Module],
        in_channels: int,
        options: Salt,
        first: float = 0.5,
        skips: bool = True,
    ):
        super().__init__()
        widths = [options.width << level for level in range(HALVINGS + 1)]
        steps = list(pairwise(widths))
        self.skips = skips
        self.down = nn.ModuleList(block(a, b) for a, b in pairwise([in_channels, *widths[:-1]]))
        self.pooled = nn.ModuleList(nn.Dropout(options.dropout * (first if a == widths[0] else 1)) for a, _ in steps)
        self.middle = block(*steps[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 3, stride=2) for a, b in reversed(steps))
        self.joined = nn.ModuleList(nn.Dropout(options.dropout) for _ in steps)
        self.back = nn.ModuleList(block(b if skips else a, a) for a, b in reversed(steps))
        self.mask = nn.Conv2d(widths[0], 1, 1)
        self.apply(_as_keras)

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for down, dropout in zip(self.down, self.pooled, strict=True):
            maps.append(down(x))
            x = dropout(F.max_pool2d(maps[-1], 2))
        x = self.middle(x)
        for up, dropout, back in zip(self.up, self.joined, self.back, strict=True):
            skip = maps.pop()
            x = up(x)[..., : skip.shape[-2], : skip.shape[-1]]
            x = back(dropout(torch.cat([x, skip], 1) if self.skips else x))
        return self.mask(x)


def _as_keras(part: nn.Module) -> None:
    """Glorot's weights and zeros (Keras's defaults): torch's let a signal shrink at each layer without batch-norm."""
    if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(part.weight)
        if part.bias is not None:
            nn.init.zeros_(part.bias)


class Bottleneck(nn.Module):
    """relu(shortcut(x) + 1x1(3x3(1x1(x)))), a batch-norm behind each (He et al., CVPR 2016, fig. 5), 3x3 dilated."""

    def __init__(self, inputs: int, middle: int, outputs: int, stride: int, dilation: int):
        super().__init__()
        self.parts = nn.Sequential(
            blocks.conv(inputs, middle, "relu", 1),
            nn.Conv2d(middle, middle, 3, stride, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            *_project(middle, outputs, 1),
        )
        self.shortcut = nn.Sequential(*(_project(inputs, outputs, stride) if inputs != outputs else []))

    def forward(self, x: Tensor) -> Tensor:
        return (self.parts(x) + self.shortcut(x)).relu()


def _project(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)


def bottlenecks(inputs: int, middle: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Three in a row, of which the first changes channels and side."""
    rest = (Bottleneck(outputs, middle, outputs, 1, dilation) for _ in range(2))
    return nn.Sequential(Bottleneck(inputs, middle, outputs, stride, dilation), *rest)


class PspSmall(nn.Module):
    """The 15th place of TGS: a U-Net of bottlenecks with a dilated PSPNet (Zhao et al., CVPR 2017) at an eighth.

    (B, C, S, S) -> logits (B, 1, S, S); in training mode with options.deep heads.Outputs, whose one deep map (the
    auxiliary loss of PSPNet) is of an eighth of the side. Written for S = 8 n + 1 and 2 M parameters at width 32.
    """

    def __init__(self, in_channels: int, options: Salt):
        super().__init__()
        width = options.width
        self.stem = blocks.conv(in_channels, width, "relu")
        self.down = nn.ModuleList(
            nn.Sequential(bottlenecks(a, a // 2, 2 * a, stride=2), blocks.SCSE(2 * a, 2))
            for a in (width, 2 * width, 4 * width)
        )
        self.middle = nn.Sequential(
            bottlenecks(8 * width, 2 * width, 8 * width, dilation=2),
            bottlenecks(8 * width, 2 * width, 8 * width, dilation=4),
            blocks.PyramidPooling(8 * width, 4 * width, "relu"),
            blocks.SCSE(4 * width, 2),
        )
        self.up = nn.ModuleList(
            nn.Sequential(bottlenecks(2 * a, a // 4, a // 2), blocks.SCSE(a // 2, 2))
            for a in (4 * width, 2 * width, width)
        )
        self.mask = _head(options)
        first = blocks.conv(8 * width, width // 2, "relu")
        self.auxiliary = nn.Sequential(first, _head(options)) if options.deep else None

    def forward(self, x: Tensor) -> Tensor | Outputs:
        maps = [self.stem(x)]
        for down in self.down:
            maps.append(down(maps[-1]))
        coarsest = maps.pop()
        x = self.middle(coarsest)
        for up in self.up:
            skip = maps.pop()
            x = up(torch.cat([skip, blocks.resize(x, skip.shape[-2:])], 1))
        logits = self.mask(x).float()
        if self.auxiliary is None or not self.training:
            return logits
        return Outputs(logits, deep=(self.auxiliary(coarsest).float(),))


def _head(options: Salt) -> nn.Sequential:
    """The last layers of PspSmall."""
    return nn.Sequential(nn.Dropout2d(options.dropout), nn.Conv2d(options.width // 2, 1, 1))


# (channels of the input, the recipe's switches) -> net
NETS: dict[str, Callable[[int, Salt], nn.Module]] = {
    "capstone-tiny": partial(Unet, bare),
    "capstone-unet": partial(Unet, bare),
    "capstone-resunet": partial(Unet, residual),
    "plain-unet": partial(Unet, normed, first=1.0),
    "liu-resunet": partial(Unet, residual),
    "benchmark-cnn": partial(Unet, bare, skips=False),
    "psp-small": PspSmall,
}
SWITCHES = {name: ("width", "dropout", *["deep"] * (name == "psp-small")) for name in NETS}


def build(name: str, in_channels: int, size: int, options: Salt) -> nn.Module:
    """The classic net `name`: (B, in_channels, size, size) -> logits (B, 1, size, size).

    psp-small gives heads.Outputs in training mode with options.deep. Weights are random. Raises InputError for an
    unknown name, for switches that the net does not have, and for values that cannot be.
    """
    if name not in NETS:
        near = difflib.get_close_matches(name, NETS, cutoff=0.5) or sorted(NETS)
        raise InputError(f"no net is called {name!r}: use {' or '.join(near)}")
    _check(name, size, options)
    return NETS[name](in_channels, options).train()


def _check(name: str, size: int, options: Salt) -> None:
    has = SWITCHES[name]
    if foreign := switches.foreign(options, has):
        keys = ", ".join(f"salt.{key}" for key in has)
        raise InputError(f"{name} has no {', '.join(foreign)}: its keys are {keys}; leave out the others")
    step = 4 if name == "psp-small" else 1  # it divides its width by four
    if options.width < step or options.width % step:
        raise InputError(f"recipe key salt.width of {name} must be a multiple of {step} above 0, not {options.width}")
    switches.check_numbers(options)
    if size < 2**HALVINGS:
        raise InputError(f"size {size} is too small for {name}, which halves it {HALVINGS} times: give {2**HALVINGS}")
