"""Encoders against timm's own feature maps, over many families, with weights from files and from the hub's cache."""

import os
from itertools import pairwise
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from fastai.callback.hook import model_sizes
from safetensors.torch import save_file
from timm.models.resnet import ResNet

from kit.errors import InputError
from kit.nets import encoders
from tests.nets.families import FAMILIES

pytestmark = pytest.mark.slow

TINY = "test_resnet.r160_in1k"

# timm's own feature maps are the last ones of their size in these nets
SMALL_NETS = ["test_resnet", "test_convnext", "test_byobnet", "mobilenetv3_small_050", "regnetx_002"]
LARGE_NETS = ["resnet34", "seresnext50_32x4d", "densenet121", "efficientnet_b0", "convnext_tiny", "fastvit_t8"]
LARGE_NETS += ["mobilenetv3_large_100", "pvt_v2_b0", "caformer_s18", "edgenext_xx_small", "hgnetv2_b0", "repvit_m0_9"]


def random_state(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights in timm's own layout, with batch statistics that are not the initial ones."""
    torch.manual_seed(seed)
    state = timm.create_model(name).state_dict()
    return {
        key: value + 0.1 * torch.randn_like(value) if "running_mean" in key else value for key, value in state.items()
    }


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(random_state(TINY), path)
    return path


def image(channels: int = 3, size: int = 128, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def features(encoder: encoders.Encoder, x: torch.Tensor) -> list[torch.Tensor]:
    return encoder.eval().features(x)


@pytest.mark.parametrize("name", [*SMALL_NETS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE_NETS)])
def test_stages_give_the_feature_maps_of_timm_and_of_its_own_loading(name, tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(random_state(name), path)
    truth = timm.create_model(
        name, features_only=True, pretrained=True, pretrained_cfg_overlay={"file": str(path), "hf_hub_id": None}
    ).eval()
    encoder = encoders.build(name, weights=path)
    assert encoder.training
    with torch.no_grad():
        expected = truth(image())
    maps = features(encoder, image())
    assert len(maps) == len(expected)
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert encoder.channels == tuple(truth.feature_info.channels())
    assert encoder.reductions == tuple(truth.feature_info.reduction())
    assert encoder.mean == truth.pretrained_cfg["mean"]
    assert encoder.std == truth.pretrained_cfg["std"]


def test_families_build_with_all_skips_or_are_refused():
    built, refused = [], []
    known = [name for name in FAMILIES if timm.is_model(name)]  # the oldest timm lacks the newest families
    for name in known:
        try:
            encoder = encoders.build(name, pretrained=False)
        except InputError as error:
            refused.append(str(error))
            continue
        built.append(name)
        maps = features(encoder, image())
        # what fastai's DynamicUnet looks at: one child, one scale
        assert [tuple(size) for size in model_sizes(encoder, (128, 128))] == [(1, *x.shape[1:]) for x in maps], name
        sides = [x.shape[-1] for x in maps]
        assert len(sides) >= 4, name
        assert all(fine in (2 * coarse - 1, 2 * coarse, 2 * coarse + 1) for fine, coarse in pairwise(sides)), name
        assert encoder.channels == tuple(x.shape[1] for x in maps), name
        assert encoder.reductions == tuple(128 / side for side in sides), name
        # a later stage that works in place would spoil the skip
        x = image()
        for stage, kept in zip(encoder, maps, strict=True):
            with torch.no_grad():
                x = stage(x)
            assert torch.equal(x, kept), name
    assert len(known) >= 40
    assert len(built) >= 30, refused
    # the sweep is worth something only where it meets both
    assert len(refused) >= 10
    assert all("cannot serve at 128 px" in message and "\n" not in message for message in refused)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test_vit", "batch, channels, height, width"),
        ("vit_tiny_patch16_224", "doesn't match model"),
        ("maxvit_tiny_rw_224", "divisible by window"),
        ("shvit_s1", "8, 4, 2 px"),
        ("inception_v3", "61, 28, 13, 6, 2 px"),
    ],
)
def test_nets_that_cannot_serve_are_refused_with_what_works(name, reason):
    with pytest.raises(InputError, match=reason) as caught:
        encoders.build(name, pretrained=False)
    assert f"encoder {name} cannot serve at 128 px" in str(caught.value)
    assert "resnet34" in str(caught.value)


