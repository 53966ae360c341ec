"""Predicting with DynamicUnet + resnet34 at 128 px: the kit beside fastai's get_preds on PNG files in float32."""

from collections.abc import Callable, Iterator
from pathlib import Path

from kit import recipe
from kit.data.tiles import Tiles
from kit.nets.tta import mean_probability
from kit.training.learner import make_net, settle
from tests.benchmarks.side import Row, in_turn, own_process
from tests.benchmarks.training import plain_fastai, write_pngs

TILES, ROUNDS = 48, 5


def rows(tiles: Tiles, folder: Path) -> Iterator[Row]:
    """One view of each tile, and two, kit and peer in turn, each in its own process."""
    net = make_net(recipe.load("baseline").from_scratch())
    settle()
    if not (folder / "png").exists():
        write_pngs(tiles, folder / "png")
    with own_process(get_preds, folder / "png") as peer:
        for tta, views in (("none", 1), ("hflip", 2)):
            own, theirs, ratio = in_turn(
                lambda tta=tta: mean_probability([(1.0, net)], tiles.train_images[:TILES], tta),
                lambda views=views: [peer() for _ in range(views)],  # as a user does who mirrors the tiles for one
                ROUNDS,
            )
            rates = f"{TILES / own:.1f} tiles/s", f"{TILES / theirs:.1f} tiles/s (fastai get_preds)"
            yield Row(f"predicting with DynamicUnet resnet34, TTA {tta}", *rates, ratio, ROUNDS)


def get_preds(folder: Path) -> Callable[[], object]:
    """One view of each tile by fastai's own means."""
    learn = plain_fastai(folder)
    loader = learn.dls.test_dl(sorted((folder / "images").iterdir())[:TILES])

    def predict() -> None:
        with learn.no_bar():
            learn.get_preds(dl=loader)

    return predict
