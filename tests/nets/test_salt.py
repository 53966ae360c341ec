"""The salt decoder: its switches, its cost beside DynamicUnet's, its heads, on encoders of several shapes."""

import warnings
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kit.errors import InputError
from kit.nets import blocks, decoders, encoders, losses
from kit.nets.heads import HeadLoss, Outputs
from kit.nets.model import parameter_count
from kit.recipe import Salt

pytestmark = pytest.mark.slow

TINY = "test_resnet.r160_in1k"  # 32, 32, 48, 192, 96 channels
PLAIN = Salt()
HEADS = Salt(deep=0.1, empty=0.05, nonempty=0.5)
EVERYTHING = replace(HEADS, scse="both", bam=True, gate=True, hypercolumn=True, dropout=0.2, centre="fpa")


def encoder(name: str = TINY, size: int = 64, **kwargs) -> encoders.Encoder:
    torch.manual_seed(0)
    return encoders.build(name, pretrained=False, image_size=size, **kwargs)


def salt(options: Salt = PLAIN, name: str = TINY, size: int = 64, **kwargs) -> nn.Module:
    return decoders.build("salt", encoder(name, size, **kwargs), size, options)


def image(size: int = 64, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [64, 101])
@pytest.mark.parametrize("stem", encoders.STEMS)
@pytest.mark.parametrize("upsample", blocks.UPSAMPLING)
def test_a_logit_for_each_pixel(upsample, stem, size):
    net = salt(replace(EVERYTHING, upsample=upsample), size=size, stem=stem)
    outputs = net(image(size))
    assert net.training
    assert outputs.logits.shape == outputs.nonempty.shape == (2, 1, size, size)
    assert outputs.empty.shape == (2,)
    maps = net.encoder.features(image(size))
    assert [x.shape for x in outputs.deep] == [(2, 1, *x.shape[2:]) for x in reversed(maps[:-1])]


@pytest.mark.parametrize(
    ("name", "size", "finest"),
    [("legacy_xception", 160, 77), ("test_convnext", 128, 64), ("convnext_tiny", 64, 32), ("densenet121", 64, 32)],
)
def test_the_finest_block_works_at_half_the_side_or_the_encoders_finest_map(name, size, finest):
    outputs = salt(HEADS, name, size)(image(size))
    assert outputs.deep[-1].shape[-1] == finest
    assert outputs.logits.shape[-1] == size


def test_a_plain_decoder_gives_a_tensor_and_any_head_outputs():
    assert salt()(image()).dtype == torch.float32
    for key, value in {"deep": 0.1, "empty": 0.05, "nonempty": 0.5}.items():
        outputs = salt(Salt(**{key: value}))(image())
        assert isinstance(outputs, Outputs)
        there = {"deep": bool(outputs.deep), "empty": outputs.empty is not None}
        assert there | {"nonempty": outputs.nonempty is not None} == {k: k == key for k in (*there, "nonempty")}


