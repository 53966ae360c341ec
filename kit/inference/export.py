"""A trained run as one program of torch.export: its folds, snapshots and views in one graph that needs torch alone."""

import io
import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from kit.data.competition import TGS
from kit.inference.predict import used_weights
from kit.nets.tta import check_tta, mean_of_views
from kit.recipe import Recipe
from kit.runs import Run, write_bytes
from kit.training.fold import load_nets

TOLERANCE = 1e-4  # of a probability, between the program and the nets that it was made of
MOST = 4096  # tiles in a batch


class Together(nn.Module):
    """Tiles (B, T, T) uint8, and relative depths (B,) float32 where a net needs them -> the mean over nets and views.

    That is (B, T, T) float32, the probability of salt; of nets with an empty head also (B,), that a tile has none.
    """

    def __init__(self, nets: Sequence[nn.Module], shares: Sequence[float], tta: str, has_empty_head: bool):
        super().__init__()
        self.nets, self.shares, self.tta, self.has_empty_head = nn.ModuleList(nets), shares, tta, has_empty_head

    def forward(self, tiles: Tensor, depth: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        depths = () if depth is None else (depth,)
        each = [mean_of_views(net, self.tta, tiles, *depths) for net in self.nets]
        prob, empty = (
            sum(share * part for share, part in zip(self.shares, parts, strict=True))
            for parts in zip(*each, strict=True)
        )
        return (prob, empty) if self.has_empty_head else prob


@torch.no_grad()
def export(run: Run, recipe: Recipe, tta: str | None = None, weights: str | None = None) -> Path:
    """Write runs/NAME/exported.pt2, which `torch.export.load(path).module()` makes callable, on this kind of device.

    It holds what `predict` averages: every finished fold with the weights that its validation chose, or `weights`.
    Raises InputError when no fold is finished, or one has no such weights.
    """
    together, inputs = _together(run, recipe, tta, weights), _example(recipe)
    batch = torch.export.Dim("batch", min=1, max=MOST)
    device = next(together.parameters()).device
    inputs = tuple(each.to(device) for each in inputs)
    program = torch.export.export(together, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # weights in channels_last make torch 2.15 warn without a reason
        warnings.simplefilter("ignore")
        torch.export.save(program, buffer)
    _compare(together, program.module(), inputs)
    write_bytes(run / "exported.pt2", buffer.getvalue())
    return run / "exported.pt2"


def _together(run: Run, recipe: Recipe, tta: str | None, weights: str | None) -> Together:
    nets, shares = [], []
    used = used_weights(run, weights)
    for fold, name in used.items():
        for share, net in load_nets(run, recipe, fold, name)():
            nets.append(deepcopy(net).eval())
            shares.append(share / len(used))
    return Together(nets, shares, check_tta(tta or recipe.tta), bool(recipe.salt.empty)).eval()


def _example(recipe: Recipe) -> tuple[Tensor, ...]:
    """Random tiles, and depths where the recipe's net needs them."""
    random = torch.Generator().manual_seed(0)
    tiles = torch.randint(0, 256, (3, *TGS.tile_shape), generator=random, dtype=torch.uint8)
    return (tiles, torch.rand(3, generator=random)) if "depth" in recipe.data.channels.split("+") else (tiles,)


def _compare(together: nn.Module, program: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raises RuntimeError, a defect, where the program says something else than the nets."""
    torch.testing.assert_close(program(*inputs), together(*inputs), atol=TOLERANCE, rtol=0)
