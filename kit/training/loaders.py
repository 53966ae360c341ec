"""fastai DataLoaders of one fold, from arrays in memory.

The order of the tiles and their augmentation are functions of (seed, epoch), and a loader can begin in the middle of an
epoch: so a training that was cut goes on exactly where it stopped. On a GPU the tiles lie there, and batches are made
there; on a CPU tile by tile with albumentations.
"""

import signal
from collections.abc import Callable, Iterator, Sized
from operator import itemgetter
from typing import Any

import fastai.vision.data
import fastai.vision.learner  # noqa: F401  the two say how a batch of images is drawn, with masks, with predictions
import numpy as np
from fastai.data.core import DataLoaders, TfmdDL
from fastai.torch_core import TensorImage, TensorMask
from torch import Tensor, from_numpy, tensor

from kit.data.folds import coverage_class
from kit.errors import InputError
from kit.machine import cpus
from kit.recipe import Stage
from kit.training import batch_augment
from kit.training.augment import Augmenter
from kit.training.pseudo import Labels
from kit.training.schedules import tiles_drawn


class TileDataset:
    """Image, depth if there are depths, and mask: (H, W) uint8, a number, (H, W) uint8 of 0 and 1.

    An item i is a tile as it is; an item (epoch, draw) is the tile draw % n augmented, in another way for each draw.
    Pseudo-labelled tiles come behind the others; `record` says where they are from. With soft labels all masks are
    levels of 0 to `full` = 255.
    """

    def __init__(
        self,
        images: np.ndarray,
        masks: np.ndarray,
        augmenter: Augmenter | None = None,
        depth: np.ndarray | None = None,
        labels: Labels | None = None,
    ):
        self.images, self.masks, self.augmenter, self.depth = images, masks.view(np.uint8), augmenter, depth
        self.n_tiles, self.full, self.weights, self.record = len(images), 1, np.zeros(0), {}
        if labels:
            self.full, self.weights, self.record = 255 if labels.soft else 1, labels.weights, labels.record
            levels = np.rint(labels.masks * np.float32(self.full)).astype(np.uint8)
            self.masks = np.concatenate([self.masks * np.uint8(self.full), levels])
            self.images = np.concatenate([images, labels.images])
            self.depth = None if depth is None else np.concatenate([depth, labels.depth])
        self.resident: tuple[Tensor, ...] = ()  # images, depths if any and masks, where they lie on the device

    @property
    def n_pseudo(self) -> int:
        return len(self.weights)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple:
        epoch, draw = item if isinstance(item, tuple) else (None, item)
        i = draw % len(self)
        image, mask = self.images[i], self.masks[i]
        if self.augmenter and epoch is not None:
            image, mask = self.augmenter(image, mask, epoch, draw)
        return (image, mask) if self.depth is None else (image, self.depth[i], mask)

    def place_on(self, device: str) -> None:
        """Copy the tiles to the device, for `batches`; not where albumentations has to augment them on the host."""
        if self.augmenter is None or batch_augment.covers(self.augmenter):
            parts = (self.images, self.masks) if self.depth is None else (self.images, self.depth, self.masks)
            self.resident = tuple(tensor(part, device=device) for part in parts)

    def batches(self, items: list, bs: int) -> Iterator[tuple[Tensor, ...]]:
        """The items, all numbers or all of one epoch, `bs` at a time, stacked on the device where the tiles lie.

        Nothing is done tile by tile. An augmented tile has the distribution of that of the item alone, but is another.
        """
        device, draws = self.resident[0].device, np.array(items, np.int64)
        changes: list[batch_augment.Change] = []
        if draws.ndim == 2:
            epoch, draws = int(draws[0, 0]), draws[:, 1]
            if self.augmenter:
                changes = batch_augment.draw(self.augmenter, epoch, draws, self.images.shape[1:], device)
        tiles = from_numpy(draws % len(self)).to(device)
        for first in range(0, len(items), bs):
            part = slice(first, first + bs)
            image, *depth, mask = (values[tiles[part]] for values in self.resident)
            for change in changes:
                image, mask = change.each(itemgetter(part)).apply(image, mask)
            yield image, *depth, mask


