"""The whole net: what the encoder is shown, what comes back, in which precision, and what learns together."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.vision.core import TensorImage
from safetensors.torch import load_file, save_file
from torch import nn

from kit.errors import InputError
from kit.nets import classic, decoders, model
from kit.nets.heads import Outputs
from kit.recipe import Salt
from kit.training.checkpoint import save_weights

pytestmark = pytest.mark.slow

TINY = "test_resnet.r160_in1k"  # mean and std are 0.5


class Mirror(nn.Module):
    """Stands for a decoder: keeps what it is shown and gives its first channel back as logits."""

    def __init__(self, encoder, image_size, options):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        self.seen = x
        return x[:, :1]


class Heads(Mirror):
    """Has every head; calls the tiles empty whose first pixel is dark. The deep maps are means over 2 and 4 pixels."""

    def forward(self, x):
        grey = x[:, :1]
        deep = tuple(F.avg_pool2d(grey, scale) for scale in (4, 2))
        return Outputs(grey, deep, -x[:, 0, 0, 0], -grey)


class Classic(nn.Conv2d):
    """Stands for a classic net."""

    def __init__(self, in_channels, size, options):
        super().__init__(in_channels, 1, 1)


@pytest.fixture
def mirror(monkeypatch):
    monkeypatch.setitem(decoders.DECODERS, "mirror", Mirror)
    return "mirror"


@pytest.fixture
def heads(monkeypatch):
    monkeypatch.setitem(decoders.DECODERS, "heads", Heads)
    return "heads"


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setitem(classic.NETS, "plain", Classic)
    monkeypatch.setattr(classic, "build", lambda name, *args: classic.NETS[name](*args))
    return "plain"


def tiles(n: int = 3, size: int = 101) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, size, size), dtype=np.uint8))


def build(**kwargs) -> model.TileNet:
    torch.manual_seed(0)
    return model.build(**{"encoder": TINY, "pretrained": False, "precision": "float32", **kwargs})


@pytest.mark.parametrize("geometry", [{}, {"resize": 192, "size": 224}, {"fit": "pad-random"}, {"channels": "grey+y"}])
def test_the_decoder_sees_the_inputs_and_its_logits_come_back(geometry, mirror):
    """Its logits are the first channel that it saw: in the middle of the input lies the tile."""
    net = build(decoder=mirror, **geometry)
    with torch.no_grad():
        torch.manual_seed(1)
        logits = net(tiles())
        torch.manual_seed(1)
        shown, corners = net.inputs(tiles())
    assert torch.equal(net.decoder.seen, shown)
    assert torch.equal(logits, net.inputs.back(shown[:, :1], corners)[:, 0])
    if not geometry:
        np.testing.assert_array_equal(logits.numpy(), tiles().numpy().astype(np.float32) / np.float32(255) * 2 - 1)


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


def test_a_net_sees_the_same_through_any_size_of_tile():
    assert build(tile_size=96, size=96)(tiles(2, 96)).shape == (2, 96, 96)


def test_depths_reach_the_channel(mirror):
    net = build(decoder=mirror, channels="depth+grey")
    assert net.needs_depth
    assert not build(decoder=mirror, channels="grey+y").needs_depth
    logits = net(tiles(), torch.tensor([0.0, 0.25, 1.0]))
    assert logits.amin((1, 2)).tolist() == logits.amax((1, 2)).tolist() == [0.0, 0.25, 1.0]
    with pytest.raises(ValueError, match="depth"):
        net(tiles())


def two_tiles() -> torch.Tensor:
    """A dark one, which Heads calls empty, and a light one."""
    return torch.stack([torch.full((101, 101), level, dtype=torch.uint8) for level in (51, 204)])


def test_training_gives_every_head_on_the_tiles_pixels(heads):
    outputs = build(decoder=heads)(tiles())
    assert isinstance(outputs, Outputs)
    grey = tiles().float() / 127.5 - 1
    torch.testing.assert_close(outputs.logits, grey)
    torch.testing.assert_close(outputs.nonempty, -grey)
    torch.testing.assert_close(outputs.empty, -grey[:, 13, 13])  # what the padding reflects into the first pixel
    assert [maps.shape for maps in outputs.deep] == [(3, 101, 101)] * 2
    padded = torch.from_numpy(np.pad(grey.numpy(), ((0, 0), (13, 14), (13, 14)), mode="reflect"))
    for maps, scale in zip(outputs.deep, (4, 2), strict=True):
        means = F.avg_pool2d(padded[:, None], scale)
        wide = F.interpolate(means, size=(128, 128), mode="bilinear")
        torch.testing.assert_close(maps, wide[:, 0, 13:114, 13:114])


def test_evaluation_gives_logits_whatever_the_heads(heads):
    net = build(decoder=heads).eval()
    assert torch.equal(net(two_tiles()), net.outputs(two_tiles()).logits)
    torch.testing.assert_close(net(two_tiles())[:, 50, 50], torch.tensor([-0.6, 0.6]))


def test_gating_empties_the_tiles_that_the_head_calls_empty_in_evaluation_only(heads):
    net = build(decoder=heads, options=Salt(empty=0.1, gating=True))
    torch.testing.assert_close(net(two_tiles()).logits[:, 50, 50], torch.tensor([-0.6, 0.6]))
    logits = net.eval()(two_tiles())
    assert (logits[0] == -20).all()
    torch.testing.assert_close(logits[1], torch.full((101, 101), 0.6))
    torch.testing.assert_close(net.outputs(two_tiles()).logits[:, 50, 50], torch.tensor([-0.6, 0.6]))


def test_a_net_without_heads_gives_tensors_and_has_outputs_all_the_same(mirror):
    net = build(decoder=mirror)
    assert type(net(tiles())) is torch.Tensor
    outputs = net.outputs(tiles())
    assert torch.equal(outputs.logits, net(tiles()))
    assert outputs[1:] == ((), None, None)


def test_heads_are_float32_in_any_precision(heads):
    outputs = build(decoder=heads, precision="bfloat16")(tiles())
    assert {x.dtype for x in (outputs.logits, *outputs.deep, outputs.empty, outputs.nonempty)} == {torch.float32}


def test_a_classic_net_sees_levels_of_0_to_1_and_learns_as_one_group(plain):
    net = build(encoder="", decoder=plain, channels="grey+y", size=101)
    assert [len(group) for group in net.parameter_groups()] == [0, 0, 2]
    grey, row, bias = *net.decoder.weight.detach().flatten(), net.decoder.bias.detach()
    expected = grey * tiles() / 255 + row * torch.linspace(0, 1, 101)[:, None] + bias
    torch.testing.assert_close(net(tiles()), expected)


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
        ({"fit": "crop"}, "fit 'crop' .* pad-reflect or pad-edge"),
        ({"size": 224, "resize": 256}, "size 224 .* at least 256"),
        ({"channels": "rgb"}, "channels 'rgb': .* grey3 or grey"),
        ({"precision": "int8"}, "precision 'int8' .* float32"),
        ({"decoder": "fpn"}, "'fpn': use dynamic"),
        ({"encoder": "resnet43"}, "resnet34"),
        ({"stem": "no-pool", "encoder": "test_convnext"}, "its stems: own"),
        ({"encoder": ""}, "decoder dynamic needs an encoder"),
        ({"decoder": "plain"}, "decoder plain is a whole net"),
        ({"encoder": "", "decoder": "plain", "pretrained": True}, "plain has no pretrained weights"),
        ({"encoder": "", "decoder": "plain", "weights": "resnet.pth"}, "plain has no pretrained weights"),
        ({"encoder": "", "decoder": "plain", "stem": "no-pool"}, "no stems"),
        ({"options": Salt(gating=True)}, "salt.gating .* salt.empty above 0"),
        ({"options": Salt(deep_nonempty=True)}, "salt.deep_nonempty .* salt.deep above 0"),
    ],
)
@pytest.mark.usefixtures("plain")
def test_values_that_cannot_be_are_refused(kwargs, message):
    with pytest.raises(InputError, match=message):
        build(**kwargs)


@pytest.mark.parametrize(
    ("said", "asked", "words"),
    [
        ({"net.encoder": "resnet18"}, {}, "net.encoder=resnet18, and the recipe has test_resnet"),
        ({"data.channels": "grey"}, {"channels": "grey+y"}, "data.channels=grey, and the recipe has grey[+]y"),
        ({"data.channels": "grey+y"}, {"channels": "grey3"}, "add --set data.channels=grey[+]y, or pretrain"),
    ],
)
def test_weights_that_were_pretrained_for_something_else_are_refused(said, asked, words, tmp_path):
    path = tmp_path / "encoder.safetensors"
    save_weights(path, build().encoder_weights(), said)
    with pytest.raises(InputError, match=words) as caught:
        build(weights=str(path), **asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("said", [None, {"net.encoder": "test_resnet", "data.channels": "grey3", "net.stem": "own"}])
def test_weights_that_say_nothing_else_are_taken(said, tmp_path):
    path, net = tmp_path / "encoder.safetensors", build(decoder="salt")
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.add_(1)
    save_weights(path, net.encoder_weights(), said)
    for decoder in ("dynamic", "salt"):
        again = build(weights=str(path), decoder=decoder).encoder_weights()
        assert all(torch.equal(again[key], tensor) for key, tensor in net.encoder_weights().items())
    assert len(again) == len(load_file(path)) > 20