def test_a_net_that_is_more_than_its_parts_is_refused(monkeypatch):
    whole = ResNet.forward_features
    monkeypatch.setattr(ResNet, "forward_features", lambda self, x: whole(self, 2 * x))
    with pytest.raises(InputError, match="do not give what the whole net gives"):
        encoders.build(TINY, pretrained=False)


def test_a_stem_without_padding_is_taken_with_the_sizes_that_it_gives():
    encoder = encoders.build("legacy_xception", pretrained=False, image_size=160)
    assert [x.shape[-1] for x in features(encoder, image(size=160))] == [77, 39, 20, 10, 5]
    assert encoder.reductions[0] == 160 / 77


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet43", "resnet34"),
        ("seresnext50", "seresnext50_32x4d"),
        ("qqqq", "resnet34"),
        ("resnet18.nobodys_in1k", "resnet18.a1_in1k"),
    ],
)
def test_unknown_names_are_refused_with_near_ones(name, hint):
    with pytest.raises(InputError, match=hint):
        encoders.build(name, pretrained=False)


@pytest.mark.parametrize("size", [101, 128, 160])
@pytest.mark.parametrize(
    ("stem", "skips", "first"), [("own", 4, 2), ("stride1", 4, 1), ("no-pool", 3, 2), ("3x3", 3, 1)]
)
def test_stems_set_the_scale_of_the_first_stage(stem, skips, first, size, tiny_file):
    encoder = encoders.build(TINY, stem=stem, weights=tiny_file, image_size=size)
    sides = [x.shape[-1] for x in features(encoder, image(size=size))]
    expected = [-(-size // first)]
    while len(expected) <= skips:
        expected.append(-(-expected[-1] // 2))
    assert sides == expected
    assert encoder.reductions == tuple(size / side for side in sides)


def test_stems_keep_every_weight(tiny_file):
    own, *others = (encoders.build(TINY, stem=stem, weights=tiny_file).state_dict() for stem in encoders.STEMS)
    for stem, state in zip(encoders.STEMS[1:], others, strict=True):
        changed = [
            name for name, ours, plain in zip(own, state.values(), own.values(), strict=True) if not equal(ours, plain)
        ]
        assert changed == (["0.conv1.0.weight"] if stem == "3x3" else [])


def equal(ours, plain):
    return ours.shape == plain.shape and torch.equal(ours, plain)


def test_the_3x3_stem_of_a_resnet34_is_a_fresh_convolution_without_a_pool():
    own, fresh = (encoders.build("resnet34", stem=stem, pretrained=False) for stem in ("own", "3x3"))
    counts = [sum(p.numel() for p in encoder.parameters()) for encoder in (own, fresh)]
    assert counts[0] - counts[1] == 64 * 3 * (7 * 7 - 3 * 3)
    assert fresh.reductions == (1, 2, 4, 8)


@pytest.mark.parametrize(("name", "stem"), [("test_convnext", "no-pool"), ("test_convnext", "stride1")])
def test_stems_that_an_encoder_has_not_are_refused_with_those_it_has(name, stem):
    with pytest.raises(InputError, match=r"\(its stems: own\)"):
        encoders.build(name, stem=stem, pretrained=False)


def test_stems_without_a_pool_offer_stride_1():
    with pytest.raises(InputError, match=r"no first max-pool \(its stems: own, stride1\)"):
        encoders.build("regnetx_002", stem="no-pool", pretrained=False)
    with pytest.raises(InputError, match="own, stride1, no-pool, 3x3"):
        encoders.build(TINY, stem="big", pretrained=False)


def test_one_channel_answers_like_three_equal_ones(tiny_file):
    grey = image(channels=1)
    three = features(encoders.build(TINY, weights=tiny_file), grey.expand(-1, 3, -1, -1))
    one = features(encoders.build(TINY, in_channels=1, weights=tiny_file), grey)
    torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-4)


def test_six_channels_answer_like_three_when_they_repeat_them(tiny_file):
    rgb = image()
    three = features(encoders.build(TINY, weights=tiny_file), rgb)
    six = features(encoders.build(TINY, in_channels=6, weights=tiny_file), rgb.repeat(1, 2, 1, 1))
    torch.testing.assert_close(six, three, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_every_weight_of_a_file_arrives(suffix, tmp_path):
    state = random_state(TINY)
    path = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    encoder = encoders.build(TINY, weights=path)
    loaded = list(encoder.state_dict().values())
    given = [value for key, value in state.items() if not key.startswith("fc.")]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(loaded, given, strict=True))


def test_a_file_without_classifier_and_batch_counters_will_do(tmp_path):
    state = random_state(TINY)
    path = tmp_path / "body.safetensors"
    save_file({k: v for k, v in state.items() if not k.startswith("fc.") and "num_batches" not in k}, path)
    conv = next(encoders.build(TINY, weights=path).parameters())
    assert torch.equal(conv, state["conv1.0.weight"])


def test_keys_that_do_not_fit_are_counted_and_named(tmp_path):
    def refusal(state: dict[str, torch.Tensor]) -> str:
        save_file(state, tmp_path / "net.safetensors")
        with pytest.raises(InputError) as caught:
            encoders.build(TINY, weights=tmp_path / "net.safetensors")
        return str(caught.value)

    state = random_state(TINY)
    lacking = {key: value for key, value in state.items() if not key.startswith("layer4.")}
    missing = sum(key.startswith("layer4.") and "num_batches" not in key for key in state)
    assert f"{missing} missing (layer4.0.bn1.bias, " in refusal(lacking)
    assert "1 unused (module.conv9.weight)" in refusal({**state, "module.conv9.weight": torch.zeros(1)})
    assert "1 of another shape (layer1.0.conv1.weight)" in refusal({**state, "layer1.0.conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize("name", [*SMALL_NETS, "densenet121", "efficientnet_b0", "salt_small"])
def test_its_names_in_timm_are_those_of_timms_own_net(name):
    """Put there they make timm's net the same one; only what lies behind the last stage is not among them."""
    encoder, net = encoders.build(name, pretrained=False), timm.create_model(name).eval()
    names = encoder.timm_names()
    assert [id(tensor) for tensor in names.values()] == [id(x) for x in encoder.state_dict(keep_vars=True).values()]
    assert not net.load_state_dict(names, strict=False).unexpected_keys
    x = image(size=64)
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(x), output_of(net, encoder.links[-1], x))


def output_of(net, part, x):
    seen = []
    net.get_submodule(part).register_forward_hook(lambda *args: seen.append(args[-1].clone()))
    net.forward_features(x)
    return seen[0]


def test_a_3x3_stem_comes_back_from_a_file_that_says_so(tmp_path):
    torch.manual_seed(0)
    encoder = encoders.build(TINY, pretrained=False, stem="3x3")
    state = {key: tensor.detach() for key, tensor in encoder.timm_names().items()}
    for said, arrives in (({"net.stem": "3x3"}, True), (None, False)):
        save_file(state, tmp_path / "net.safetensors", said)
        again = encoders.build(TINY, weights=tmp_path / "net.safetensors", stem="3x3").state_dict()
        differ = [key for key, tensor in encoder.state_dict().items() if not torch.equal(again[key], tensor)]
        assert differ == ([] if arrives else ["0.conv1.0.weight"])


class Boom:
    """What a malicious file would hold: unpickling it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_files_that_are_not_weights_are_refused_and_not_run(tmp_path):
    torch.save({"x": Boom(tmp_path / "boom")}, tmp_path / "boom.pth")
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "whole.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "text.bin").write_text("no weights")
    for name, reason in [
        ("boom.pth", "not a file of weights"),
        ("module.pth", "more than tensors by name: save net.state_dict.. alone$"),
        ("text.safetensors", "not a file of weights"),
        ("text.bin", "not a file of weights"),
        ("whole.pth", "more than tensors"),
        ("nowhere.pth", "no such weights file"),
    ]:
        with pytest.raises(InputError, match=reason) as caught:
            encoders.build(TINY, weights=tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "boom").exists()


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty hub cache on a machine without a network: what HF_HOME and HF_HUB_OFFLINE=1 set at start."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_weights_that_cannot_be_had_name_the_three_ways_out(hub):
    with pytest.raises(InputError) as caught:
        encoders.build(TINY)
    for way in ("--no-pretrained", "--weights FILE", "HF_HOME"):
        assert way in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_filled_hub_cache_works_without_a_network(channels, hub):
    state = random_state(TINY)
    repository = hub / f"models--timm--{TINY}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file(state, snapshot / "model.safetensors")
    conv = next(encoders.build(TINY, in_channels=channels).parameters())
    expected = state["conv1.0.weight"]
    torch.testing.assert_close(conv.detach(), expected if channels == 3 else expected.sum(1, keepdim=True))
