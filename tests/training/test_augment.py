"""Augmentation: image and mask move together, and the result is a function of (seed, epoch, item)."""

import numpy as np
import pytest

from kit.errors import InputError
from kit.training.augment import AUGMENTATIONS, Augmenter


def tile(seed=0):
    """A tile whose mask is exactly where the image is bright, so that the two must move together."""
    mask = np.zeros((101, 101), np.uint8)
    corner = np.random.default_rng(seed).integers(5, 50, 2)
    mask[corner[0] : corner[0] + 45, corner[1] : corner[1] + 30] = 1
    return mask * 200 + 20, mask


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS.keys() - {"cutout", "photometric"}))  # holes leave masks alone
def test_image_and_mask_move_together(name):
    augment = Augmenter(name, seed=1)
    image, mask = tile()
    for item in range(40):
        new_image, new_mask = augment(image, mask, 0, item)
        assert new_image.shape == new_mask.shape == (101, 101)
        assert new_image.dtype == new_mask.dtype == np.uint8
        assert set(np.unique(new_mask)) <= {0, 1}
        bright = new_image > (int(new_image.max()) + int(new_image.min())) / 2
        assert (bright != new_mask.astype(bool)).mean() < 0.02  # blur and interpolation blunt the outline only


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_same_seed_epoch_and_item_give_the_same_tile_in_any_order(name):
    image, mask = tile()
    keys = [(epoch, item) for epoch in range(3) for item in range(10)]
    forward = {key: Augmenter(name, 5)(image, mask, *key) for key in keys}
    augment = Augmenter(name, 5)
    for key in reversed(keys):
        for again, before in zip(augment(image, mask, *key), forward[key], strict=True):
            np.testing.assert_array_equal(again, before)


def test_epochs_items_and_seeds_differ():
    image, mask = tile()
    results = [
        Augmenter("default", seed)(image, mask, epoch, item)[0].tobytes()
        for seed in range(3)
        for epoch in range(5)
        for item in range(10)
    ]
    # half the tiles keep their place and some stay untouched: far from all alike, far from one stream repeated
    assert len(set(results)) > 100


def test_no_pipeline_turns_a_section_upside_down():
    """A ramp that grows downward must still grow downward: vertical flips are not plausible (and cost score)."""
    image = np.repeat(np.linspace(0, 255, 101).astype(np.uint8)[:, None], 101, axis=1)
    for name in AUGMENTATIONS:
        augment = Augmenter(name, 0)
        for item in range(50):
            result = augment(image, np.zeros_like(image), 0, item)[0].astype(int)
            assert result[:30].mean() < result[-30:].mean()


def test_a_flip_is_a_flip():
    image, mask = tile()
    augment = Augmenter("hflip", 0)
    flipped = sum(np.array_equal(augment(image, mask, 0, item)[0], image[:, ::-1]) for item in range(400))
    assert 150 < flipped < 250


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="did you mean default"):
        Augmenter("defualt", 0)
