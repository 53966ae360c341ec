"""The pipelines of kit.training.augment for whole batches on the device where the tiles are, none done tile by tile.

No pipeline is written a second time: its albumentations transforms are read, and what they draw for one tile is drawn
for many, with the same distribution and other numbers. A pipeline with a transform that has no version here stays with
albumentations on the host. To add a version: one function and one line in VERSIONS.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor, from_numpy

from kit.training.augment import BORDER, Augmenter, Transform
from kit.training.changes import Blur, Change, Levels, Mirror, Warp

STEP = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's
TIE = 1e-3  # pixels, by which places that should be rounded up are above the middle between two


class Numbers:
    """Random numbers of n tiles, at each call the next one of each: functions of (seed, epoch, draw) alone.

    Each tile has its own stream of splitmix64 (Steele, Lea & Flood, OOPSLA 2014).
    """

    def __init__(self, seed: int, epoch: int, draws: np.ndarray):
        key = np.random.SeedSequence((seed, epoch, 8)).generate_state(1, np.uint64)
        self.state = _mixed(key + draws.astype(np.uint64) * STEP)

    def __call__(self) -> np.ndarray:
        """Uniform in [0, 1), (n,) float64."""
        self.state += STEP
        return (_mixed(self.state) >> np.uint64(11)) * 2.0**-53


def _mixed(state: np.ndarray) -> np.ndarray:
    """The hash by which splitmix64 makes its output of its state, (n,) uint64."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


class Tiles(NamedTuple):
    """What a transform is drawn for: n tiles of some width and height, of which it changes some."""

    numbers: Numbers
    changed: np.ndarray  # (n,) bool
    width: int
    height: int

    def uniform(self, low: float, high: float) -> np.ndarray:
        """A number between low and high for each tile that is changed."""
        return low + (high - low) * self.numbers()[self.changed]

    def integer(self, low: int, high: int) -> np.ndarray:
        """A whole number from low to high, both among them, for each tile that is changed."""
        return np.floor(self.uniform(low, high + 1))

    def rows(self, unchanged: np.ndarray, changed: np.ndarray | float) -> Tensor:
        """Parameters of all tiles, (n, ...): those of the changed ones, and `unchanged` (...) for each other."""
        parameters = np.repeat(unchanged[None], len(self.changed), 0)
        parameters[self.changed] = changed
        return from_numpy(parameters)


def mirror(_: A.HorizontalFlip, tiles: Tiles) -> list[Change]:
    return [Mirror(from_numpy(tiles.changed))]


