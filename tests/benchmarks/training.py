"""Training DynamicUnet + resnet34 at 128 px: the kit beside plain fastai; and what the kit's loaders cost of a step.

The peer is what a fastai user writes: unet_learner on PNG files through a DataBlock, aug_transforms, float32.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from fastai.vision.all import (
    BCEWithLogitsLossFlat,
    DataBlock,
    ImageBlock,
    IndexSplitter,
    Learner,
    MaskBlock,
    aug_transforms,
    resnet34,
    unet_learner,
)
from PIL import Image

from kit import recipe
from kit.data.tiles import Tiles
from kit.training.learner import make_learner
from tests.benchmarks.side import Row, in_turn, median_seconds

BS, STEPS, ROUNDS = 16, 3, 5


def rows(tiles: Tiles, folder: Path) -> Iterator[Row]:
    """Whole training steps, data included, kit and peer in turn."""
    kit_learner = make_learner(recipe.load("baseline").with_bs(BS).from_scratch(), tiles, 0)
    peer = plain_fastai(tiles, folder / "png")
    own, theirs, ratio = in_turn(steps(kit_learner), steps(peer), ROUNDS)
    count = BS * STEPS
    rates = f"{count / own:.1f} tiles/s", f"{count / theirs:.1f} tiles/s (fastai)"
    yield Row("training DynamicUnet resnet34", *rates, ratio, ROUNDS)

    loader = kit_learner.dls.train
    loading = median_seconds(lambda: list(loader), ROUNDS) / len(loader)
    yield Row("share of a step that the loaders cost", f"{100 * loading / (own / STEPS):.2f} %", rounds=ROUNDS)


def steps(learn: Learner):
    """A job of STEPS training steps with the learner's own loss, optimiser and loader."""
    learn.create_opt()
    learn.model.train()

    def job() -> None:
        for number, batch in enumerate(learn.dls.train):
            if number == STEPS:
                break
            x, y = batch
            loss = learn.loss_func(learn.model(x), y)
            loss.backward()
            learn.opt.step()
            learn.opt.zero_grad()

    return job


def plain_fastai(tiles: Tiles, folder: Path) -> Learner:
    """unet_learner on PNG files as the fastai documentation shows it."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, (image, mask) in enumerate(zip(tiles.train_images, tiles.masks, strict=True)):
        Image.fromarray(image).convert("RGB").save(folder / "images" / f"{number}.png")
        Image.fromarray(mask.astype("uint8")).save(folder / "masks" / f"{number}.png")
    block = DataBlock(
        blocks=(ImageBlock, MaskBlock(codes=["rock", "salt"])),
        get_items=lambda path: sorted((path / "images").iterdir()),
        get_y=lambda path: folder / "masks" / path.name,
        splitter=IndexSplitter(list(range(80))),
        batch_tfms=aug_transforms(size=128, max_rotate=6.0, max_zoom=1.15, max_warp=0.0),
    )
    loss = BCEWithLogitsLossFlat(axis=1)
    dls = block.dataloaders(folder, bs=BS, num_workers=0, device=torch.device("cpu"))
    return unet_learner(dls, resnet34, pretrained=False, n_out=1, loss_func=loss, path=folder)
