"""Building blocks of decoders, each the plain form of one paper's idea. Sizes follow the maps, so odd sides work too.

`activation` is a name of ACTIVATIONS, `inputs` and `outputs` are channels, maps are (B, C, H, W) of any float dtype.
"""

from collections.abc import Callable
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "elu": partial(nn.ELU, inplace=True),
    "silu": nn.SiLU,
    "mish": nn.Mish,
}
UPSAMPLING = ("bilinear", "nearest", "transposed")


def conv(inputs: int, outputs: int, activation: str, kernel: int = 3, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the side, batch-norm, activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        ACTIVATIONS[activation](),
    )


def resize(x: Tensor, size: torch.Size) -> Tensor:
    """x bilinearly brought to (H, W) = size; the same tensor where it has that size."""
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


class SCSE(nn.Module):
    """Concurrent spatial and channel squeeze and excitation (Roy et al., MICCAI 2018, eq. 2 to 4), added.

    x * sigmoid(W2 relu(W1 mean(x))) + x * sigmoid(w . x). Reduction 16 as in SE-Net and the TGS solutions. Both gates
    begin at a half, so a fresh module changes nothing: behind a pretrained stage it does no harm.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(1, channels // reduction)
        last = nn.Conv2d(hidden, channels, 1)
        self.channel = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), last)
        self.spatial = nn.Conv2d(channels, 1, 1)
        for value in (*last.parameters(), *self.spatial.parameters()):
            nn.init.zeros_(value)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.channel(x.mean((2, 3), keepdim=True)).sigmoid() + self.spatial(x).sigmoid()
        return x * gate


class BAM(nn.Module):
    """Bottleneck attention module (Park et al., BMVC 2018, section 3): x + x * sigmoid(channel(x) + spatial(x)).

    channel = BN(W1 relu(W0 mean(x))); spatial = BN(1x1(3x3(3x3(1x1(x))))) with dilation 4, and a batch-norm and ReLU
    behind each but the last as in the authors' code. Reduction 16.
    """

    def __init__(self, channels: int, reduction: int = 16, dilation: int = 4):
        super().__init__()
        hidden = max(1, channels // reduction)
        self.channel = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1),
            nn.BatchNorm2d(channels),
        )
        self.spatial = nn.Sequential(
            conv(channels, hidden, "relu", 1),
            conv(hidden, hidden, "relu", 3, dilation),
            conv(hidden, hidden, "relu", 3, dilation),
            nn.Conv2d(hidden, 1, 1),
            nn.BatchNorm2d(1),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate = (self.channel(x.mean((2, 3), keepdim=True)) + self.spatial(x)).sigmoid()
        return x + x * gate


class AttentionGate(nn.Module):
    """Additive attention on a skip (Oktay et al., MIDL 2018, eq. 1 and 2): skip * sigmoid(psi relu(Wx skip + Wg g)).

    As in the paper the coefficients live on the coarse grid of the gating map g (skip is averaged down to it) and are
    interpolated up, which costs next to nothing. skip (B, C, H, W), g (B, D, h, w) -> (B, C, H, W).
    """

    def __init__(self, skip: int, gating: int):
        super().__init__()
        hidden = max(1, skip // 2)
        self.skip = nn.Conv2d(skip, hidden, 1, bias=False)
        self.gating = nn.Conv2d(gating, hidden, 1)
        self.psi = nn.Conv2d(hidden, 1, 1)

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        coarse = F.adaptive_avg_pool2d(skip, (gating.shape[-2], gating.shape[-1]))
        alpha = self.psi((self.skip(coarse) + self.gating(gating)).relu()).sigmoid()
        return skip * resize(alpha, skip.shape[-2:])


class Upsample(nn.Module):
    """x at another size by a name of UPSAMPLING; "transposed" is U-Net's 2x2 convolution of stride 2 to `outputs`.

    A transposed convolution doubles; where the wanted size is not the double, its result is resized. `channels` says
    how many the result has: interpolation keeps `inputs`.
    """

    def __init__(self, inputs: int, outputs: int, how: str):
        super().__init__()
        self.how = how
        self.channels = outputs if how == "transposed" else inputs
        if how == "transposed":
            self.twice = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        if self.how == "nearest":
            return F.interpolate(x, size, mode="nearest")
        return resize(self.twice(x) if self.how == "transposed" else x, size)


class Hypercolumn(nn.Module):
    """A 1x1 convolution of the maps of all scales at each pixel of the finest, batch-norm, activation.

    Hariharan et al., CVPR 2015, section 3. The convolution of the stacked maps is the sum of convolutions of each, and
    a 1x1 convolution commutes with interpolation: so each scale is convolved at its own size, for the same numbers.
    """

    def __init__(self, inputs: list[int], outputs: int, activation: str):
        super().__init__()
        self.scales = nn.ModuleList(nn.Conv2d(channels, outputs, 1, bias=False) for channels in inputs)
        self.last = nn.Sequential(nn.BatchNorm2d(outputs), ACTIVATIONS[activation]())

    def forward(self, maps: list[Tensor]) -> Tensor:
        """maps: coarse to fine."""
        parts = [resize(scale(x), maps[-1].shape[-2:]) for scale, x in zip(self.scales, maps, strict=True)]
        return self.last(reduce(torch.add, parts))


class FeaturePyramidAttention(nn.Module):
    """The centre of the Pyramid Attention Network (Li et al., BMVC 2018, section 3.1), without its 7x7 branch.

    1x1(x) * up(5x5(a) + up(3x3(b))) + 1x1(mean(x)) with a = 5x5(pool(x)) and b = 3x3(pool(a)). Left out as by the
    first place of TGS: on maps of 4 to 16 pixels a kernel of 7 sees mostly padding.
    """

    def __init__(self, inputs: int, outputs: int, activation: str):
        super().__init__()
        self.local = conv(inputs, outputs, activation, 1)
        self.whole = nn.Conv2d(inputs, outputs, 1)
        self.down = nn.ModuleList([conv(inputs, outputs, activation, 5), conv(outputs, outputs, activation, 3)])
        self.side = nn.ModuleList([conv(outputs, outputs, activation, 5), conv(outputs, outputs, activation, 3)])

    def forward(self, x: Tensor) -> Tensor:
        half = self.down[0](F.max_pool2d(x, 2, ceil_mode=True))
        quarter = self.down[1](F.max_pool2d(half, 2, ceil_mode=True))
        weight = self.side[0](half) + resize(self.side[1](quarter), half.shape[-2:])
        return self.local(x) * resize(weight, x.shape[-2:]) + self.whole(x.mean((2, 3), keepdim=True))


class PyramidPooling(nn.Module):
    """PSPNet's module (Zhao et al., CVPR 2017, section 3.2): means over 1, 4, 9 and 36 regions beside x, then 3x3."""

    def __init__(self, inputs: int, outputs: int, activation: str):
        super().__init__()
        share = max(1, inputs // 4)
        self.levels = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), conv(inputs, share, activation, 1)) for side in (1, 2, 3, 6)
        )
        self.last = conv(inputs + 4 * share, outputs, activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([x, *(resize(level(x), x.shape[-2:]) for level in self.levels)], 1))


