"""Any convolutional timm net as a list of stages, one a scale, which is what a U-shaped decoder needs of an encoder.

A plain cut of most timm nets gives fastai's DynamicUnet one skip, without a warning. Here a net is unrolled into the
parts that run one after another, the parts are grouped by the size of their maps, and the result is compared with the
whole net before anybody trains on it.
"""

import difflib
from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

import kit.nets.small  # noqa: F401  registers our own encoder with timm
from kit.errors import InputError

STEMS = ("own", "stride1", "no-pool", "3x3")
MIN_SKIPS = 3
WORKING = "resnet34, seresnext50_32x4d, densenet121, efficientnet_b0 and convnext_tiny work"

TimmNet = Any  # an nn.Module with timm's pretrained_cfg, feature_info and forward_features
Link = tuple[str, nn.Module]  # a part of a net, with its name in timm


class Encoder(nn.Sequential):
    """A net whose children are its stages: (B, C, S, S) in, each child's output coarser than the one before.

    `channels` and `reductions` say for each stage how many channels its maps have and how many pixels of the input
    a pixel of them spans at the `image_size` it was built for; `mean` and `std` are what its weights were trained with,
    per channel of an RGB image scaled to 0..1. `links` are the names in timm of the parts of all stages, in order.
    """

    def __init__(
        self,
        name: str,
        stages: list[nn.Sequential],
        links: list[str],
        maps: list[torch.Size],
        image_size: int,
        cfg: dict,
    ):
        super().__init__(*stages)
        self.name, self.links = name, links
        self.channels = tuple(shape[1] for shape in maps)
        self.reductions = tuple(image_size / shape[-1] for shape in maps)
        self.mean, self.std = tuple(cfg["mean"]), tuple(cfg["std"])

    def features(self, x: Tensor) -> list[Tensor]:
        """The maps of all stages, fine to coarse: [(B, channels[i], S / reductions[i], S / reductions[i])]."""
        maps = []
        for stage in self:
            x = stage(x)
            maps.append(x)
        return maps

    def timm_names(self) -> dict[str, Tensor]:
        """The parameters and buffers themselves under their names in timm's own layout, which `build` reads."""
        parts = [part for stage in self.children() for part in stage.children()]
        return {
            f"{link}.{key}": tensor
            for link, part in zip(self.links, parts, strict=True)
            for key, tensor in part.state_dict(keep_vars=True).items()
        }


def build(
    name: str,
    *,
    in_channels: int = 3,
    stem: str = "own",
    pretrained: bool = True,
    weights: str | Path | None = None,
    image_size: int = 128,
) -> Encoder:
    """The timm net `name` as checked stages: at least 3 skips, each map half the size of the last up to rounding.

    in_channels: with other than 3, pretrained first convolutions are adapted as timm does (1: summed; n: repeated and
    scaled). stem: "own", "stride1" (the first convolution keeps the size), "no-pool" (without the first max-pool), or
    "3x3" (a fresh 3x3 convolution that keeps the size, and no max-pool: the first place of TGS).
    weights: a file in timm's own layout (.safetensors, .pth, .bin), used instead of a download; its classifier may be
    left over, nothing else. image_size: side of the input in pixels, at which the stages are checked.

    Raises InputError for an unknown name, a net that cannot serve, a stem that it does not have, weights that cannot
    be had or do not fit.
    """
    _check_name(name)
    try:
        net = _timm_net(name, in_channels, pretrained and not weights)
        links = _links(net)
        _change_stem(net, links, stem)
        encoder = _compose(name, net, links, torch.Size((2, in_channels, image_size, image_size)))
    except _UnfitError as error:
        what = name if stem == "own" else f"{name} with stem {stem}"
        raise InputError(f"encoder {what} cannot serve at {image_size} px: {error}; {WORKING}") from error
    if weights:
        _load(net, [link for link, _ in links], Path(weights), in_channels, stem == "3x3")
    return encoder.train()