def uniform(masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each tile once, in random order."""
    return rng.permutation(len(masks))


def by_coverage(masks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many draws as there are tiles, each class of coverage that there is equally often, in random order.

    Within a class no tile is drawn twice more than another. The k-th further draw of tile i is i + k * n.
    """
    n, classes = len(masks), coverage_class(masks)
    present = rng.permutation(np.unique(classes))  # the first ones get a draw more where n does not divide
    draws = []
    for share, kind in zip(np.array_split(np.arange(n), len(present)), present, strict=True):
        members = np.flatnonzero(classes == kind)
        rounds = -(-len(share) // len(members))
        each = [rng.permutation(members) + k * n for k in range(rounds)]
        draws.append(np.concatenate(each)[: len(share)])
    return rng.permutation(np.concatenate(draws))


def by_weight(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` draws of n tiles, each as often as its weight (n,) has it, to within one; in random order.

    Systematic sampling (Madow, Annals of Mathematical Statistics 20, 1949), the tiles in random order beforehand. The
    k-th further draw of tile i is i + k * n.
    """
    order = rng.permutation(len(weights))
    ends = np.cumsum(weights[order]) * (count / weights.sum())
    drawn = np.searchsorted(ends[:-1], np.arange(count) + rng.random(), side="right")
    again = np.arange(count) - np.searchsorted(drawn, drawn)  # `drawn` rises
    return rng.permutation(order[drawn] + again * len(weights))


SAMPLINGS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "uniform": uniform,
    "coverage": by_coverage,
}


class TileLoader(TfmdDL):
    """Batches (x, y) of x (B, 1, H, W) uint8 grey levels and y (B, H, W) uint8 masks; (x, depth, y) with depth (B,).

    With shuffle=True an epoch is the draw of tiles that belongs to (seed, epoch), cut to whole batches; `serve` says of
    which stage, `window` chooses the epoch and the part of it that the next pass gives. Without one each pass is a full
    epoch, the next. Where labels are soft, y is float32 in [0, 1].
    """

    def __init__(self, dataset: Sized, bs: int = 16, seed: int = 0, sampling: str = "uniform", **kwargs):
        super().__init__(dataset, bs=min(bs, max(len(dataset), 1)), **kwargs)
        self.seed, self.sampling = seed, sampling
        self.stage = Stage()
        self.epoch = -1
        self.part: tuple[int, int] | None = None

    def serve(self, stage: Stage) -> None:
        """From now on draw the stage's tiles, in batches of its size."""
        self.stage = stage
        self.bs = min(stage.bs, self._count)

    @property
    def _count(self) -> int:
        return tiles_drawn(self.stage, self.dataset.n_tiles, self.dataset.n_pseudo)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over what the stage draws."""
        return max(1, self._count // self.bs)

    def window(self, epoch: int, first: int, last: int) -> None:
        """The next pass gives batches first..last-1 of this epoch."""
        self.epoch, self.part = epoch, (first, last)

    def get_idxs(self) -> list:
        if not self.shuffle:
            return list(range(self.n))
        if self.part is None:
            self.epoch += 1
        first, last = self.part or (0, self.steps_per_epoch)
        rng = np.random.default_rng((self.seed, self.epoch, 0, 1))
        order = self._order(rng)
        return [(self.epoch, int(draw)) for draw in order[first * self.bs : last * self.bs]]

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """The draws of an epoch: training tiles as the sampling has it, pseudo-labelled ones by weight, mixed."""
        n_tiles, n_pseudo = self.dataset.n_tiles, self.dataset.n_pseudo
        own = np.zeros(0, np.int64)
        if self.stage.pseudo != "only":
            own = SAMPLINGS[self.sampling](self.dataset.masks[:n_tiles], rng)
            own = own % n_tiles + own // n_tiles * self.n
        if self._count == len(own):
            return own
        labelled = by_weight(self.dataset.weights, self._count - len(own), rng)
        labelled = n_tiles + labelled % n_pseudo + labelled // n_pseudo * self.n
        return rng.permutation(np.concatenate([own, labelled]))

    def __len__(self) -> int:
        if not self.shuffle:
            return super().__len__()
        return self.steps_per_epoch if self.part is None else self.part[1] - self.part[0]

    def wif(self) -> None:
        """In each loader process: Ctrl-C, which every process of the terminal gets, is for the trainer to answer."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def create_batches(self, items: Iterator) -> Iterator[tuple[Tensor, ...]]:
        if not self.dataset.resident:
            yield from super().create_batches(items)
            return
        for images, *depths, masks in self.dataset.batches(list(items), self.bs):
            levels = masks.float() / self.dataset.full if self.dataset.full > 1 else masks
            yield TensorImage(images[:, None]), *depths, TensorMask(levels)

    def create_batch(self, items: list) -> tuple[Tensor, ...]:
        images, *depths, masks = (np.stack(part) for part in zip(*items, strict=True))
        if self.dataset.full > 1:
            masks = masks.astype(np.float32) / self.dataset.full
        return TensorImage(images[:, None]), *map(from_numpy, depths), TensorMask(masks)

    def _pre_show_batch(self, b: tuple, max_n: int = 9) -> tuple[Any, Any, Any]:
        """What fastai draws: a depth is no picture, so the mask, or a prediction in its place, stands for it too."""
        x, y, samples = super()._pre_show_batch(b, max_n)
        if len(b) == 2:
            return x, y, samples
        return x[0], y, samples.map(lambda sample: (sample[0], sample[-1], sample[-1]))


def workers(device: str) -> int:
    """Loader processes: none on a CPU, where the net needs every core and augmentation costs 1 % of a step."""
    return 0 if device == "cpu" else min(8, max(1, cpus() - 1))


def make_loaders(
    images: np.ndarray,
    masks: np.ndarray,
    is_valid: np.ndarray,
    *,
    augment: str,
    seed: int,
    bs: int,
    device: str,
    num_workers: int | None = None,
    depth: np.ndarray | None = None,
    sampling: str = "uniform",
    labels: Labels | None = None,
    resident: bool | None = None,
) -> DataLoaders:
    """Training and validation loaders of one fold.

    images (N, H, W) uint8, masks (N, H, W) bool, is_valid (N,) bool, depth (N,) float32 for a net that sees depths.
    sampling: "uniform", or "coverage" for each class of coverage equally often. Validation keeps the tiles' order.
    labels: pseudo-labelled tiles for stages that draw such.
    resident: whether tiles lie on the device and batches are made there; so it is unless the device is a CPU.
    Raises InputError for unknown names.
    """
    if sampling not in SAMPLINGS:
        raise InputError(f"unknown sampling {sampling!r}; there are: {', '.join(SAMPLINGS)}")
    train, valid = (
        TileDataset(images[part], masks[part], augmenter, None if depth is None else depth[part], extra)
        for part, augmenter, extra in ((~is_valid, Augmenter(augment, seed), labels), (is_valid, None, None))
    )
    if resident is None:
        resident = device != "cpu"
    if resident:
        for dataset in (train, valid):
            dataset.place_on(device)
    return loaders_of(train, valid, bs, seed, device, num_workers, sampling)


def loaders_of(
    train: TileDataset,
    valid: TileDataset,
    bs: int,
    seed: int,
    device: str,
    num_workers: int | None = None,
    sampling: str = "uniform",
) -> DataLoaders:
    """Loaders of two datasets, the first in random order, the second in its own and twice as many at a time."""
    if train.resident:
        num_workers = 0
    elif num_workers is None:
        num_workers = workers(device)
    pin = device != "cpu" and not train.resident
    return DataLoaders(
        TileLoader(train, bs, seed, sampling, shuffle=True, num_workers=num_workers, pin_memory=pin, device=device),
        TileLoader(valid, 2 * bs, seed, shuffle=False, num_workers=0, device=device),
        device=device,
    )
