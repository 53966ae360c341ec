"""Augmentation pipelines by name (albumentations), each item's randomness a function of (seed, epoch, item).

albumentations 2.0.8 repeats one random stream in every worker and epoch; seeding each item apart makes the result
independent of the number of workers, and a resumed training see what an uninterrupted one would have seen.
To add a pipeline: one function and one line in AUGMENTATIONS.
"""

import difflib
import os
import random
from collections.abc import Callable

import numpy as np

from kit.errors import InputError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for a newer version

import albumentations as A
import cv2

cv2.setNumThreads(0)  # one tile is too small for threads, and they fight with the loader's processes


def none() -> list[A.BasicTransform]:
    """Tiles as they are."""
    return []


def hflip() -> list[A.BasicTransform]:
    """Left-right only: a seismic section is as plausible mirrored. Upside down it is not (and costs score)."""
    return [A.HorizontalFlip(p=0.5)]


def default() -> list[A.BasicTransform]:
    """What another survey, another cut or another gain could have given: mirror, small affine, contrast, blur."""
    return [
        A.HorizontalFlip(p=0.5),
        A.Affine(
            scale=(0.85, 1.15),
            translate_percent=(-0.08, 0.08),
            rotate=(-6, 6),
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.5,
        ),
        A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.15, p=0.4),
        A.GaussianBlur(blur_limit=3, p=0.1),
    ]


AUGMENTATIONS: dict[str, Callable[[], list[A.BasicTransform]]] = {"none": none, "hflip": hflip, "default": default}


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
