"""The whole net of a recipe: tiles as the competition gives them in, logits of the same tiles out."""

from typing import Any

import torch
from torch import Tensor, nn

from kit.errors import InputError
from kit.nets import classic, decoders, encoders, inputs
from kit.nets.heads import Outputs
from kit.recipe import Salt

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
ALL_OFF = Salt()
EMPTY = -20.0  # logit of a pixel in a tile that the net calls empty: a probability of 2e-9


class TileNet(nn.Module):
    """Tiles of grey levels 0..255, (B, T, T) or (B, 1, T, T), uint8 or float -> logits (B, T, T) float32.

    Inside: made into what the encoder sees (kit.nets.inputs, where the ValueErrors come from), run under autocast in
    `precision` (None is float32), and every map brought back to the tile. In training mode a decoder with further heads
    gives heads.Outputs, each map (B, T, T); in evaluation mode there are logits only, with `gating` those of tiles that
    the head calls empty all at -20. The state dict holds what is learnt: neither constants nor anything twice.
    """

    def __init__(
        self,
        shown: inputs.Inputs,
        decoder: nn.Module,
        encoder: encoders.Encoder | None,
        *,
        precision: torch.dtype | None,
        gating: bool = False,
    ):
        super().__init__()
        self.inputs, self.decoder, self.precision, self.gating = shown, decoder, precision, gating
        self._groups = self._name_groups(encoder)
        self._in_timm = self._name_in_timm(encoder)
        self.to(memory_format=torch.channels_last)

    @property
    def needs_depth(self) -> bool:
        """Whether the net must be given the tiles' relative depths, (B,) float32, beside the tiles."""
        return self.inputs.needs_depth

    def forward(self, tiles: Tensor, depth: Tensor | None = None) -> Tensor | Outputs:
        if not self.training:
            return self.predicted(tiles, depth).logits
        outputs = self.outputs(tiles, depth)
        return outputs if outputs.further else outputs.logits

    def predicted(self, tiles: Tensor, depth: Tensor | None = None) -> Outputs:
        """`outputs`, but with `gating` the logits of tiles that the head calls empty all at -20."""
        outputs = self.outputs(tiles, depth)
        if not self.gating or outputs.empty is None:
            return outputs
        return outputs._replace(logits=outputs.logits.masked_fill(outputs.empty[:, None, None] > 0, EMPTY))

    def outputs(self, tiles: Tensor, depth: Tensor | None = None) -> Outputs:
        """All that the decoder says of the tiles, without gating: maps (B, T, T), the empty head's logits (B,)."""
        x, corners = self.inputs(tiles, depth)
        # DynamicUnet's last cross puts the input beside the last maps: in float32 it would make them float32 too
        x = x.to(self.precision or torch.float32, memory_format=torch.channels_last)
        # without autocast's cache: each weight is used once, and its copies would be held until the end of the pass
        with torch.autocast(
            x.device.type, dtype=self.precision, enabled=self.precision is not None, cache_enabled=False
        ):
            found = self.decoder(x)

        def back(maps: Tensor) -> Tensor:
            return self.inputs.back(maps.float(), corners).squeeze(1)

        if not isinstance(found, Outputs):
            return Outputs(back(found))
        return Outputs(
            back(found.logits),
            tuple(back(maps) for maps in found.deep),
            None if found.empty is None else found.empty.float(),
            None if found.nonempty is None else back(found.nonempty),
        )

    def _name_groups(self, encoder: encoders.Encoder | None) -> list[list[str]]:
        """The names of the parameters by group: names last through copies, parameters do not."""
        stages = list(encoder or [])
        half = (len(stages) + 1) // 2
        early = {id(p) for stage in stages[:half] for p in stage.parameters()}
        late = {id(p) for stage in stages[half:] for p in stage.parameters()}
        groups: list[list[str]] = [[], [], []]
        for name, p in self.named_parameters():
            groups[0 if id(p) in early else 1 if id(p) in late else 2].append(name)
        return groups

    def _name_in_timm(self, encoder: encoders.Encoder | None) -> dict[str, str]:
        """For each name in timm of a part of the encoder its name in this net."""
        own = {id(tensor): name for name, tensor in self.state_dict(keep_vars=True).items()}
        return {name: own[id(tensor)] for name, tensor in (encoder.timm_names() if encoder else {}).items()}

    def encoder_weights(self) -> dict[str, Tensor]:
        """The encoder's state in timm's own layout: saved as .safetensors it is what `weights` of `build` reads."""
        state = self.state_dict()
        return {name: state[own] for name, own in self._in_timm.items()}

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """Every parameter once, for learning rates by depth: first half of the encoder's stages, second half, decoder.

        The middle stage of an odd number is in the first half, as in fastai's own split of a resnet. A classic net has
        no encoder: two empty groups, and all.
        """
        parameters = dict(self.named_parameters())
        return [[parameters[name] for name in names] for names in self._groups]