@pytest.mark.parametrize(
    "options",
    [
        *(Salt(centre=centre) for centre in blocks.CENTRES),
        *(Salt(scse=where) for where in ("decoder", "encoder", "both")),
        *(Salt(**{switch: True}) for switch in ("residual", "bam", "gate", "hypercolumn")),
        Salt(upsample="transposed"),
        EVERYTHING,
    ],
)
def test_every_part_that_a_switch_adds_is_trained(options):
    net = salt(options)
    assert {*net.state_dict()} != {*salt().state_dict()}
    outputs = net(image())
    answers = outputs if isinstance(outputs, Outputs) else Outputs(outputs)
    total = answers.logits.square().mean() + sum(x.square().mean() for x in answers.deep)
    total = total + sum(x.square().mean() for x in (answers.empty, answers.nonempty) if x is not None)
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("activation", blocks.ACTIVATIONS)
def test_the_activation_is_that_of_all_blocks(activation):
    net = salt(Salt(activation=activation, hypercolumn=True, centre="conv"))
    kinds = {type(module) for module in (*net.blocks.modules(), *net.centre.modules(), *net.hypercolumn.modules())}
    wanted = {"relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU, "mish": nn.Mish}
    assert kinds & set(wanted.values()) == {wanted[activation]}


def test_attention_stands_where_it_is_wanted():
    places = {"none": [0, 0], "encoder": [5, 0], "decoder": [0, 4], "both": [5, 4]}
    wanted = [(Salt(scse=where), blocks.SCSE, counts) for where, counts in places.items()]
    for options, kind, behind_and_within in [*wanted, (Salt(bam=True), blocks.BAM, [5, 4])]:
        net = salt(options)
        counts = [sum(isinstance(m, kind) for m in part.modules()) for part in (net.attention, net.blocks)]
        assert counts == behind_and_within


def test_no_block_is_wider_than_asked_or_than_its_skip():
    assert [block.channels for block in salt(Salt(width=40)).blocks] == [40, 40, 32, 32]
    assert [block.channels for block in salt(Salt(width=16)).blocks] == [16] * 4
    assert [block.channels for block in salt(Salt(width=16), "test_convnext", 128).blocks] == [16, 16, 16, 8]
    assert [block.channels for block in salt(Salt(width=40, narrow=True)).blocks] == [40, 20, 10, 5]
    assert [block.channels for block in salt(Salt(width=400, narrow=True)).blocks] == [192, 48, 32, 32]
    assert [block.channels for block in salt(Salt(width=3, narrow=True)).blocks] == [3, 1, 1, 1]


def test_a_residual_block_whose_units_add_nothing_is_a_convolution_and_an_activation():
    net, seen = salt(Salt(residual=True, activation="elu")).eval(), []
    convs = net.blocks[0].convs
    for unit in convs[1:3]:
        nn.init.zeros_(unit.parts[-1].weight)
        nn.init.zeros_(unit.parts[-1].bias)
    convs.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    net(image())
    ((x, out),) = seen
    expected = nn.functional.conv2d(x, convs[0].weight, convs[0].bias, padding=1)
    torch.testing.assert_close(out, nn.functional.elu(expected))


def test_every_skip_reaches_the_logits():
    net = salt().eval()
    with torch.no_grad():
        plain = net(image())
        for block in net.blocks:
            part = block.convs[0][0]  # its last input channels are the skip's
            kept = part.weight.clone()
            part.weight[:, block.up.channels :] *= -1
            assert not torch.allclose(net(image()), plain)
            part.weight.copy_(kept)
        assert torch.equal(net(image()), plain)


def test_the_hypercolumn_brings_the_coarsest_block_to_the_logits():
    for hypercolumn in (False, True):
        net = salt(Salt(hypercolumn=hypercolumn)).eval()
        seen = []
        net.blocks[0].register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.retain_grad() or out))
        for block in net.blocks[1:]:  # cut the way through the other blocks
            nn.init.zeros_(block.convs[0][0].weight)
        net(image()).sum().backward()
        assert (seen[0].grad.abs().sum() > 0) == hypercolumn


def test_dropout_drops_whole_channels_before_the_last_convolution():
    net, seen = salt(Salt(dropout=0.5)), []
    net.mask.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(image())
    dropped = (seen[0] == 0).flatten(2).all(2)
    assert 0.2 < dropped.float().mean() < 0.8
    assert torch.equal(net.eval()(image()), net(image()))
    assert not (seen[-1] == 0).flatten(2).all(2).any()


def test_the_encoder_keeps_its_weights_and_with_fresh_scse_its_maps():
    stages = encoder()
    before, maps = deepcopy(stages.state_dict()), stages.eval().features(image())
    net = decoders.build("salt", stages, 64, Salt(scse="encoder")).eval()
    assert all(torch.equal(before[key], value) for key, value in stages.state_dict().items())
    seen = []
    net.centre.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(image())
    torch.testing.assert_close(seen[0], maps[-1])


def test_a_net_that_has_trained_can_be_copied_and_saved(tmp_path):
    net = salt(EVERYTHING)
    net(image()).logits.mean().backward()
    copy = deepcopy(net).eval()
    with torch.no_grad():
        assert torch.equal(copy(image()).logits, net.eval()(image()).logits)
    save_file(net.state_dict(), tmp_path / "net.safetensors")  # refuses tensors that share memory


