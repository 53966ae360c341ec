"""Small things that the tests share: tiles with an easy truth, and a recipe whose net is tiny."""

from pathlib import Path

import numpy as np

from kit import recipe
from kit.data.tiles import Tiles

TINY = Path(__file__).parent / "tiny.toml"


def easy_tiles(n_train: int = 40, n_test: int = 10, seed: int = 0) -> Tiles:
    """Grey noise with a brighter lower part that is the mask; every fifth tile is empty."""
    generator = np.random.default_rng(seed)
    n = n_train + n_test
    rows = np.arange(101)[None, :, None]
    waves = np.sin(np.arange(101) / generator.uniform(8, 30, (n, 1, 1)))
    top = generator.integers(20, 90, (n, 1, 1)) + 10 * waves
    masks = (rows > top) & (np.arange(n) % 5 != 0)[:, None, None]
    images = (generator.normal(90, 25, (n, 101, 101)) + 70 * masks).clip(0, 255).astype(np.uint8)
    ids = np.array([f"{i:010x}" for i in range(n)])
    depth = generator.uniform(50, 950, n).astype(np.float32)
    return Tiles(
        train_ids=ids[:n_train],
        test_ids=ids[n_train:],
        train_images=images[:n_train],
        test_images=images[n_train:],
        masks=masks[:n_train],
        train_depth=depth[:n_train],
        test_depth=depth[n_train:],
        fingerprint=f"easy-{n_train}-{n_test}-{seed}",
    )


def tiny_recipe(*settings: str) -> recipe.Recipe:
    """tests/tiny.toml: every kind of stage on a net of under a million parameters."""
    return recipe.load(str(TINY), settings)
