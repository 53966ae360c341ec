"""Augmentation of whole batches against albumentations and OpenCV: single transforms, then what pipelines draw."""

from functools import cache

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from scipy.stats import kstest

from kit.training import batch_augment
from kit.training.augment import AUGMENTATIONS, BORDER, Augmenter
from kit.training.batch_augment import Numbers, Tiles

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
N = 1000
IN_BATCHES = ("none", "hflip", "default", "heng", "bes")


def smooth_tile():
    """Waves of up to 8 grey levels a pixel, and a mask off the middle that no mirror leaves in place."""
    y, x = np.mgrid[:101, :101]
    image = 120 + 50 * np.sin(x / 13 + y / 29) + 40 * np.cos(y / 17 - x / 41) + 0.3 * x
    mask = (x - 35) ** 2 / 20**2 + (y - 60) ** 2 / 30**2 < 1
    return image.round().astype(np.uint8), mask.astype(np.uint8)


def noise():
    return np.random.default_rng(0).integers(0, 256, (101, 101), dtype=np.uint8)


def augmenter(transforms, seed=0):
    made = Augmenter("none", seed)
    made.pipeline = A.Compose(transforms)
    return made


def in_batch(made, image, mask, draws=(0,), epoch=0):
    """The tile as it is drawn in one batch: images and masks (n, H, W)."""
    images, masks = (torch.tensor(np.repeat(part[None], len(draws), 0)) for part in (image, mask))
    for change in batch_augment.draw(made, epoch, np.array(draws), image.shape, CPU):
        images, masks = change.apply(images, masks)
    assert images.dtype == masks.dtype == torch.uint8
    return images.numpy(), masks.numpy()


def differences(one, other):
    return abs(one.astype(int) - other.astype(int))


