"""Tiles without labels: which are shown, in which views, and that both follow from (seed, epoch, draw)."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kit.errors import InputError
from kit.recipe import Stage
from kit.training import learner, unlabelled
from tests.small import easy_tiles, tiny_recipe

TILES = easy_tiles(32, 10)
TEACHER = Stage(bs=6, consistency="mean-teacher", ema=0.9)
PAIR = replace(TEACHER, consistency="co-training")


def unlabelled_loader(tiles=TILES, workers: int = 0, depth: bool = False, stage: Stage = TEACHER):
    loader = unlabelled.make_loader(tiny_recipe(), tiles, "cpu", depth, workers)
    loader.serve(stage)
    return loader


def batches(loader, epoch: int = 0, first: int = 0, last: int = 4) -> list:
    loader.window(epoch, first, last)
    return list(loader)


def numbered_tiles():
    """Tiles that say in their four corners which they are, training and test; three test tiles are constant."""
    tiles = easy_tiles(32, 10)
    images = [tiles.train_images.copy(), tiles.test_images.copy()]
    for number, image in enumerate([*images[0], *images[1]]):
        image[[0, 0, -1, -1], [0, -1, 0, -1]] = number
    images[1][[2, 5, 9]] = 77
    return replace(tiles, train_images=images[0], test_images=images[1])


def test_only_test_tiles_that_are_not_constant_are_ever_shown():
    tiles = numbered_tiles()
    recipe = replace(tiny_recipe(), stages=(TEACHER,))
    loader = learner.make_learner(recipe, tiles, 0).dls[2]
    loader.serve(TEACHER)
    seen = [weak[:, 0, 0, 0] for epoch in range(3) for weak, _ in batches(loader, epoch, 0, 5)]
    numbers, times = torch.cat(seen).unique(return_counts=True)
    assert set(numbers.tolist()) == {32 + i for i in range(10) if i not in (2, 5, 9)}
    assert times.max() - times.min() <= 3  # each as often as any other, to within one an epoch


def test_the_views_show_the_same_place_and_only_the_strong_ones_are_changed():
    tiles = numbered_tiles()
    shown = {32 + i: image.astype(int) for i, image in enumerate(tiles.test_images)}
    weak, strong = (torch.cat(part) for part in zip(*batches(unlabelled_loader(tiles)), strict=True))
    mirrored = []
    for one, other in zip(weak[:, 0].numpy(), strong[:, 0].numpy(), strict=True):
        tile = shown[one[0, 0]]
        mirrored.append(np.array_equal(one, tile[:, ::-1]))
        assert mirrored[-1] or np.array_equal(one, tile)
        here, there = (np.corrcoef(each.ravel(), other.ravel())[0, 1] for each in (one, one[:, ::-1]))
        assert here > there
    assert 4 < sum(mirrored) < 20
    changed = (weak != strong).flatten(1).any(1)
    assert changed.float().mean() > 0.8

    both = [torch.cat(part) for part in zip(*batches(unlabelled_loader(tiles, stage=PAIR)), strict=True)]
    assert torch.equal(both[1], strong)
    first_changed = (both[0] != weak).flatten(1).any(1)
    assert first_changed.float().mean() > 0.8
    assert (both[0] != both[1]).flatten(1).any(1).float().mean() > 0.9


@pytest.mark.filterwarnings("ignore")
def test_views_are_the_same_from_any_number_of_workers_and_from_the_middle_and_others_in_the_next_epoch():
    whole, elsewhere = (batches(unlabelled_loader(workers=n, depth=True)) for n in (0, 2))
    middle, later = batches(unlabelled_loader(depth=True), 0, 1, 4), batches(unlabelled_loader(depth=True), 1)
    for batch, again in [*zip(whole, elsewhere, strict=True), *zip(whole[1:], middle, strict=True)]:
        assert all(torch.equal(one, other) for one, other in zip(batch, again, strict=True))
    assert not torch.equal(whole[0][1], later[0][1])
    weak, _, depth = whole[0]
    pictures = [tile.tobytes() for tile in TILES.test_images] + [tile[:, ::-1].tobytes() for tile in TILES.test_images]
    rows = [pictures.index(tile.numpy().tobytes()) % 10 for tile in weak[:, 0]]
    np.testing.assert_allclose(depth, TILES.relative_depth("test")[rows])


@pytest.mark.parametrize("n_test", [0, 10])
def test_without_tiles_to_show_it_is_refused(n_test):
    tiles = easy_tiles(32, n_test)
    tiles = replace(tiles, test_images=np.zeros_like(tiles.test_images))
    with pytest.raises(InputError, match="every test tile is of one grey level") as caught:
        learner.make_learner(replace(tiny_recipe(), stages=(TEACHER,)), tiles, 0)
    assert "\n" not in str(caught.value)
