"""Classic nets: their sources' parameter counts, the sides of their maps, and what their switches do."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.errors import InputError
from kit.nets import blocks, classic
from kit.nets.heads import Outputs
from kit.recipe import Salt

pytestmark = pytest.mark.slow

WIDTHS = [16, 32, 64, 128, 256]
NAMES = sorted(classic.NETS)


def build(name: str, channels: int = 1, size: int = 101, **options) -> nn.Module:
    torch.manual_seed(0)
    return classic.build(name, channels, size, Salt(**{"width": 8, **options}))


def image(size: int = 101, channels: int = 1, batch: int = 2) -> Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def watch(net: nn.Module, kind: type, note: Callable) -> list:
    """What `note` says of (module, input, output) of each module of a kind, in the order of the forward."""
    seen: list = []
    for part in net.modules():
        if isinstance(part, kind):
            part.register_forward_hook(lambda part, args, output: seen.append(note(part, args[0], output)))
    return seen


@pytest.mark.parametrize("size", [101, 128, 129])
@pytest.mark.parametrize("name", NAMES)
def test_a_logit_for_each_pixel_and_a_gradient_for_each_weight(name, size):
    net = build(name, channels=3, size=size)
    assert net.training
    logits = net(image(size, 3))
    assert logits.shape == (2, 1, size, size)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    convs = [part for part in net.modules() if isinstance(part, nn.Conv2d)]
    assert convs[0].weight.grad.any()
    assert convs[-1].weight.grad.any()


def conv(kernel: int, inputs: int, outputs: int) -> int:
    """The weights and biases of a convolution, by hand."""
    return kernel**2 * inputs * outputs + outputs


def unet(block: Callable[[int, int], int], inputs: int, widths: list[int], skips: bool = True) -> int:
    """A U-Net's parameters by hand, given those of a block."""
    down = sum(map(block, [inputs, *widths[:-1]], widths))
    up = sum(conv(3, b, a) + block(b if skips else a, a) for a, b in pairwise(widths))
    return down + up + conv(1, widths[0], 1)


def test_the_residual_unets_have_the_parameters_that_their_source_printed():
    """LiuYuqing14/Salt-Identify, model_construct.py: 5,112,497 trainable, 7,360 non-trainable."""
    for name in ("liu-resunet", "capstone-resunet"):
        net = build(name, width=16)
        assert count(net) == 5_112_497
        statistics = [value for key, value in net.state_dict().items() if "running" in key]
        assert sum(value.numel() for value in statistics) == 7_360


def test_the_plain_unet_has_the_parameters_that_its_model_printed_and_the_second_convolutions():
    """Lamba's notebook printed 1,177,649: by a slip a block's second convolution replaced the first there."""
    second = sum(conv(3, width, width) + 2 * width for width in [*WIDTHS, *WIDTHS[:-1]])
    assert count(build("plain-unet", width=16)) == 1_177_649 + second


def test_the_nets_without_batch_norm_have_the_parameters_counted_by_hand():
    def block(inputs, outputs):
        return conv(3, inputs, outputs) + conv(3, outputs, outputs)

    assert count(build("capstone-unet", width=16)) == unet(block, 1, WIDTHS)
    assert count(build("capstone-tiny", width=3)) == unet(block, 1, [3, 6, 12, 24, 48])
    assert count(build("benchmark-cnn", width=16)) == unet(block, 1, WIDTHS, skips=False)