class _UnfitError(Exception):
    """Why a net cannot be an encoder."""


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = timm.list_models(f"{architecture}*")[:4] or difflib.get_close_matches(architecture, timm.list_models())
        mend = f"did you mean {' or '.join(near)}?" if near else WORKING
        raise InputError(f"timm {timm.__version__} has no encoder {name!r}: {mend}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        raise InputError(f"encoder {architecture} has no weights {tag!r}: there are {', '.join(tagged) or 'none'}")


def _timm_net(name: str, in_channels: int, pretrained: bool) -> TimmNet:
    try:
        return timm.create_model(name, pretrained=pretrained, in_chans=in_channels)
    except Exception as error:  # each net, the hub client and its transport raise their own kinds
        if not pretrained:
            raise _UnfitError(f"timm cannot make it ({_first_line(error)})") from error
        raise InputError(
            f"the pretrained weights of {name} cannot be had ({_first_line(error)}): train without them "
            "(--no-pretrained), give a file (--weights FILE), or fill the hub's cache where there is a network and "
            "point HF_HOME to it"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _links(net: TimmNet) -> list[Link]:
    """The parts of `net` that run one after another, up to the last feature map that timm lists."""
    taps = [info["module"] for info in getattr(net, "feature_info", [])]
    if not taps:
        raise _UnfitError("timm lists no feature maps for it")
    links = []
    for name, part in _unroll(net, "", taps):
        links.append((name, part))
        if f"{taps[-1]}.".startswith(f"{name}."):
            return links
    raise _UnfitError("its feature maps are not the outputs of its parts")


def _unroll(module: nn.Module, prefix: str, taps: list[str]) -> Iterator[Link]:
    """The children of `module`, with the containers opened that hold a tap."""
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if type(child) in (nn.Sequential, nn.ModuleList) and any(tap.startswith(f"{path}.") for tap in taps):
            yield from _unroll(child, f"{path}.", taps)
        else:
            yield path, child


def _change_stem(net: TimmNet, links: list[Link], stem: str) -> None:
    """Give net and links the wanted stem."""
    if stem not in STEMS:
        raise InputError(f"unknown stem {stem!r}: there are {', '.join(STEMS)}")
    convs = [(name, part) for name, part in net.named_modules() if isinstance(part, nn.Conv2d)][:1]
    pools = [name for name, part in links if isinstance(part, nn.MaxPool2d)][:1]
    strided = any(conv.stride == (2, 2) for _, conv in convs)
    offered = {"own": True, "stride1": strided, "no-pool": bool(pools), "3x3": bool(convs and pools)}
    if not offered[stem]:
        lack = "first convolution of stride 2" if stem == "stride1" else "first max-pool"
        raise _UnfitError(f"it has no {lack} (its stems: {', '.join(s for s in STEMS if offered[s])})")
    if stem == "stride1":
        convs[0][1].stride = (1, 1)
    if stem == "3x3":
        name, old = convs[0]
        fresh = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=old.bias is not None)
        _replace(net, links, name, fresh)
    if stem in ("no-pool", "3x3"):
        _replace(net, links, pools[0], nn.Identity())


def _replace(net: TimmNet, links: list[Link], name: str, part: nn.Module) -> None:
    """Put another part in the place of this name, which may be a link or lie within one."""
    net.set_submodule(name, part)
    links[:] = [(link, part if link == name else old) for link, old in links]


def _compose(name: str, net: TimmNet, links: list[Link], shape: torch.Size) -> Encoder:
    """Group the links into stages by the size of their maps, and check the stages by a real forward."""
    net.eval()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    truth = _whole(net, links[-1][1], x)
    shapes = _shapes(links, x)
    # a stride halves the side; a convolution without padding only takes off a pixel or two
    starts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(shapes)) if a[-1] >= 1.5 * b[-1]), len(links)]
    maps = [shapes[end - 1] for end in starts[1:]]
    sides = [each[-1] for each in maps]
    if len(maps) <= MIN_SKIPS or any(abs(fine - 2 * coarse) > 1 for fine, coarse in pairwise(sides)):
        raise _UnfitError(f"its maps have {', '.join(map(str, sides))} px; at least 4 are needed, each half the last")
    stages = [nn.Sequential() for _ in maps]
    for stage, (start, end) in zip(stages, pairwise(starts), strict=True):
        for link, part in links[start:end]:
            stage.add_module(link.replace(".", "_"), part)
    encoder = Encoder(name, stages, [link for link, _ in links], maps, shape[-1], net.pretrained_cfg)
    with torch.no_grad():
        if not torch.allclose(encoder(x), truth, rtol=1e-4, atol=1e-5):
            raise _UnfitError("its parts one after another do not give what the whole net gives")
    return encoder


