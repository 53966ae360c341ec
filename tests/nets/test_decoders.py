"""Decoders: fastai's own net as the truth, skips, copies, and one step of training on each encoder that is promised."""

from copy import deepcopy

import pytest
import torch
from fastai.vision.models import unet
from safetensors.torch import save_file
from torch import nn

from kit.errors import InputError
from kit.nets import decoders, encoders, losses

pytestmark = pytest.mark.slow

TINY = "test_resnet.r160_in1k"
WIDE = "mobilenetv3_small_100"  # ends with 576 channels


def encoder(name: str = TINY, seed: int = 0, size: int = 128, **kwargs) -> encoders.Encoder:
    torch.manual_seed(seed)
    return encoders.build(name, pretrained=False, image_size=size, **kwargs)


def image(size: int = 128, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def dynamic(name: str = TINY, size: int = 128, **kwargs) -> nn.Module:
    return decoders.build("dynamic", encoder(name, size=size, **kwargs), size)


@pytest.mark.parametrize("size", [101, 128, 160])
@pytest.mark.parametrize("stem", encoders.STEMS)
def test_a_logit_for_each_pixel(stem, size):
    net = dynamic(size=size, stem=stem)
    assert net(image(size)).shape == (2, 1, size, size)
    assert net.training


def test_maps_that_do_not_double_are_resized_to_the_skip():
    net = dynamic("legacy_xception", size=160)  # 77, 39, 20, 10, 5 px
    assert len(net.sfs) == 4
    assert net(image(160)).shape == (2, 1, 160, 160)


def test_dynamic_is_fastais_net():
    stages = encoder()
    torch.manual_seed(1)
    theirs = unet.DynamicUnet(deepcopy(nn.Sequential(*stages)), 1, (128, 128)).eval()
    torch.manual_seed(1)
    ours = decoders.build("dynamic", stages, 128).eval()
    with torch.no_grad():
        assert torch.equal(ours(image()), theirs(image()))


def test_the_encoder_keeps_its_weights():
    stages = encoder(WIDE)
    before = deepcopy(stages.state_dict())
    decoders.build("dynamic", stages, 128)
    assert all(torch.equal(before[key], value) for key, value in stages.state_dict().items())


def test_a_wide_encoder_gets_a_neck_and_a_narrow_one_none():
    wide, narrow = dynamic(WIDE), dynamic(TINY)
    neck = wide.layers[0][-1]
    assert (neck[0].in_channels, neck[0].out_channels, neck[0].kernel_size) == (576, 512, (1, 1))
    assert wide.layers[1].num_features == 512
    assert len(narrow.layers[0]) == 5
    assert narrow.layers[1].num_features == 96


def test_every_skip_reaches_the_logits():
    """Noise on the maps of any one stage, as only the skip sees it, changes the logits."""
    net = dynamic().eval()
    stages = list(net.layers[0])
    with torch.no_grad():
        plain = net(image())
        for hook, stage in zip(net.sfs, reversed(stages[:-1]), strict=True):
            noisy = stage.register_forward_hook(lambda _, __, out, hook=hook: setattr(hook, "stored", out + 1))
            assert not torch.allclose(net(image()), plain)
            noisy.remove()
        assert torch.equal(net(image()), plain)


def test_a_net_that_has_trained_can_be_copied_and_the_copy_lives_alone():
    net = dynamic()
    net(image()).mean().backward()
    assert all(hook.stored is None for hook in net.sfs)
    copy = deepcopy(net).eval()
    net.eval()
    with torch.no_grad():
        expected = net(image())
        assert torch.equal(copy(image()), expected)
        for parameter in net.parameters():
            parameter.zero_()
        assert torch.equal(copy(image()), expected)
        assert not torch.equal(net(image()), expected)


def test_the_state_holds_every_tensor_once(tmp_path):
    net = dynamic()
    save_file(net.state_dict(), tmp_path / "net.safetensors")  # refuses tensors that share memory
    assert len(list(net.parameters())) == sum("running" not in k and "num_batches" not in k for k in net.state_dict())


@pytest.mark.parametrize("name", ["dynamc", "unet++"])
def test_an_unknown_decoder_is_refused_with_those_there_are(name):
    with pytest.raises(InputError, match=r"dynamic or salt, .* capstone-tiny, .* plain-unet"):
        decoders.build(name, encoder(), 128)


@pytest.mark.parametrize(
    ("name", "skips"),
    [
        ("resnet18", 4),
        ("resnet34", 4),
        ("resnet50", 4),
        ("seresnext50_32x4d", 4),
        ("densenet121", 4),
        ("efficientnet_b0", 4),
        ("convnext_tiny", 3),
        ("mobilenetv3_large_100", 4),
    ],
)
def test_one_step_of_training(name, skips):
    net = dynamic(name, size=64)
    assert len(net.sfs) == skips
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
    # the first convolution of the encoder and the last of the decoder
    ends = [next(net.layers[0].parameters()), list(net.layers[-1].parameters())[-1]]
    before = [end.detach().clone() for end in ends]
    targets = (torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    loss = losses.bce(net(image(64)).squeeze(1), targets)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert all(end.grad.abs().max() > 0 for end in ends)
    optimiser.step()
    assert not any(torch.equal(end, old) for end, old in zip(ends, before, strict=True))
