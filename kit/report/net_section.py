"""The report's chapter on the score and the net: how one tile is scored, how the net sees it, what the net is."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from kit import recipe as recipes
from kit.data.tiles import Tiles
from kit.recipe import Recipe
from kit.report import figures
from kit.report.figures import Row
from kit.report.plates import Plate, Section, Table
from kit.runs import Run
from kit.scoring import decide
from kit.scoring.postprocess import CHUNK

if TYPE_CHECKING:
    from kit.nets.model import TileNet

INSTRUCTIVE = 0.7  # IoU of the tile that the score is explained on: some thresholds are passed, some are not
VISIBLE = 0.1  # share of the tile
AUGMENTED = 5
RGB = ("grey as red", "grey as green", "grey as blue")  # each normalised by that colour's mean and deviation


def section(run: Run, tiles: Tiles) -> Section:
    """The chapter of a run, all of it on one training tile.

    Without out-of-fold predictions the plate of the score is left out; of an ensemble, which has no net, all others
    are. Raises InputError where the run was trained on other tiles, or its files are damaged.
    """
    decide.check_tiles(run, tiles)
    found = _instructive(run, tiles) if (run / "oof.npy").exists() else None
    parts: list[Plate | Table] = [_metric(tiles, *found)] if found else []
    if not (run / "ensemble.json").exists():
        recipe = recipes.load(str(run / "recipe.toml"))
        parts += _of_net(recipe, tiles, found[0] if found else _half_covered(tiles))
    return Section("net", "Score and net", parts)


def _instructive(run: Run, tiles: Tiles) -> tuple[int, np.ndarray] | None:
    """The training tile that says most about the score, and its out-of-fold mask (H, W) bool; None without any salt."""
    prob, ids = decide.predictions(run, "oof", tiles, f"train {run.name} again")
    rows = decide.rows_of(tiles.train_ids, ids, f"{run / 'oof_ids.csv'}")
    decision = decide.decision_of(run)
    head, constant = decide.needed_head(run, "oof", len(ids), decision), tiles.constant("train")[rows]
    best: tuple[float, int, np.ndarray] | None = None
    for first in range(0, len(rows), CHUNK):
        part = slice(first, first + CHUNK)
        pred = decision.masks(prob[part], constant[part], None if head is None else head[part])
        plainness = _plainness(pred, tiles.masks[rows[part]])
        plainest = int(plainness.argmax())
        if plainness[plainest] > (best[0] if best else -np.inf):
            best = float(plainness[plainest]), int(rows[first + plainest]), pred[plainest]
    return best and best[1:]


def _plainness(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """How plainly each tile shows what the score is, (n,) float; -inf without salt.

    Plainest are an IoU of 0.7 with as much missed as wrongly added, and enough salt to be seen.
    """
    shared, missed, added = ((a & b).sum(axis=(1, 2)) for a, b in ((pred, true), (~pred, true), (pred, ~true)))
    union = np.maximum(shared + missed + added, 1)
    small = true.mean(axis=(1, 2)) < VISIBLE
    plainness = -abs(shared / union - INSTRUCTIVE) - abs(missed - added) / union - small
    return np.where(true.any(axis=(1, 2)), plainness, -np.inf)


def _half_covered(tiles: Tiles) -> int:
    return int(abs(tiles.masks.mean(axis=(1, 2)) - 0.5).argmin())


def _metric(tiles: Tiles, row: int, pred: np.ndarray) -> Plate:
    figure = figures.metric_explained(tiles.train_images[row], tiles.masks[row], pred, tiles.train_ids[row])
    return Plate("metric", "How is a tile scored?", figure,
                 "An IoU exactly at a threshold is a miss. Two empty masks score 1, one empty mask 0; the score of all "
                 "tiles is their mean.")  # fmt: skip


def _of_net(recipe: Recipe, tiles: Tiles, row: int) -> Iterator[Plate | Table]:
    """torch is imported here, with the first plate that needs a net."""
    from kit.training.learner import make_net

    net = make_net(recipe.from_scratch())  # shapes are the same, and nothing is downloaded
    yield _input(net, recipe, tiles, row)
    if recipe.data.augment != "none":
        yield _augmented(recipe, tiles, row)
    yield _stages(net, recipe)


def _input(net: "TileNet", recipe: Recipe, tiles: Tiles, row: int) -> Plate:
    import torch

    inputs = net.inputs.eval()
    device = inputs.mean.device
    depth = torch.from_numpy(tiles.relative_depth("train")[[row]]).to(device) if net.needs_depth else None
    channels = inputs(torch.from_numpy(tiles.train_images[[row]]).to(device), depth)[0][0].cpu().numpy()
    names = RGB if recipe.data.channels == "grey3" else inputs.names
    corner = (inputs.size - inputs.side) // 2
    figure = figures.net_input(tiles.train_images[row], channels, names, corner, inputs.side)
    return Plate("net-input", "What does the net see of a tile?", figure, _input_in_words(recipe, inputs.side))


def _input_in_words(recipe: Recipe, side: int) -> str:
    data = recipe.data
    resized = f"resized to {side} px" if data.fit == "resize" or data.resize else "as it is"
    if data.fit == "resize":
        return f"The tile is {resized}."
    place = "in the middle, in training anywhere" if data.fit == "pad-random" else "in the middle"
    how = "its mirror image" if data.fit == "pad-reflect" else "its border"
    return f"The tile, {resized}, lies {place} of {data.size} px; {how} fills the rest."


def _augmented(recipe: Recipe, tiles: Tiles, row: int) -> Plate:
    from kit.training.augment import Augmenter

    image, mask = np.asarray(tiles.train_images[row]), tiles.masks[row].astype(np.uint8)
    augmenter = Augmenter(recipe.data.augment, recipe.seed)
    drawn = [(image, mask), *(augmenter(image, mask, epoch, row) for epoch in range(AUGMENTED))]
    images, masks = (np.array(stack) for stack in zip(*drawn, strict=True))
    labels = ["as it is", *(f"epoch {epoch + 1}" for epoch in range(AUGMENTED))]
    figure = figures.tile_rows([Row("", images, masks.astype(bool), labels)])
    return Plate("augmentations", "How does the tile change from epoch to epoch?", figure,
                 f'The augmentation "{recipe.data.augment}", before the tile is padded or resized.')  # fmt: skip


def _stages(net: "TileNet", recipe: Recipe) -> Table:
    from kit.nets import summary
    from kit.nets.model import parameter_count

    total = parameter_count(net)
    rows = [
        (stage.name, stage.kind, " x ".join(map(str, stage.shape)) or "1", f"{stage.parameters:,}",
         f"{stage.parameters / total:.1%}")
        for stage in summary.stages(net)
    ]  # fmt: skip
    columns = ["stage", "module", "output: channels x height x width", "parameters", "share"]
    name = " with ".join(filter(None, [recipe.net.encoder, f"decoder {recipe.net.decoder}"]))
    return Table("stages", "What is the net made of?", pd.DataFrame(rows, columns=columns),
                 f"{name}: {total:,} parameters, in the order in which the stages run.")  # fmt: skip