def _whole(net: TimmNet, last: nn.Module, x: Tensor) -> Tensor:
    """What `last` gives out while the whole net runs on x."""
    seen: list[Tensor] = []
    # a copy, because the net's head may go on in place
    hook = last.register_forward_hook(lambda _, __, output: seen.append(deepcopy(output)))
    try:
        with torch.no_grad():
            net.forward_features(x)
    except Exception as error:  # each net fails in its own way on sizes that it does not take
        raise _UnfitError(f"it does not take the input ({_first_line(error)})") from error
    finally:
        hook.remove()
    if not seen:
        raise _UnfitError("it runs without its last part")
    return seen[0]


def _shapes(links: list[Link], x: Tensor) -> list[torch.Size]:
    """The shapes of the maps (B, C, H, H) after each link."""
    shapes = []
    for _, part in links:
        try:
            with torch.no_grad():
                x = part(x)
        except Exception as error:  # parts that are not meant to follow each other fail in their own ways
            raise _UnfitError(f"its parts do not run one after another ({_first_line(error)})") from error
        if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[2] != x.shape[3]:
            raise _UnfitError("its parts do not hand on one map (batch, channels, height, width)")
        shapes.append(x.shape)
    return shapes


def _load(net: TimmNet, names: list[str], path: Path, in_channels: int, fresh_stem: bool) -> None:
    """Load a file in timm's layout into the parts of `net` of these names, every key accounted for.

    With a fresh stem the file's first convolution has no place in the net, which keeps its own, unless the file says
    that it is of that stem.
    """
    given = _read(path)
    fresh_stem = fresh_stem and metadata(path).get("net.stem") != "3x3"
    whole = net.state_dict()
    needed = {key for key in whole if key.startswith(tuple(f"{name}." for name in names))}
    first = net.pretrained_cfg.get("first_conv") or ()
    for conv in (first,) if isinstance(first, str) else first:
        key = f"{conv}.weight"
        if key in given and key in whole and in_channels != 3 and given[key].shape[1:2] == (3,):
            given[key] = adapt_input_conv(in_channels, given[key])
        if key in given and key in whole and fresh_stem:
            given[key] = whole[key]
    # files older than torch 1.0 lack the batch counters, which nothing reads
    missing = [key for key in needed - given.keys() if not key.endswith("num_batches_tracked")]
    misfits = [key for key in needed & given.keys() if given[key].shape != whole[key].shape]
    # what lies behind the last stage, the classifier above all, has no place here
    unused = given.keys() - whole.keys()
    faults = {"missing": missing, "of another shape": misfits, "unused": unused}
    found = [f"{len(keys)} {kind} ({', '.join(sorted(keys)[:3])})" for kind, keys in faults.items() if keys]
    if found:
        raise InputError(
            f"{path}: does not fit the encoder: keys {', '.join(found)}; save the state_dict of timm's net of this name"
        )
    net.load_state_dict({key: given[key] for key in needed & given.keys()}, strict=False)


def metadata(path: str | Path) -> dict[str, str]:
    """What a .safetensors file says of itself; nothing for any other file, be it damaged or missing."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, safetensors.SafetensorError):
        return {}


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, without pickle."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such weights file")
    try:
        if path.suffix == ".safetensors":
            table = safetensors.torch.load_file(path)
        else:
            table = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zipfile, pickle and torch each raise their own kinds
        if "Unsupported global" not in str(error):
            reason = "torch cannot read it" if isinstance(error, UnpicklingError) else _first_line(error)
            raise InputError(f"{path}: not a file of weights ({reason}): give .safetensors or .pth") from error
        table = None  # a whole net was pickled
    if not isinstance(table, dict) or not all(isinstance(value, Tensor) for value in table.values()):
        raise InputError(f"{path}: holds more than tensors by name: save net.state_dict() alone")
    return table
