"""The whole net: what the encoder is shown, what comes back, in which precision, and what learns together."""

from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fastai.vision.core import TensorImage
from safetensors.torch import load_file, save_file
from torch import nn

from kit.errors import InputError
from kit.nets import decoders, model

TINY = "test_resnet.r160_in1k"  # mean and std are 0.5


class Mirror(nn.Module):
    """Stands for a decoder: keeps what it is shown and gives its first channel back as logits."""

    def __init__(self, encoder, image_size):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        self.seen = x
        return x[:, :1]


@pytest.fixture
def mirror(monkeypatch):
    monkeypatch.setitem(decoders.DECODERS, "mirror", Mirror)
    return "mirror"


def tiles(n: int = 3, size: int = 101) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, size, size), dtype=np.uint8))


def build(**kwargs) -> model.TileNet:
    torch.manual_seed(0)
    return model.build(**{"encoder": TINY, "pretrained": False, "precision": "float32", **kwargs})


@pytest.mark.parametrize("size", [101, 102, 128, 160, 202])
@pytest.mark.parametrize("fit", ["pad-reflect", "pad-edge"])
def test_padding_is_numpys_and_is_cut_off_exactly(fit, size, mirror):
    net = build(decoder=mirror, fit=fit, size=size)
    logits = net(tiles())
    before = (size - 101) // 2
    width = ((0, 0), (before, size - 101 - before), (before, size - 101 - before))
    scaled = (tiles().numpy().astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    padded = np.pad(scaled, width, mode="reflect" if fit == "pad-reflect" else "edge")
    for channel in range(3):
        np.testing.assert_array_equal(net.decoder.seen[:, channel].numpy(), padded)
    np.testing.assert_array_equal(logits.numpy(), scaled)


def test_101_is_padded_by_13_before_and_14_after(mirror):
    net = build(decoder=mirror, fit="pad-edge")
    spot = torch.zeros(1, 101, 101, dtype=torch.uint8)
    spot[0, 40, 50] = 255
    net(spot)
    assert (net.decoder.seen[0, 0] > 0).nonzero().tolist() == [[53, 63]]


def test_resizing_is_bilinear_there_and_back(mirror):
    net = build(decoder=mirror, fit="resize", size=202)
    logits = net(tiles()).numpy()
    scaled = tiles().numpy().astype(np.float32) / 127.5 - 1
    large = np.stack([cv2.resize(tile, (202, 202), interpolation=cv2.INTER_LINEAR) for tile in scaled])
    np.testing.assert_allclose(net.decoder.seen[:, 1].numpy(), large, atol=1e-5)
    back = np.stack([cv2.resize(tile, (101, 101), interpolation=cv2.INTER_LINEAR) for tile in large])
    np.testing.assert_allclose(logits, back, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "means"), [("grey3", [0.485, 0.456, 0.406]), ("grey", [(0.485 + 0.456 + 0.406) / 3])]
)
def test_grey_levels_are_normalised_as_the_encoder_was_trained(channels, means, mirror):
    net = build(encoder="mobilenetv3_small_050", decoder=mirror, channels=channels)
    stds = [0.229, 0.224, 0.225] if channels == "grey3" else [(0.229 + 0.224 + 0.225) / 3]
    net(torch.full((1, 101, 101), 51, dtype=torch.uint8))
    expected = [(0.2 - mean) / std for mean, std in zip(means, stds, strict=True)]
    torch.testing.assert_close(net.decoder.seen.amax((0, 2, 3)), torch.tensor(expected))
    torch.testing.assert_close(net.decoder.seen.amin((0, 2, 3)), torch.tensor(expected))


def test_tiles_of_any_kind_give_the_same_logits():
    net = build().eval()
    x = tiles()
    with torch.no_grad():
        expected = net(x)
        for kind in (x.float(), x[:, None], TensorImage(x), TensorImage(x[:, None].float())):
            assert torch.equal(net(kind), expected)
            assert type(net(kind)) is torch.Tensor
    assert (expected.shape, expected.dtype) == ((3, 101, 101), torch.float32)


@pytest.mark.parametrize("shape", [(3, 3, 101, 101), (3, 128, 128), (101, 101)])
def test_tiles_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="give"):
        build()(torch.zeros(shape))


def test_a_net_sees_the_same_through_any_size_of_tile():
    assert build(tile_size=96, size=96)(tiles(2, 96)).shape == (2, 96, 96)