def build(
    *,
    encoder: str = "resnet34",
    decoder: str = "dynamic",
    stem: str = "own",
    size: int = 128,
    resize: int = 0,
    fit: str = "pad-reflect",
    channels: str = "grey3",
    pretrained: bool = True,
    weights: str | None = None,
    tile_size: int = 101,
    precision: str = "auto",
    options: Salt = ALL_OFF,
) -> TileNet:
    """The net that a recipe names; see encoders.build for encoder, stem, pretrained and weights.

    encoder "" and a name of classic.NETS as decoder: a classic net, which sees grey levels of 0..1.
    size, resize, fit, channels: what the encoder sees, see inputs.Inputs. options: the switches of the decoder.
    precision: "float32", "bfloat16", "float16", or "auto" for the best of this machine. Raises InputError for a value
    that cannot be.
    """
    _check("precision", precision, ("auto", *PRECISIONS))
    inputs.check(size=size, resize=resize, fit=fit, tile_size=tile_size)
    n_channels = inputs.channel_count(channels)
    _check_parts(encoder, decoder, stem, pretrained or bool(weights), options)
    stages = None
    if weights:
        _check_origin(weights, {"net.encoder": encoder, "data.channels": channels})
    if encoder:
        stages = encoders.build(
            encoder, in_channels=n_channels, stem=stem, pretrained=pretrained, weights=weights, image_size=size
        )
    mean, std = (stages.mean, stages.std) if stages else ((0.0,) * 3, (1.0,) * 3)
    auto = precision == "auto"
    return TileNet(
        inputs.Inputs(size=size, resize=resize, fit=fit, channels=channels, tile_size=tile_size, mean=mean, std=std),
        decoders.build(decoder, stages, size, options) if stages else classic.build(decoder, n_channels, size, options),
        stages,
        precision=best_precision("cuda" if torch.cuda.is_available() else "cpu") if auto else PRECISIONS[precision],
        gating=options.gating,
    )


def _check(key: str, value: str, allowed: Any) -> None:
    if value not in allowed:
        raise InputError(f"{key} {value!r} is unknown: use {' or '.join(allowed)}")


def _check_origin(weights: str, recipe: dict[str, str]) -> None:
    """Raises InputError for weights that say of themselves that they are of another encoder or of other channels.

    Only scripts/train.py --pretext writes such. The tag of an encoder's name, behind the dot, does not count.
    """
    origin = encoders.metadata(weights)
    for key, own in recipe.items():
        there = origin.get(key, own)
        if there.partition(".")[0] != own.partition(".")[0]:
            raise InputError(
                f"{weights} was pretrained with {key}={there}, and the recipe has {own}: "
                f"add --set {key}={there}, or pretrain with --pretext --set {key}={own}"
            )


def _check_parts(encoder: str, decoder: str, stem: str, pretrained: bool, options: Salt) -> None:
    """Raises InputError for parts that do not go together."""
    is_classic = decoder in classic.NETS
    if encoder and is_classic:
        raise InputError(f"decoder {decoder} is a whole net of its own: leave out --arch (net.encoder is empty)")
    if not encoder and not is_classic:
        raise InputError(f"decoder {decoder} needs an encoder: name one, or one of {', '.join(classic.NETS)}")
    if not encoder and (pretrained or stem != "own"):
        raise InputError(f"{decoder} has no pretrained weights and no stems: use --no-pretrained and net.stem=own")
    if options.gating and not options.empty:
        raise InputError("salt.gating needs the head that says whether a tile is empty: give salt.empty above 0")
    if options.deep_nonempty and not options.deep:
        raise InputError("salt.deep_nonempty is of the loss at each decoder scale: give salt.deep above 0")


def best_precision(device: str | torch.device) -> torch.dtype | None:
    """The fastest type that autocast should use on `device`; None where float32 is.

    GPUs: bfloat16 from compute capability 8.0, else float16 (`torch.cuda.is_bf16_supported` is true on a T4 as well,
    by slow emulation). CPUs: bfloat16 where they have instructions for it.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if kind == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return torch.bfloat16
    return None


def parameter_count(net: nn.Module) -> int:
    """How many numbers the net learns."""
    return sum(p.numel() for p in net.parameters())
