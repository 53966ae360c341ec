"""fastai DataLoaders of one fold, from arrays in memory.

The order of the tiles and their augmentation are functions of (seed, epoch), and a loader can begin in the middle of an
epoch: so a training that was cut goes on exactly where it stopped.
"""

import signal

import numpy as np
from fastai.data.core import DataLoaders, TfmdDL
from fastai.torch_core import TensorImage, TensorMask

from kit.runs import cpus
from kit.training.augment import Augmenter


class TileDataset:
    """Pairs of image and mask, (H, W) uint8, masks of 0 and 1. An item (epoch, i) is augmented, a plain i not."""

    def __init__(self, images: np.ndarray, masks: np.ndarray, augmenter: Augmenter | None = None):
        self.images, self.masks, self.augmenter = images, masks.view(np.uint8), augmenter

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(item, tuple):
            return self.images[item], self.masks[item]
        epoch, i = item
        if self.augmenter is None:
            return self.images[i], self.masks[i]
        return self.augmenter(self.images[i], self.masks[i], epoch, i)


class TileLoader(TfmdDL):
    """Batches of x (B, 1, H, W) uint8 grey levels and y (B, H, W) uint8 masks.

    With shuffle=True an epoch is the permutation that belongs to (seed, epoch), cut to whole batches; `window` chooses
    the epoch and the part of it that the next pass gives. Without a window each pass is a full epoch, the next one.
    """

    def __init__(self, dataset: TileDataset, bs: int = 16, seed: int = 0, **kwargs):
        super().__init__(dataset, bs=min(bs, max(len(dataset), 1)), **kwargs)
        self.seed = seed
        self.epoch = -1
        self.part: tuple[int, int] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the training tiles."""
        return max(1, self.n // self.bs)

    def window(self, epoch: int, first: int, last: int) -> None:
        """The next pass gives batches first..last-1 of this epoch."""
        self.epoch, self.part = epoch, (first, last)

    def get_idxs(self) -> list:
        if not self.shuffle:
            return list(range(self.n))
        if self.part is None:
            self.epoch += 1
        first, last = self.part or (0, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, self.epoch, 0, 1)).permutation(self.n)
        return [(self.epoch, int(i)) for i in order[first * self.bs : last * self.bs]]

    def __len__(self) -> int:
        if not self.shuffle:
            return super().__len__()
        return self.steps_per_epoch if self.part is None else self.part[1] - self.part[0]

    def wif(self) -> None:
        """In each loader process: Ctrl-C, which every process of the terminal gets, is for the trainer to answer."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def create_batch(self, items: list) -> tuple[TensorImage, TensorMask]:
        images, masks = zip(*items, strict=True)
        return TensorImage(np.stack(images)[:, None]), TensorMask(np.stack(masks))


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
) -> DataLoaders:
    """Training and validation loaders of one fold.

    images (N, H, W) uint8, masks (N, H, W) bool, is_valid (N,) bool. Validation keeps the order of the tiles.
    """
    num_workers = workers(device) if num_workers is None else num_workers
    train = TileDataset(images[~is_valid], masks[~is_valid], Augmenter(augment, seed))
    valid = TileDataset(images[is_valid], masks[is_valid])
    return DataLoaders(
        TileLoader(train, bs, seed, shuffle=True, num_workers=num_workers, pin_memory=device != "cpu", device=device),
        TileLoader(valid, 2 * bs, seed, shuffle=False, num_workers=0, device=device),
        device=device,
    )
