"""Augmentation pipelines by name (albumentations), each item's randomness a function of (seed, epoch, item).

albumentations 2.0.8 repeats one random stream in every worker and epoch; seeding each item apart makes the result
independent of the number of workers, and a resumed training see what an uninterrupted one would have seen.
To add a pipeline: one function and one line in AUGMENTATIONS.
"""

import difflib
import math
import random
from collections.abc import Callable
from typing import Any, TypeAlias

import albumentations as A
import cv2
import numpy as np

from kit.errors import InputError

cv2.setNumThreads(0)  # one tile is too small for threads, and they fight with the loader's processes

Transform: TypeAlias = A.BasicTransform | A.BaseCompose
BORDER = cv2.BORDER_REFLECT_101
SHEAR = math.degrees(math.atan(2 * 0.07))  # the top row moves by 0.07 of the width, the bottom row as far back


def none() -> list[Transform]:
    """Tiles as they are."""
    return []


def hflip() -> list[Transform]:
    """Left-right only: a seismic section is as plausible mirrored. Upside down it is not (and costs score)."""
    return [A.HorizontalFlip(p=0.5)]


def default() -> list[Transform]:
    """What another survey, another cut or another gain could have given: mirror, small affine, contrast, blur."""
    return [
        A.HorizontalFlip(p=0.5),
        A.Affine(
            scale=(0.85, 1.15),
            translate_percent=(-0.08, 0.08),
            rotate=(-6, 6),
            border_mode=BORDER,
            p=0.5,
        ),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.15, p=0.4),
        A.GaussianBlur(blur_limit=3, p=0.1),
    ]


class Elastic(A.GridDistortion):
    """A grid of 10 px whose rows and columns are stretched by up to 15 %, how far drawn for each tile (5th place)."""

    def __init__(self) -> None:
        super().__init__(num_steps=10, normalized=False, border_mode=BORDER, p=1)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        strength = self.py_random.uniform(0, 0.15)
        self.distort_limit = (-strength, strength)
        return super().get_params_dependent_on_data(params, data)


class Cutout(A.CoarseDropout):
    """A hole of 30x30 px unless it would hide more than half of the salt (9th place); the mask stays as it is."""

    def __init__(self) -> None:
        # 115 is ImageNet's mean grey, as there: next to nothing once it is normalised
        super().__init__(num_holes_range=(1, 1), hole_height_range=(30, 30), hole_width_range=(30, 30), fill=115, p=0.5)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        found = super().get_params_dependent_on_data(params, data)
        x, y, right, bottom = found["holes"][0]
        salt = data["mask"]
        if 2 * salt[y:bottom, x:right].sum() > salt.sum():
            found["holes"] = found["holes"][:0]
        return found


def heng(*further: A.BasicTransform) -> list[Transform]:
    """Heng CherKeng's, shared on the competition's forum and used in some form by the 1st, 5th, 9th and 19th places.

    Half the tiles are mirrored, half get one of the shapes (or of `further`), half one of the grey levels.
    """
    shapes = [
        A.CropAndPad(percent=(-0.2, 0.0), sample_independently=True, keep_size=True, p=1),  # shift-scale-crop
        A.Affine(shear={"x": (-SHEAR, SHEAR), "y": (0, 0)}, border_mode=BORDER, p=1),
        A.Affine(rotate=(-15, 0), border_mode=BORDER, p=1),  # clockwise only, as his
    ]
    grey_levels = [
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0, p=1),
        A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.08, p=1),  # multiplies
        A.RandomGamma(gamma_limit=(92, 108), p=1),
    ]
    return [A.HorizontalFlip(p=0.5), A.OneOf([*shapes, *further], p=0.5), A.OneOf(grey_levels, p=0.5)]


def elastic() -> list[Transform]:
    """`heng` with a grid distortion as a fourth shape (5th place)."""
    return heng(Elastic())


def cutout() -> list[Transform]:
    """`elastic` after a hole in half of the tiles (9th place)."""
    return [Cutout(), *elastic()]


def bes() -> list[Transform]:
    """That of b.e.s. (1st place): mirror, a scale anywhere from 0.4 to 1.6 and a shift, brightness, contrast."""
    shift = (-0.1625, 0.1625)
    return [
        A.HorizontalFlip(p=0.5),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0, p=0.2),
        A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.2, p=0.1),
        A.Affine(scale=(0.4, 1.6), keep_ratio=True, translate_percent=shift, border_mode=BORDER, p=0.7),
    ]


def photometric() -> list[Transform]:
    """No change of shape: strong ones of the grey levels, and a hole in half of the tiles.

    The strong views of a consistency training. Small changes teach it little, least of all in segmentation, where no
    gap of density lies between the classes: holes and the like are what helped there (French et al., arXiv 1906.01916).
    """
    return [
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.3, p=0.8),
        A.RandomGamma(gamma_limit=(70, 140), p=0.5),
        A.GaussianBlur(blur_limit=(3, 5), p=0.3),
        Cutout(),
    ]


AUGMENTATIONS: dict[str, Callable[[], list[Transform]]] = {
    "none": none,
    "hflip": hflip,
    "default": default,
    "heng": heng,
    "elastic": elastic,
    "cutout": cutout,
    "bes": bes,
    "photometric": photometric,
}


class Augmenter:
    """One named pipeline with a seed. Raises InputError for an unknown name."""

    def __init__(self, name: str, seed: int):
        if name not in AUGMENTATIONS:
            near = difflib.get_close_matches(name, AUGMENTATIONS, n=1)
            raise InputError(
                f"unknown augmentation {name!r}{f' (did you mean {near[0]}?)' if near else ''}; "
                f"there are: {', '.join(AUGMENTATIONS)}"
            )
        self.seed = seed
        self.pipeline = A.Compose(AUGMENTATIONS[name]())

    def __call__(self, image: np.ndarray, mask: np.ndarray, epoch: int, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Augment one (H, W) uint8 image and its (H, W) uint8 mask alike, a function of (epoch, item)."""
        generator = np.random.default_rng((self.seed, epoch, item, 2))
        self.pipeline.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        result = self.pipeline(image=image, mask=mask)
        return result["image"], result["mask"]
