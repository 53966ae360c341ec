"""The table of a net's stages: nothing counted twice or left out, shapes as arithmetic says."""

import pytest
import torch

from kit.nets import classic, model, summary
from kit.recipe import Salt

SMALL = {"encoder": "test_resnet.r160_in1k", "pretrained": False, "precision": "float32", "size": 128}
FULL = Salt(width=16, scse="both", centre="psp", hypercolumn=True, deep=0.1, empty=0.1, nonempty=0.1, gate=True)


def classic_net(name: str) -> model.TileNet:
    options = Salt(width=8, deep=0.4 if name == "psp-small" else 0.0)
    return model.build(encoder="", decoder=name, pretrained=False, size=64, fit="resize", options=options)


NETS = {
    "dynamic": lambda: model.build(**SMALL),
    "salt": lambda: model.build(**SMALL, decoder="salt", options=FULL),
    **{name: lambda name=name: classic_net(name) for name in classic.NETS},
}


@pytest.mark.parametrize("name", NETS)
def test_every_parameter_is_in_one_stage(name):
    net = NETS[name]()
    stages = summary.stages(net)
    assert sum(stage.parameters for stage in stages) == sum(p.numel() for p in net.parameters())
    assert len({stage.name for stage in stages}) == len(stages)
    assert all("Identity" not in stage.kind for stage in stages)


def test_shapes_follow_from_four_max_pools_and_the_way_back():
    net = model.build(encoder="", decoder="plain-unet", pretrained=False, size=101, options=Salt(width=2))
    shapes = {stage.name: stage.shape for stage in summary.stages(net)}
    sides = [101, 50, 25, 12, 6]
    assert shapes["input"] == (3, 101, 101)
    assert [shapes[f"down {k}"] for k in (1, 2, 3, 4)] == [(2 << k, side, side) for k, side in enumerate(sides[:4])]
    assert shapes["middle"] == (32, 6, 6)
    assert [shapes[f"back {k}"] for k in (1, 2, 3, 4)] == [(16, 12, 12), (8, 25, 25), (4, 50, 50), (2, 101, 101)]
    assert shapes["mask"] == (1, 101, 101)
    (first, *_) = [stage for stage in summary.stages(net) if stage.name == "down 1"]
    assert first.kind == "Conv2d, BatchNorm2d, ReLU, Conv2d, BatchNorm2d, ReLU"
    assert first.parameters == (3 * 9 * 2 + 2 + 4) + (2 * 9 * 2 + 2 + 4)  # weights, biases, batch-norm


@pytest.mark.parametrize("decoder", ["dynamic", "salt"])
def test_encoder_stages_come_first_and_have_the_encoders_channels(decoder):
    net = NETS[decoder]()
    names = [stage.name for stage in summary.stages(net)]
    encoder = [stage for stage in summary.stages(net) if stage.name.startswith("encoder")]
    assert names[0] == "input"
    assert names[1] == "encoder 1"
    x = torch.zeros(1, 3, 128, 128)
    for stage, part in zip(encoder, net.decoder.encoder.children(), strict=True):
        x = part(x)
        assert stage.shape == tuple(x.shape[1:])
    assert names[-1] == ("nonempty" if decoder == "salt" else f"layers {len(net.decoder.layers)}")


def test_a_net_that_sees_depths_and_leaves_no_hooks():
    net = model.build(**{**SMALL, "size": 112}, channels="grey+depth", fit="pad-random")
    assert summary.stages(net)[0].shape == (2, 112, 112)
    assert not any(part._forward_hooks for part in net.modules() if part in (net.inputs, net.decoder.layers[1]))