def test_bfloat16_and_channels_last_give_float32_logits_near_the_plain_ones():
    net, x = salt(EVERYTHING).eval(), image()
    with torch.no_grad():
        plain = net(x)
        net.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            fast = net(x.to(torch.bfloat16, memory_format=torch.channels_last))
    for ours, expected in [(fast.logits, plain.logits), (fast.empty, plain.empty), (fast.deep[-1], plain.deep[-1])]:
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected, rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Salt(upsample="bicubic"), "salt.upsample 'bicubic' is unknown: use bilinear or nearest or transposed"),
        (Salt(activation="gelu"), "salt.activation .* relu or elu or silu or mish"),
        (Salt(centre="aspp"), "salt.centre .* none or conv or fpa"),
        (Salt(scse="all"), "salt.scse .* none or decoder or encoder or both"),
        (Salt(width=0), "salt.width must be 1 or more"),
        (Salt(dropout=1.0), "salt.dropout must be 0 or more and below 1"),
        (Salt(deep=-0.1), "salt.deep must be 0"),
        (Salt(nonempty=-1.0), "salt.nonempty must be 0"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(options, message):
    with pytest.raises(InputError, match=message) as error:
        salt(options)
    assert "\n" not in str(error.value)


def test_dynamic_refuses_switches_that_it_has_not():
    with pytest.raises(InputError, match=r"decoder dynamic has no salt.width, salt.gate: use net.decoder salt"):
        decoders.build("dynamic", encoder(), 64, Salt(width=32, gate=True))


@pytest.mark.parametrize(
    "options", [Salt(), Salt(scse="both", hypercolumn=True, centre="fpa"), replace(EVERYTHING, upsample="transposed")]
)
def test_fewer_parameters_than_dynamic_and_less_than_a_third_of_its_work(options):
    """Work as floating-point operations of a training step, which machine and load do not change."""
    work, parameters = {}, {}
    for name in ("salt", "dynamic"):
        stages = encoder("resnet34", 128)
        net = decoders.build(name, stages, 128, options if name == "salt" else None)
        parameters[name] = parameter_count(net)
        with warnings.catch_warnings(), FlopCounterMode(display=False) as counter:
            outputs = net(image(128))
            (outputs.logits if isinstance(outputs, Outputs) else outputs).sum().backward()
        work[name] = counter.get_total_flops()
    assert parameters["salt"] < parameters["dynamic"]
    assert 3 * work["salt"] < work["dynamic"]


@pytest.mark.parametrize(
    "name",
    ["resnet34", "seresnext50_32x4d", "densenet121", "efficientnet_b0", "convnext_tiny", "mobilenetv3_large_100"],
)
def test_one_step_of_training(name):
    net = salt(EVERYTHING, name)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
    ends = [next(net.encoder.parameters()), net.mask.weight]
    before = [end.detach().clone() for end in ends]
    targets = (torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    loss = losses.bce(net(image()).logits.squeeze(1), targets)
    loss.backward()
    optimiser.step()
    assert loss.isfinite()
    assert not any(torch.equal(end, old) for end, old in zip(ends, before, strict=True))


@pytest.mark.parametrize(
    "options", [PLAIN, Salt(residual=True, narrow=True), replace(EVERYTHING, activation="elu", upsample="transposed")]
)
def test_it_learns_where_the_bright_half_is_and_which_tiles_have_none(options):
    generator = torch.Generator().manual_seed(3)
    target = torch.zeros(8, 64, 64)
    for tile, edge in zip(target[::2], (20, 30, 40, 50), strict=True):  # every other tile is empty
        tile[:, edge:] = 1
    x = target[:, None].expand(-1, 3, -1, -1) + 0.5 * torch.randn(8, 3, 64, 64, generator=generator)
    net, loss = salt(options), HeadLoss(losses.mix("bce"), options)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(40):
        outputs = net(x)
        pred = outputs if isinstance(outputs, Outputs) else Outputs(outputs)
        deep = tuple(nn.functional.interpolate(logits, (64, 64))[:, 0] for logits in pred.deep)
        nonempty = None if pred.nonempty is None else pred.nonempty[:, 0]
        value = loss(Outputs(pred.logits[:, 0], deep, pred.empty, nonempty), target)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    wrong = (pred.logits[:, 0] > 0) != (target > 0.5)
    assert wrong.float().mean() < 0.05
    if pred.empty is not None:
        assert (pred.empty > 0).tolist() == [False, True] * 4
