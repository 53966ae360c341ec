"""Training resnet34 at 128 px: DynamicUnet beside plain fastai, decoder "salt" beside DynamicUnet; what loaders cost.

The peer is what a fastai user writes: unet_learner on PNG files through a DataBlock, aug_transforms, float32.
"""

from collections.abc import Callable, Iterator
from itertools import chain, islice, repeat
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
from tests.benchmarks.side import Row, in_turn, median_seconds, own_process

BS, STEPS, ROUNDS = 16, 3, 5


def rows(tiles: Tiles, folder: Path) -> Iterator[Row]:
    """Whole training steps, data included, kit and peer in turn, each in its own process."""
    kit_learner = make_learner(recipe.load("baseline").with_bs(BS).from_scratch(), tiles, 0)
    write_pngs(tiles, folder / "png")
    with own_process(fastai_steps, folder / "png") as peer:
        own, theirs, ratio = in_turn(steps(kit_learner), peer, ROUNDS)
    count = BS * STEPS
    rates = f"{count / own:.1f} tiles/s", f"{count / theirs:.1f} tiles/s (fastai)"
    yield Row("training DynamicUnet resnet34", *rates, ratio, ROUNDS)

    options = ["net.decoder=salt", "salt.scse=decoder", "salt.hypercolumn=true"]
    salt_learner = make_learner(recipe.load("baseline", options).with_bs(BS).from_scratch(), tiles, 0)
    own_salt, dynamic, ratio = in_turn(steps(salt_learner), steps(kit_learner), ROUNDS)
    rates = f"{count / own_salt:.1f} tiles/s", f"{count / dynamic:.1f} tiles/s (DynamicUnet)"
    yield Row("training decoder salt (scSE, hypercolumn), resnet34", *rates, ratio, ROUNDS)

    loader = kit_learner.dls.train
    loading = median_seconds(lambda: list(loader), ROUNDS) / len(loader)
    yield Row("share of a step that the loaders cost", f"{100 * loading / (own / STEPS):.2f} %", rounds=ROUNDS)


def steps(learn: Learner) -> Callable[[], object]:
    """A job of STEPS training steps."""
    running = training_steps(learn)
    return lambda: list(islice(running, STEPS))


def training_steps(learn: Learner) -> Iterator[int]:
    """Trains a step at each turn, without end, with the learner's own loss, optimiser and loader; its tiles."""
    learn.create_opt()
    learn.model.train()
    for *x, y in chain.from_iterable(repeat(learn.dls.train)):
        learn.loss_func(learn.model(*x), y).backward()
        learn.opt.step()
        learn.opt.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        yield len(y)


def write_pngs(tiles: Tiles, folder: Path) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, (image, mask) in enumerate(zip(tiles.train_images, tiles.masks, strict=True)):
        Image.fromarray(image).convert("RGB").save(folder / "images" / f"{number}.png")
        Image.fromarray(mask.astype("uint8")).save(folder / "masks" / f"{number}.png")


def fastai_steps(folder: Path) -> Callable[[], object]:
    return steps(plain_fastai(folder))


def plain_fastai(folder: Path) -> Learner:
    """unet_learner on PNG files as the fastai documentation shows it."""
    block = DataBlock(
        blocks=(ImageBlock, MaskBlock(codes=["rock", "salt"])),
        get_items=lambda path: sorted((path / "images").iterdir()),
        get_y=lambda path: folder / "masks" / path.name,
        splitter=IndexSplitter(list(range(80))),
        batch_tfms=aug_transforms(size=128, max_rotate=6.0, max_zoom=1.15, max_warp=0.0),
    )
    loss = BCEWithLogitsLossFlat(axis=1)
    dls = block.dataloaders(folder, bs=BS, num_workers=0)
    return unet_learner(dls, resnet34, pretrained=False, n_out=1, loss_func=loss, path=folder)