SHAPES = {
    "mirror": A.HorizontalFlip(p=1),
    "clockwise": A.Affine(rotate=(-13.7, -13.7), border_mode=BORDER, p=1),
    "counterclockwise": A.Affine(rotate=(5.2, 5.2), border_mode=BORDER, p=1),
    "smaller": A.Affine(scale=(0.62, 0.62), border_mode=BORDER, p=1),
    "wider": A.Affine(scale={"x": (1.31, 1.31), "y": (0.9, 0.9)}, border_mode=BORDER, p=1),
    "shifted": A.Affine(
        translate_percent={"x": (0.079, 0.079), "y": (-0.129, -0.129)}, border_mode=BORDER, p=1
    ),
    "shifted by pixels": A.Affine(translate_px={"x": (-9, -9), "y": (4, 4)}, border_mode=BORDER, p=1),
    "sheared": A.Affine(shear={"x": (7.9, 7.9), "y": (0, 0)}, border_mode=BORDER, p=1),
    "sheared down": A.Affine(shear={"x": (0, 0), "y": (-6.3, -6.3)}, border_mode=BORDER, p=1),
    "all": A.Affine(
        scale={"x": (0.93, 0.93), "y": (1.12, 1.12)}, translate_percent={"x": (-0.06, -0.06), "y": (0.04, 0.04)},
        rotate=(-5.5, -5.5), shear={"x": (4.0, 4.0), "y": (-2.0, -2.0)}, border_mode=BORDER, p=1,
    ),
    "cropped": A.CropAndPad(percent=(-0.134, -0.134), p=1),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_that_of_albumentations(name):
    """To a grey level of rounding. There is room for OpenCV 4, which takes places to 1/32 pixel, 5 does not."""
    made, (image, mask) = augmenter([SHAPES[name]]), smooth_tile()
    expected_image, expected_mask = made(image, mask, 0, 0)
    (found_image,), (found_mask,) = in_batch(made, image, mask)
    assert differences(expected_image, image).max() > 10
    assert differences(found_image, expected_image).max() <= 1
    assert differences(found_mask, expected_mask).sum() <= 4


class Given:
    """Numbers that were chosen, one after another, instead of drawn ones."""

    def __init__(self, *values):
        self.values = list(values)

    def __call__(self):
        return np.array([self.values.pop(0)])


@pytest.mark.parametrize("cut", [(0, 20, 3, 11), (17, 0, 0, 5), (20, 20, 20, 20), (0, 0, 0, 0)])
def test_each_side_is_cut_off_by_itself_and_the_rest_resized_by_opencv(cut):
    top, right, bottom, left = cut
    image, mask = noise(), noise()
    rest = np.s_[top : 101 - bottom, left : 101 - right]
    numbers = Given(*(1 - (pixels + 0.5) / 101 / 0.21 for pixels in cut))
    tiles = Tiles(numbers, np.ones(1, bool), 101, 101)
    (change,) = batch_augment.crop(A.CropAndPad(percent=(-0.21, 0.0), p=1), tiles)
    found_image, found_mask = (part[0].numpy() for part in change.apply(*map(torch.tensor, (image[None], mask[None]))))
    assert differences(found_image, cv2.resize(image[rest], (101, 101), interpolation=cv2.INTER_LINEAR)).max() <= 1
    np.testing.assert_array_equal(found_mask, cv2.resize(mask[rest], (101, 101), interpolation=cv2.INTER_NEAREST))


@pytest.mark.parametrize(
    ("transform", "tolerance"),
    [
        (A.RandomBrightnessContrast((0.073, 0.073), (0, 0), p=1), 0),
        (A.RandomBrightnessContrast((-0.2, -0.2), (0, 0), p=1), 0),
        (A.RandomBrightnessContrast((0, 0), (0.31, 0.31), p=1), 0),
        (A.RandomBrightnessContrast((-0.05, -0.05), (-0.11, -0.11), p=1), 0),
        (A.RandomGamma((77, 77), p=1), 1),
        (A.RandomGamma((131, 131), p=1), 1),
    ],
)
def test_grey_levels_are_those_of_albumentations(transform, tolerance):
    made, image = augmenter([transform]), noise()
    (found,), _ = in_batch(made, image, np.zeros_like(image))
    expected, _ = made(image, np.zeros_like(image), 0, 0)
    assert len(np.unique(image)) == 256
    assert differences(found, expected).max() <= tolerance
    assert (found != expected).mean() < 0.01
    assert (found != image).mean() > 0.5


@pytest.mark.parametrize(("size", "sigma"), [(0, 2.9), (0, 0.6), (1, 1.0), (2, 2.0), (3, 0.7), (5, 1.4)])
def test_a_blur_is_that_of_albumentations(size, sigma):
    made, image = augmenter([A.GaussianBlur((size, size), (sigma, sigma), p=1)]), noise()
    (found,), _ = in_batch(made, image, np.zeros_like(image))
    expected, _ = made(image, np.zeros_like(image), 0, 0)
    assert differences(found, expected).max() <= 1
    assert (found != expected).mean() < 0.01


PLACES = np.stack([places.ravel() for places in np.mgrid[:101, :101].astype(np.float32) / 101], 1)
FEATURES = np.hstack([np.ones((101**2, 1), np.float32), PLACES, PLACES[:, :1] * PLACES[:, 1:]])


def effects(images, masks):
    """What a draw did to the smooth tile: grey levels, sharpness, place, size and direction of the mask; (n,) each."""
    area, down, right, product = (masks.reshape(len(masks), -1).astype(np.float32) @ FEATURES).T
    down, right, product = (sums / np.maximum(area, 1) for sums in (down, right, product))
    some = images[:, ::4, ::4].astype(np.int16)
    dark, median, bright = np.quantile(some.reshape(len(some), -1), (0.1, 0.5, 0.9), axis=1)
    return {
        "mean": some.mean((1, 2)),
        "contrast": some.std((1, 2)),
        "dark": dark,
        "median": median,
        "bright": bright,
        "sharpness": abs(np.diff(images[:, ::10].astype(np.int16), 2, axis=2)).mean((1, 2)),
        "area": area,
        "right": right,
        "down": down,
        "inclination": product - right * down,
        "width": masks.any(1).mean(1),
        "corner": images[:, 3, 3].astype(float),
    }


@cache
def drawn_by_albumentations(name):
    image, mask = smooth_tile()
    made = Augmenter(name, 0)
    return effects(*map(np.array, zip(*(made(image, mask, 0, item) for item in range(N)), strict=True)))


@cache
def drawn_in_batches(name):
    return effects(*in_batch(Augmenter(name, 0), *smooth_tile(), draws=range(N)))


def deviations(one, other):
    """By how many standard errors means and variances differ, and distributions (Kolmogorov-Smirnov, scaled alike)."""
    found = {}
    for key, values in one.items():
        others = other[key]
        both = np.concatenate([values, others])
        for kind, spread in (("mean", both), ("variance", (both - both.mean()) ** 2)):
            apart = spread[:N].mean() - spread[N:].mean()
            found[f"{kind} of {key}"] = abs(apart) / (spread.std() * np.sqrt(2 / N) + 1e-9)
        grid = np.sort(both) + 1e-9  # equal values fall on one side
        shares = [np.searchsorted(np.sort(part), grid) / N for part in (values, others)]
        found[f"distribution of {key}"] = abs(shares[0] - shares[1]).max() / np.sqrt(2 / N) * 2
    return found


@pytest.mark.parametrize("name", IN_BATCHES)
def test_many_draws_have_the_distribution_of_the_pipeline(name):
    found = deviations(drawn_by_albumentations(name), drawn_in_batches(name))
    assert {key: value for key, value in found.items() if value > 4} == {}


def test_another_pipeline_has_another_distribution():
    assert max(deviations(drawn_by_albumentations("default"), drawn_in_batches("heng")).values()) > 10


@pytest.mark.parametrize(
    ("name", "untouched"), [("none", 1), ("hflip", 1 / 2), ("default", 0.5 * 0.5 * 0.6 * 0.9), ("heng", 1 / 8)]
)
def test_a_tile_that_nothing_is_drawn_for_stays_as_it_is(name, untouched):
    """To the bit; and a few more where what was drawn is too small to be seen."""
    image, n = noise(), 300
    images, masks = in_batch(Augmenter(name, 3), image, image, draws=range(n))
    same = (images == image).all((1, 2)) & (masks == image).all((1, 2))
    assert abs(same.mean() - untouched) < 3 * np.sqrt(untouched * (1 - untouched) / n) + 0.01


def test_a_flip_is_a_flip_and_the_mask_flips_too():
    image = noise()
    images, masks = in_batch(Augmenter("hflip", 0), image, 255 - image, draws=range(50))
    flipped = (images == image[:, ::-1]).all((1, 2))
    assert 10 < flipped.sum() < 40
    np.testing.assert_array_equal(images[~flipped], np.repeat(image[None], (~flipped).sum(), 0))
    np.testing.assert_array_equal(masks, 255 - images)


@pytest.mark.parametrize("name", IN_BATCHES)
def test_a_draw_is_the_same_in_any_batch(name):
    image, mask = noise(), smooth_tile()[1]
    draws = np.random.default_rng(1).permutation(5000)[:60]
    whole = in_batch(Augmenter(name, 5), image, mask, draws)
    for size in (1, 7):
        parts = [in_batch(Augmenter(name, 5), image, mask, draws[i : i + size]) for i in range(0, 21, size)]
        for part, expected in zip(map(np.concatenate, zip(*parts, strict=True)), whole, strict=True):
            np.testing.assert_array_equal(part, expected[:21])


def test_seeds_epochs_and_draws_differ():
    image, mask = smooth_tile()
    keys = [(seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    all_of_it = [in_batch(Augmenter("bes", seed), image, mask, range(20), epoch)[0] for seed, epoch in keys]
    # a seventh stays as it is or is only mirrored
    assert len({tile.tobytes() for images in all_of_it for tile in images}) > 0.7 * 9 * 20


def test_the_numbers_are_those_of_splitmix64():
    """The stream from 1234567 on, as published on Rosetta Code ("Pseudo-random numbers/Splitmix64")."""
    numbers = Numbers(0, 0, np.arange(2))
    numbers.state = np.array([1234567, 1234567], np.uint64)
    published = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431)
    for expected in published:
        np.testing.assert_array_equal(numbers(), np.full(2, (expected >> 11) / 2**53))


def test_numbers_are_uniform_over_draws_and_independent_between_calls_and_epochs():
    draws = np.arange(20_000)
    first, other = Numbers(0, 0, draws), Numbers(0, 1, draws)
    columns = [first(), first(), other(), Numbers(1, 0, draws)()]
    for column in columns:
        assert kstest(column, "uniform").pvalue > 1e-3
    columns.append(np.roll(columns[0], 1))
    assert abs(np.corrcoef(columns) - np.eye(5)).max() < 4 / np.sqrt(len(draws))


def test_which_pipelines_are_done_in_batches():
    assert {name for name in AUGMENTATIONS if batch_augment.covers(Augmenter(name, 0))} == set(IN_BATCHES)


@pytest.mark.parametrize(
    "transform",
    [
        A.VerticalFlip(),
        A.Affine(rotate=(-5, 5)),  # a constant border
        A.Affine(rotate=(-5, 5), border_mode=BORDER, interpolation=cv2.INTER_CUBIC),
        A.Affine(scale=(0.5, 2), border_mode=BORDER, balanced_scale=True),
        A.CropAndPad(percent=(-0.1, 0.1)),
        A.CropAndPad(px=-4),
        A.RandomBrightnessContrast(brightness_by_max=False),
        A.OneOf([A.HorizontalFlip(), A.VerticalFlip()]),
    ],
)
def test_what_has_no_version_stays_with_albumentations(transform):
    assert not batch_augment.covers(augmenter([A.HorizontalFlip(), transform]))