class Dilated(nn.Module):
    """D-LinkNet's centre (Zhou et al., CVPR workshops 2018, fig. 2): 3x3 with dilation 1, 2, 4 in a row, all summed."""

    def __init__(self, inputs: int, outputs: int, activation: str):
        super().__init__()
        self.first = conv(inputs, outputs, activation, 1)
        self.layers = nn.ModuleList(conv(outputs, outputs, activation, 3, dilation) for dilation in (1, 2, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        total = x
        for layer in self.layers:
            x = layer(x)
            total = total + x
        return total


def double_conv(inputs: int, outputs: int, activation: str) -> nn.Sequential:
    """Two 3x3 convolutions, as U-Net has them at each scale."""
    return nn.Sequential(conv(inputs, outputs, activation), conv(outputs, outputs, activation))


class Residual(nn.Module):
    """x + conv(act(bn(conv(act(bn(x)))))): the full pre-activation unit (He et al., ECCV 2016, fig. 4e), 3x3."""

    def __init__(self, channels: int, activation: str):
        super().__init__()
        self.parts = nn.Sequential()
        for _ in range(2):
            conv3x3 = nn.Conv2d(channels, channels, 3, padding=1)
            self.parts.extend([nn.BatchNorm2d(channels), ACTIVATIONS[activation](), conv3x3])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.parts(x)


def residual_conv(inputs: int, outputs: int, activation: str) -> nn.Sequential:
    """A 3x3 convolution and two residual units, as the residual U-Nets of TGS's kernels have them at each scale."""
    units = (Residual(outputs, activation) for _ in range(2))
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), *units)


# (inputs, outputs, activation) -> what stands between encoder and decoder
CENTRES: dict[str, Callable[[int, int, str], nn.Module]] = {
    "conv": double_conv,
    "fpa": FeaturePyramidAttention,
    "psp": PyramidPooling,
    "dilated": Dilated,
}
