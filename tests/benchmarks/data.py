"""The work on arrays: run-length text, the metric, the sweep, augmentation, and a second start from the cache."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kit.data import rle
from kit.data import tiles as tile_files
from kit.scoring import metric
from kit.training.augment import Augmenter
from tests.benchmarks.side import Row, median_seconds


def rows(tiles: tile_files.Tiles, folder: Path) -> Iterator[Row]:
    """Times at the competition's size, from the demo's masks repeated."""
    rounds = 5
    masks = np.resize(tiles.masks, (18_000, 101, 101))
    texts = rle.encode_many(masks)
    generator = np.random.default_rng(0)
    true = masks[:4_000]
    pred = np.roll(true, 3, axis=1)
    prob = np.clip(generator.normal(0.3, 0.2, (3_000, 101, 101)) + 0.4 * true[:3_000], 0, 1).astype(np.float16)
    thresholds = np.linspace(0.1, 0.9, 41)
    for what, job in (
        ("encode 18,000 masks", lambda: rle.encode_many(masks)),
        ("decode 18,000 masks", lambda: rle.decode_many(texts)),
        ("score 4,000 pairs of masks", lambda: metric.average_precision(pred, true)),
        ("sweep 41 thresholds over 3,000 tiles", lambda: metric.sweep(prob, true[:3_000], thresholds)),
        ("load 500 tiles from the cache", lambda: tile_files.load(folder, progress=False)),
    ):
        yield Row(what, f"{median_seconds(job, rounds):.3f} s", rounds=rounds)

    augment, image, mask = Augmenter("default", 0), tiles.train_images[0], tiles.masks[0].view(np.uint8)
    spent = median_seconds(lambda: [augment(image, mask, 0, item) for item in range(2_000)], rounds)
    yield Row("augment (default pipeline)", f"{2_000 / spent:,.0f} tiles/s", rounds=rounds)