@pytest.mark.parametrize(
    ("precision", "inside"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_precision_is_that_of_the_convolutions_and_logits_are_float32(precision, inside):
    net = build(precision=precision).eval()
    seen = set()
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    # what is asked for counts, whatever the caller's autocast says
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(tiles()).dtype == torch.float32
    assert seen == {inside}


def test_convolutions_run_channels_last(mirror):
    net = build(decoder=mirror)
    net(tiles())
    weights = [part.weight for part in net.modules() if isinstance(part, nn.Conv2d)]
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in [net.decoder.seen, *weights])


def test_bfloat16_gives_nearly_the_logits_of_float32():
    net = build().eval()
    with torch.no_grad():
        exact = net(tiles())
        net.precision = torch.bfloat16
        rough = net(tiles())
    assert not torch.equal(rough, exact)
    assert (rough - exact).abs().mean() < 0.05 * exact.std()


@pytest.mark.parametrize(
    ("capability", "best"),
    [((6, 0), torch.float16), ((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_the_best_precision_of_a_gpu_follows_from_its_compute_capability(capability, best, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    assert model.best_precision("cuda") == best
    assert model.best_precision(torch.device("cuda", 0)) == best


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the kernel does not list the CPU's instructions here")
def test_the_best_precision_of_a_cpu_follows_from_its_instructions():
    flags = Path("/proc/cpuinfo").read_text().split()
    best = torch.bfloat16 if {"avx512_bf16", "amx_tile"} & set(flags) else None
    assert model.best_precision("cpu") == best
    assert model.best_precision("meta") is None
    if not torch.cuda.is_available():
        assert build(precision="auto").precision == best


@pytest.mark.parametrize("encoder", [TINY, "mobilenetv3_small_100", "test_convnext"])
def test_every_parameter_is_in_one_group_also_after_training_and_copying(encoder):
    net = build(encoder=encoder, channels="grey")
    net(tiles()).mean().backward()
    for each in (net, deepcopy(net)):
        early, late, decoder = (set(map(id, group)) for group in each.parameter_groups())
        assert early | late | decoder == {id(p) for p in each.parameters()}
        stages = list(each.decoder.layers[0])
        last = 4 if encoder == "test_convnext" else 5
        assert id(next(stages[0].parameters())) in early
        assert id(next(stages[2].parameters())) in (late if last == 4 else early)
        assert {id(p) for p in stages[last - 1].parameters()} <= late
        # the neck learns with the decoder
        assert {id(p) for stage in stages[last:] for p in stage.parameters()} <= decoder
        assert {id(p) for layer in each.decoder.layers[1:] for p in layer.parameters()} <= decoder
        # once each: the sizes would not add up otherwise
        assert sum(p.numel() for group in each.parameter_groups() for p in group) == model.parameter_count(each)


def test_weights_go_through_a_file_and_come_back(tmp_path):
    net = build().eval()
    # the format knows no channels_last
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, tmp_path / "net.safetensors")
    other = model.build(encoder=TINY, pretrained=False, precision="float32").eval()
    with torch.no_grad():
        assert not torch.equal(other(tiles()), net(tiles()))
        other.load_state_dict(load_file(tmp_path / "net.safetensors"))
        assert torch.equal(other(tiles()), net(tiles()))
    assert not {"mean", "std"} & net.state_dict().keys()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": 100}, "size 100 .* at least 101"),
        ({"size": 302}, "size 302 .* at most 301"),
        ({"fit": "crop"}, "fit 'crop' .* pad-reflect or pad-edge or resize"),
        ({"channels": "rgb"}, "channels 'rgb' .* grey3 or grey"),
        ({"precision": "int8"}, "precision 'int8' .* float32"),
        ({"decoder": "fpn"}, "'fpn': use dynamic"),
        ({"encoder": "resnet43"}, "resnet34"),
        ({"stem": "no-pool", "encoder": "test_convnext"}, "its stems: own"),
    ],
)
def test_values_that_cannot_be_are_refused(kwargs, message):
    with pytest.raises(InputError, match=message):
        build(**kwargs)


def test_the_widest_reflection_is_taken(mirror):
    assert torch.equal(build(decoder=mirror, size=301)(tiles()), build(decoder=mirror, size=101)(tiles()))
