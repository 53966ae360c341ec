"""Tiles without labels, each in two views of one geometry, so that a mask of the one is right for the other.

Only test tiles: a fold's validation tiles are never looked at in training, not even without their labels. Order and
views are functions of (seed, epoch, draw), as those of the training tiles are.
"""

import numpy as np
from torch import Tensor, from_numpy

from kit.data.tiles import Tiles
from kit.errors import InputError
from kit.recipe import Recipe, Stage
from kit.training.augment import Augmenter
from kit.training.loaders import TileLoader, by_weight, workers

CO_TRAINING = "co-training"


class Views:
    """An item (epoch, draw) is the tile draw % n mirrored or not, as two images (H, W) uint8, and its depth if any.

    The second is strongly changed; the first as well with `both_strong`, in another way, else it is as it was.
    """

    resident = ()  # the tiles stay on the host: "photometric" needs albumentations

    def __init__(self, images: np.ndarray, seed: int, depth: np.ndarray | None = None):
        self.images, self.seed, self.depth, self.both_strong = images, seed, depth, False
        streams = np.random.SeedSequence((seed, 4)).generate_state(2)
        self.augmenters = [Augmenter("photometric", int(stream)) for stream in streams]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> tuple:
        epoch, draw = item
        i = draw % len(self)
        mirrored = np.random.default_rng((self.seed, epoch, draw, 5)).random() < 0.5
        image = np.ascontiguousarray(self.images[i][:, ::-1]) if mirrored else self.images[i]
        first = self._strong(1, image, epoch, draw) if self.both_strong else image
        views = (first, self._strong(0, image, epoch, draw))
        return views if self.depth is None else (*views, self.depth[i])

    def _strong(self, which: int, image: np.ndarray, epoch: int, draw: int) -> np.ndarray:
        return self.augmenters[which](image, np.zeros_like(image), epoch, draw)[0]


class UnlabelledLoader(TileLoader):
    """Batches of two views (B, 1, H, W) uint8 of the same tiles; (first, second, depth) with depth (B,) where needed.

    `serve` and `window` as of a TileLoader. Tiles that an epoch has more draws than are drawn again, in other views.
    """

    def serve(self, stage: Stage) -> None:
        self.bs = stage.bs
        self.dataset.both_strong = stage.consistency == CO_TRAINING

    def get_idxs(self) -> list:
        first, last = self.part or (0, 1)
        rng = np.random.default_rng((self.seed, self.epoch, 0, 6))
        draws = by_weight(np.ones(self.n), last * self.bs, rng)
        return [(self.epoch, int(draw)) for draw in draws[first * self.bs :]]

    def __len__(self) -> int:
        first, last = self.part or (0, 1)
        return last - first

    def create_batch(self, items: list) -> tuple[Tensor, ...]:
        first, second, *depth = (np.stack(part) for part in zip(*items, strict=True))
        return from_numpy(first[:, None]), from_numpy(second[:, None]), *map(from_numpy, depth)


def make_loader(
    recipe: Recipe, tiles: Tiles, device: str, needs_depth: bool, num_workers: int | None = None
) -> UnlabelledLoader:
    """A loader of the test tiles that are not of one grey level. Raises InputError where there are none."""
    shown = ~tiles.constant("test") if len(tiles.test_images) else np.zeros(0, bool)
    if not shown.any():
        raise InputError(
            "consistency needs tiles without labels, and every test tile is of one grey level: "
            "leave out stages.N.consistency, or give data with test tiles"
        )
    depth = tiles.relative_depth("test")[shown] if needs_depth else None
    views = Views(tiles.test_images[shown], recipe.seed, depth)
    num_workers = workers(device) if num_workers is None else num_workers
    return UnlabelledLoader(
        views, seed=recipe.seed, shuffle=True, num_workers=num_workers, pin_memory=device != "cpu", device=device
    )
