"""What a net is made of: its stages in the order in which they run, each with the shape that leaves it."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import nn

from kit.nets.model import TileNet


class Stage(NamedTuple):
    """One part of a net."""

    name: str  # where it stands in the decoder
    kind: str  # its class; of a Sequential the classes within, repeated ones counted
    shape: tuple[int, ...]  # of what leaves it, without the batch: (channels, height, width)
    parameters: int


def stages(net: TileNet) -> list[Stage]:
    """The stages of a net, found by a forward of two black tiles; parts that neither learn nor change a shape are left
    out.

    In training mode, for some heads exist only there: the batch-norms' statistics move, so give a net that is not used.
    """
    found: list[Stage] = []

    def watch(name: str, part: nn.Module) -> Any:
        def note(part: nn.Module, given: tuple, result: Any) -> None:
            shape = (result[0] if isinstance(result, tuple) else result).shape[1:]
            count = sum(p.numel() for p in part.parameters())
            if count or shape != given[0].shape[1:]:
                found.append(Stage(name, _kind(part), tuple(shape), count))

        return part.register_forward_hook(note)

    hooks = [watch(name, part) for name, part in (("input", net.inputs), *_parts(net.decoder))]
    side, device = net.inputs.tile_size, next(net.parameters()).device
    black = torch.zeros(2, side, side, device=device)
    with torch.no_grad():
        net.train().outputs(black, torch.zeros(2, device=device) if net.needs_depth else None)
    for hook in hooks:
        hook.remove()
    return found


def _parts(decoder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The decoder's children by name, each list and the encoder opened."""
    for name, child in decoder.named_children():
        yield from _opened(name, child, getattr(decoder, "encoder", None))


def _opened(name: str, part: nn.Module, encoder: nn.Module | None) -> Iterator[tuple[str, nn.Module]]:
    if part is encoder:
        yield from ((f"encoder {number}", stage) for number, stage in enumerate(part.children(), 1))
    elif isinstance(part, nn.ModuleList):
        for number, child in enumerate(part, 1):
            yield from _opened(f"{name} {number}", child, encoder)
    else:
        yield name, part


def _kind(part: nn.Module) -> str:
    runs = ((name, len(list(same))) for name, same in groupby(_classes(part)))
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in runs)


def _classes(part: nn.Module) -> Iterator[str]:
    if isinstance(part, nn.Sequential):
        for child in part:
            yield from _classes(child)
    elif not isinstance(part, nn.Identity):
        yield type(part).__name__