def test_the_small_pspnet_is_the_8_megabytes_of_its_source_less_guided_upsampling():
    def bare(kernel, inputs, outputs):  # without a bias, with a batch-norm
        return kernel**2 * inputs * outputs + 2 * outputs

    def layer(inputs, middle, outputs):
        each = [bare(1, a, middle) + bare(3, middle, middle) + bare(1, middle, outputs) for a in (inputs, outputs)]
        shortcut = bare(1, inputs, outputs) if inputs != outputs else 0
        return each[0] + shortcut + 2 * each[1]

    def scse(channels):
        return conv(1, channels, channels // 2) + conv(1, channels // 2, channels) + conv(1, channels, 1)

    # channels of adam9500370/Kaggle-TGS, ptsemseg/models/pspnet.py, with its f_scale of 2
    down = [(32, 16, 64), (64, 32, 128), (128, 64, 256), (256, 64, 256), (256, 64, 256)]
    up = [(256, 32, 64), (128, 16, 32), (64, 8, 16)]
    pooling = 4 * bare(1, 256, 64) + bare(3, 512, 128)
    attention = sum(scse(channels) for channels in (64, 128, 256, 128, 64, 32, 16))
    net = bare(3, 1, 32) + sum(layer(*each) for each in [*down, *up]) + pooling + attention + conv(1, 16, 1)
    auxiliary = bare(3, 256, 16) + conv(1, 16, 1)
    assert count(build("psp-small", width=32)) == net
    assert count(build("psp-small", width=32, deep=0.4)) == net + auxiliary
    offsets = [(1, 32, 128), (3, 128, 128), (3, 128, 64), (3, 64, 32), (3, 32, 2), (1, 128, 16)]
    guided = sum(bare(*each) for each in offsets)
    assert 4 * (net + auxiliary + guided) == pytest.approx(8e6, rel=0.1)


@pytest.mark.parametrize(
    ("size", "sides"),
    [(101, [101, 50, 25, 12, 6, 12, 25, 50, 101]), (128, [128, 64, 32, 16, 8, 16, 32, 64, 128])],
)
def test_the_sides_of_the_maps_are_those_of_the_source(size, sides):
    net = build("capstone-resunet", size=size)
    seen = watch(net, blocks.Residual, lambda part, x, output: output.shape[-1])
    net(image(size))
    assert seen == [side for side in sides for _ in range(2)]  # two units at each scale


@pytest.mark.parametrize("side", [24, 25])
def test_a_transposed_convolution_is_the_gradient_of_kerass_strided_one(side):
    """Keras pads 2 n pixels by one behind ("same") and 2 n + 1 not at all ("valid"): n are left of either."""
    up = build("capstone-unet").up[0]
    x = image(12, up.in_channels)
    fine = torch.zeros(2, up.out_channels, side, side, requires_grad=True)
    behind = 1 - side % 2
    coarse = F.conv2d(F.pad(fine, (0, behind, 0, behind)), up.weight, stride=2)
    assert coarse.shape[-1] == 12
    (expected,) = torch.autograd.grad(coarse, fine, x)
    torch.testing.assert_close(up(x)[..., :side, :side] - up.bias[:, None, None], expected)


@pytest.mark.parametrize(("name", "first"), [("capstone-resunet", 0.2), ("plain-unet", 0.4)])
def test_dropout_stands_behind_pools_and_joins_and_is_halved_behind_the_first_pool_of_the_capstones(name, first):
    net = build(name, dropout=0.4, width=16)
    shares = watch(net, nn.Dropout, lambda part, x, out: float(((out == 0) & (x != 0)).sum() / (x != 0).sum()))
    net(image(101, batch=4))
    assert shares == pytest.approx([first, *[0.4] * 7], abs=0.06)
    net.eval()
    with torch.no_grad():
        assert torch.equal(net(image()), net(image()))


def test_only_the_floor_has_no_skips():
    """With the coarsest map blotted out, another image changes the logits through the skips alone."""
    for name, skips in [("benchmark-cnn", False), ("capstone-unet", True)]:
        net = build(name).eval()
        net.middle.register_forward_hook(lambda part, args, output: torch.zeros_like(output))
        with torch.no_grad():
            a, b = net(image()), net(1 - image())
        assert torch.equal(a, b) is not skips


def test_a_signal_reaches_the_logits_of_a_deep_net_without_batch_norm():
    """With torch's own initialisation the logits of all pixels are one number to four digits."""
    with torch.no_grad():
        logits = build("capstone-unet", width=16).eval()(image())
    assert logits.std() > 0.01


def test_the_auxiliary_head_speaks_in_training_only():
    net = build("psp-small", size=129, deep=0.4)
    outputs = net(image(129))
    assert isinstance(outputs, Outputs)
    assert outputs.logits.shape == (2, 1, 129, 129)
    assert [tuple(each.shape) for each in outputs.deep] == [(2, 1, 17, 17)]
    assert isinstance(net.eval()(image(129)), Tensor)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("capstone-unt", {}, "capstone-unet"),
        ("plain-unet", {"scse": "both"}, "plain-unet has no salt.scse"),
        ("plain-unet", {"deep": 0.5}, "plain-unet has no salt.deep"),
        ("psp-small", {"deep": 0.5, "deep_nonempty": True}, "psp-small has no salt.deep_nonempty"),
        ("psp-small", {"width": 6}, "multiple of 4"),
        ("capstone-unet", {"width": 0}, "above 0"),
        ("capstone-unet", {"dropout": 1.0}, "salt.dropout"),
        ("psp-small", {"deep": -1.0}, "salt.deep"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name, options, words):
    with pytest.raises(InputError, match=words) as caught:
        build(name, **options)
    assert "\n" not in str(caught.value)


def test_a_side_too_small_is_refused():
    with pytest.raises(InputError, match="size 15 is too small"):
        build("capstone-unet", size=15)
