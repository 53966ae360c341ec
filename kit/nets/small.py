"""An encoder for a CPU, registered with timm under `salt_small`, so that recipes name it as they name any other.

Full resolution is where a small net on a CPU spends its time, so there is none: 2x2 pixels become the channels of one
(no pixel is lost, as one is by a stride or a pool), and residual stages follow from half resolution on.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

CHANNELS = (48, 96, 160, 256)
BLOCKS = (1, 2, 2, 2)


class Residual(nn.Module):
    """ResNet's basic block (He et al., CVPR 2016); it begins as the identity, which high learning rates need."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        last = nn.BatchNorm2d(outputs)
        nn.init.zeros_(last.weight)
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            last,
        )
        same = stride == 1 and inputs == outputs
        self.short = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity(),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.short(x))


class SmallEncoder(nn.Module):
    """(B, C, S, S), S even -> (B, 256, S / 16, S / 16), rounded up, through stages of 48, 96, 160 and 256 channels."""

    def __init__(self, in_chans: int = 3, num_classes: int = 0, **unused: Any):
        super().__init__()
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * in_chans, CHANNELS[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(CHANNELS[0]),
            nn.ReLU(inplace=True),
        )
        stages, inputs = [], CHANNELS[0]
        for depth, (outputs, count) in enumerate(zip(CHANNELS, BLOCKS, strict=True)):
            strides = [2 if depth else 1] + [1] * (count - 1)
            widths = [inputs] + [outputs] * (count - 1)
            pairs = zip(widths, strides, strict=True)
            stages.append(nn.Sequential(*(Residual(width, outputs, stride) for width, stride in pairs)))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.feature_info = [
            {"num_chs": channels, "reduction": 2 ** (depth + 1), "module": f"stages.{depth}"}
            for depth, channels in enumerate(CHANNELS)
        ]

    def forward_features(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x)


default_cfgs = generate_default_cfgs({"salt_small.untrained": {"mean": (0.5,) * 3, "std": (0.25,) * 3, "url": ""}})


@register_model
def salt_small(pretrained: bool = False, **options: Any) -> SmallEncoder:
    """4 M parameters; there are no pretrained weights."""
    return build_model_with_cfg(SmallEncoder, "salt_small", pretrained, **options)