def affine(transform: A.Affine, tiles: Tiles) -> list[Change]:
    """Scaled, rotated clockwise for negative angles, sheared and shifted by whole pixels, around the tile's middle."""
    sides = {"x": tiles.width, "y": tiles.height}
    scale = [tiles.uniform(*transform.scale[axis]) for axis in sides]
    if transform.keep_ratio:
        scale[1] = scale[0]
    angle = np.deg2rad(tiles.uniform(*transform.rotate))
    shear = [-np.tan(np.deg2rad(tiles.uniform(*transform.shear[axis]))) for axis in sides]
    if transform.translate_percent is None:
        shift = [tiles.integer(*transform.translate_px[axis]) for axis in sides]
    else:
        shift = [np.trunc(tiles.uniform(*transform.translate_percent[axis]) * side) for axis, side in sides.items()]
    one = np.ones_like(angle)
    rotated = _matrices([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    forward = _matrices([[one, shear[0]], [shear[1], one]]) @ (rotated * np.stack(scale, 1)[:, None])
    back = np.linalg.inv(forward)
    middle = np.array([tiles.width - 1, tiles.height - 1]) / 2
    offset = middle - (back @ (middle + np.stack(shift, 1))[..., None])[..., 0]
    return [_warp(tiles, back, offset, offset, -np.inf, np.inf)]


def crop(transform: A.CropAndPad, tiles: Tiles) -> list[Change]:
    """Whole pixels are cut off at each side, each by itself, and the rest is resized to a tile as OpenCV does that.

    There image and mask do not quite fit, here neither: `resize` with INTER_NEAREST takes the pixel floor(i * ratio),
    not the one around the middle of the pixel i.
    """
    side = np.array([tiles.width, tiles.height])
    top, right, bottom, left = (
        -np.trunc(tiles.uniform(*transform.percent) * length)
        for length in (tiles.height, tiles.width, tiles.height, tiles.width)
    )
    first, last = np.stack([left, top], 1), side - 1 - np.stack([right, bottom], 1)
    ratio = (last - first + 1) / side
    return [_warp(tiles, ratio[:, None] * np.eye(2), first + ratio / 2 - 0.5, first - 0.5 + TIE, first, last)]


def _matrices(rows: list[list[np.ndarray]]) -> np.ndarray:
    """2x2 entries (m,) each -> (m, 2, 2)."""
    return np.moveaxis(np.array(rows), 2, 0)


def _warp(tiles: Tiles, linear: np.ndarray, *vectors: np.ndarray | float) -> Warp:
    """linear (m, 2, 2), then offset, mask_offset, low, high, (m, 2) each, as Warp has them."""
    unchanged = (np.zeros(2), np.zeros(2), np.full(2, -np.inf), np.full(2, np.inf))
    rows = (tiles.rows(np.eye(2), linear), *map(tiles.rows, unchanged, vectors))
    return Warp(*(parameters.float() for parameters in rows))


def brightness_contrast(transform: A.RandomBrightnessContrast, tiles: Tiles) -> list[Change]:
    """A factor on all levels and the same summand for each, cut off downward to whole levels."""
    factor = 1 + tiles.uniform(*transform.contrast_limit)
    summand = 255 * tiles.uniform(*transform.brightness_limit)
    levels = np.arange(256, dtype=np.float32) * factor.astype(np.float32)[:, None]
    return [_levels(tiles, (levels + summand.astype(np.float32)[:, None]).clip(0, 255))]


def gamma(transform: A.RandomGamma, tiles: Tiles) -> list[Change]:
    """A power of the level in 0..1, cut off downward to whole levels."""
    exponent = tiles.uniform(*transform.gamma_limit) / 100
    return [_levels(tiles, (np.arange(256) * (1 / 255)) ** exponent[:, None] * 255)]


def _levels(tiles: Tiles, levels: np.ndarray) -> Levels:
    return Levels(tiles.rows(np.arange(256, dtype=np.uint8), levels.astype(np.uint8)))


def blur(transform: A.GaussianBlur, tiles: Tiles) -> list[Change]:
    """A Gaussian of 2 * int(3.5 * sigma) + 1 pixels where the drawn size is 0, else of that size, made odd."""
    low, high = transform.blur_limit
    sigma, size = tiles.uniform(*transform.sigma_limit), tiles.integer(low, high)
    reach = np.where(size == 0, np.trunc(3.5 * sigma), size // 2)
    widest = max(int(3.5 * transform.sigma_limit[1]), high // 2)
    x = np.arange(-widest, widest + 1)
    kernel = np.exp(-0.5 * (x / sigma[:, None]) ** 2) * (abs(x) <= reach[:, None])
    kernel /= kernel.sum(1, keepdims=True)
    return [Blur(tiles.rows((x == 0).astype(float), kernel).float())]


def one_of(transform: A.OneOf, tiles: Tiles) -> list[Change]:
    """Each tile by one of the transforms: what is of one kind becomes one change, with each tile's own parameters."""
    which = np.searchsorted(np.cumsum(transform.transforms_ps)[:-1], tiles.numbers(), side="right")
    together: dict[tuple, Change] = {}
    for number, part in enumerate(transform.transforms):
        chosen = tiles._replace(changed=tiles.changed & (which == number))
        for change in VERSIONS[type(part)].draw(part, chosen):
            kind = (type(change), *(rows.shape for rows in change.parameters))
            earlier = together.get(kind)
            together[kind] = _joined(earlier, change, chosen.changed) if earlier else change
    return list(together.values())


def _joined(one: Change, other: Change, second: np.ndarray) -> Change:
    """The other's parameters where `second` (n,) bool says so, else the one's."""
    chosen = from_numpy(second)
    pairs = zip(one.parameters, other.parameters, strict=True)
    return type(one)(*(torch.where(chosen.view(-1, *(1,) * (rows.ndim - 1)), others, rows) for rows, others in pairs))


class Version(NamedTuple):
    """How a transform is drawn, and for which options that is right."""

    draw: Callable[[Any, Tiles], list[Change]]
    fits: Callable[[Any], bool] = lambda _: True


def _as_usual(transform: A.Affine | A.CropAndPad) -> bool:
    return (transform.interpolation, transform.mask_interpolation) == (cv2.INTER_LINEAR, cv2.INTER_NEAREST)


VERSIONS: dict[type, Version] = {
    A.HorizontalFlip: Version(mirror),
    A.Affine: Version(
        affine, lambda t: _as_usual(t) and t.border_mode == BORDER and not (t.fit_output or t.balanced_scale)
    ),
    A.CropAndPad: Version(
        crop,
        lambda t: _as_usual(t) and t.keep_size and t.sample_independently and np.ndim(t.percent) == 1
        and len(t.percent) == 2 and min(t.percent) > -0.5 and max(t.percent) <= 0,
    ),
    A.RandomBrightnessContrast: Version(
        brightness_contrast, lambda t: t.brightness_by_max and not t.ensure_safe_range
    ),
    A.RandomGamma: Version(gamma),
    A.GaussianBlur: Version(blur),
    A.OneOf: Version(one_of, lambda t: all(map(has_version, t.transforms))),
}  # fmt: skip


def has_version(transform: Transform) -> bool:
    return type(transform) in VERSIONS and VERSIONS[type(transform)].fits(transform)


def covers(augmenter: Augmenter) -> bool:
    """Whether the whole pipeline has a version here."""
    return all(map(has_version, augmenter.pipeline.transforms))


def draw(
    augmenter: Augmenter, epoch: int, draws: np.ndarray, shape: tuple[int, int], device: torch.device
) -> list[Change]:
    """What becomes of tiles of (height, width) pixels, one change after another; parameters lie on the device.

    A row of them for each of the draws (n,) int: a function of (seed, epoch, draw), whatever else is drawn with it.
    """
    tiles = Tiles(Numbers(augmenter.seed, epoch, draws), np.ones(len(draws), bool), shape[1], shape[0])
    changes: list[Change] = []
    for transform in augmenter.pipeline.transforms:
        changed = tiles.numbers() < transform.p
        changes += VERSIONS[type(transform)].draw(transform, tiles._replace(changed=changed))
    return [change.each(lambda rows: rows.to(device)) for change in changes]
