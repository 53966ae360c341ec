"""Demo data: synthetic sections cut into tiles and written in the competition's own layout, with the answers beside it.

For trying the kit without Kaggle's files, and for tests that need to know which tiles are neighbours. Half of the tiles
are cut from wide sections, the others lie alone; all are shuffled between train and test as the real ones are.
"""

import csv
import io
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from kit import runs
from kit.data import rle, seismic
from kit.data.competition import TGS
from kit.errors import InputError

FILES = (
    "demo_mosaic.csv",  # the first to be put in place: it is how a folder is known to be ours
    "train.csv",
    "depths.csv",
    "sample_submission.csv",
    "train.zip",
    "test.zip",
    "demo_answers.csv",  # the last: it is how a folder is known to be complete
)
PARTIAL = ".demo_partial"
LOCK = ".demo_lock"
BLACK = 0.02  # share of tiles that are constant, in train and in test
TOGETHER = 0.5  # share of the others that come from sections and have neighbours
BARE = 0.16  # share of lone tiles without salt
NARROWED = 0.06  # share of tiles whose grey levels do not reach from 0 to 255
BATCH = 64  # lone tiles at a time

Batch = tuple[np.ndarray, np.ndarray, list[tuple[int, int, int]]]


def write(path: str | Path, n_train: int, n_test: int, seed: int) -> None:
    """Write demo data into the folder `path`, which is made if need be.

    Kaggle's files with its columns: train.csv, depths.csv, sample_submission.csv, train.zip (images/, masks/), test.zip
    (images/). And what Kaggle never tells: demo_mosaic.csv (id, mosaic, row, col) places every tile, row growing
    downward and col to the right, and demo_answers.csv (id, rle_mask) has the masks of the test tiles. Every byte comes
    from the arguments. Raises InputError for fewer than 4 tiles, or where `path` holds anything that is not demo data.
    """
    path = Path(path)
    if min(n_train, n_test) < 4:
        raise InputError(
            f"demo data of {n_train} train and {n_test} test tiles is too small: ask for at least 4 of each"
        )
    if seed < 0:
        raise InputError(f"a seed of {seed} is no seed: give 0 or more")
    _refuse_foreign(path)
    path.mkdir(parents=True, exist_ok=True)
    with runs.exclusive(path / LOCK):
        partial = path / PARTIAL
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            _fill(partial, n_train, n_test, np.random.default_rng(seed))
            for name in FILES:
                os.replace(partial / name, path / name)
        finally:
            shutil.rmtree(partial)


def _refuse_foreign(path: Path) -> None:
    """Let pass only a new or empty folder, or one that holds demo data and what the kit caches for it."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: name a folder for the demo data")
    held = {entry.name for entry in path.iterdir()} if path.exists() else set()
    known = {*FILES, ".kit"} if FILES[0] in held else set()
    foreign = held - known - {PARTIAL, LOCK}
    if foreign:
        raise InputError(f"{path} holds {min(foreign)}, which is not demo data: name a new or an empty folder")


def _fill(folder: Path, n_train: int, n_test: int, rng: Generator) -> None:
    """Make the tiles batch by batch, so that memory stays bounded, and write every file."""
    ids = _ids(rng, n_train + n_test)
    trains, n_black = _shuffle(rng, n_train, n_test)
    placed: list[tuple] = []
    texts: list[str] = []
    with zipfile.ZipFile(folder / "train.zip", "w") as train, zipfile.ZipFile(folder / "test.zip", "w") as test:
        for images, masks, places in _tiles(rng, len(ids) - n_black, n_black):
            for image, mask, place in zip(images, masks, places, strict=True):
                name, is_train = ids[len(placed)], trains[len(placed)]
                _store(train if is_train else test, f"images/{name}.png", image)
                if is_train:
                    _store(train, f"masks/{name}.png", mask * np.uint16(65535))
                placed.append((name, *place))
            texts += rle.encode_many(masks)
    depths = _depths(rng, np.array([not text for text in texts]))
    answers = list(zip(ids, texts, strict=True))
    train_rows, test_rows = ([answers[k] for k in np.flatnonzero(side)] for side in (trains, ~trains))
    _table(folder / "demo_mosaic.csv", ("id", "mosaic", "row", "col"), placed)
    _table(folder / "demo_answers.csv", TGS.columns, test_rows)
    _table(folder / "train.csv", TGS.columns, train_rows)
    _table(folder / "depths.csv", (TGS.id_column, TGS.depth_column), zip(ids, depths, strict=True))
    _table(folder / "sample_submission.csv", TGS.columns, [(name, "1 1") for name, _ in test_rows])


def _shuffle(rng: Generator, n_train: int, n_test: int) -> tuple[np.ndarray, int]:
    """Which tiles are train tiles (N,) bool, and how many at the end are black: each split gets its share of those."""
    black_train, black_test = round(BLACK * n_train), round(BLACK * n_test)
    lit = np.arange(n_train + n_test - black_train - black_test) < n_train - black_train
    return np.r_[rng.permutation(lit), np.ones(black_train, bool), np.zeros(black_test, bool)], black_train + black_test


def _tiles(rng: Generator, n_lit: int, n_black: int) -> Iterator[Batch]:
    """Batches of images (N, 101, 101) uint8, masks (N, 101, 101) bool and [(mosaic, row, col)]; the black ones last."""
    mosaic, budget = 0, round(TOGETHER * n_lit)
    n_lone = n_lit - budget
    while budget:
        rows = min(int(rng.integers(3, 6)), budget)
        cols = min(int(rng.integers(4, 9)), budget // rows)
        yield *_cut(rng, *_section(rng, rows, cols)), [(mosaic, row, col) for row in range(rows) for col in range(cols)]
        mosaic, budget = mosaic + 1, budget - rows * cols
    while n_lone:
        count = min(BATCH, n_lone)
        pairs = [_cut(rng, *_lone(rng)) for _ in range(count)]
        images, masks = (np.concatenate(part) for part in zip(*pairs, strict=True))
        yield images, masks, [(mosaic + k, 0, 0) for k in range(count)]
        mosaic, n_lone = mosaic + count, n_lone - count
    black = np.zeros((n_black, *TGS.tile_shape), np.uint8)
    yield black, black > 0, [(mosaic + k, 0, 0) for k in range(n_black)]


def _section(rng: Generator, rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    height, width = TGS.tile_shape
    salt, mask = seismic.diapirs(rng, (rows * height, cols * width))
    return seismic.render(rng, seismic.regional(rng), salt), mask


def _lone(rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    bare = np.zeros(TGS.tile_shape, bool)
    salt, mask = (bare, bare) if rng.random() < BARE else seismic.outcrop(rng, TGS.tile_shape)
    return seismic.render(rng, seismic.close_up(rng), salt), mask


def _cut(rng: Generator, section: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tiles row by row: images uint8, each stretched by itself, and masks; as on Kaggle, a tile all salt is empty."""
    height, width = TGS.tile_shape
    images, masks = (
        whole.reshape(-1, height, whole.shape[1] // width, width).swapaxes(1, 2).reshape(-1, height, width)
        for whole in (section, mask)
    )
    low, high = images.min((1, 2), keepdims=True), images.max((1, 2), keepdims=True)
    images = (images - low) / (high - low)
    narrowed = rng.random((len(images), 1, 1)) < NARROWED
    images = np.where(narrowed, 0.02 + 0.95 * images, images)
    return np.round(255 * images).astype(np.uint8), masks & ~masks.all((1, 2), keepdims=True)


def _depths(rng: Generator, empty: np.ndarray) -> np.ndarray:
    """Depths (N,) in feet, 50 to 959: nothing to do with the sections, only that shallow tiles are more often empty."""
    depths = rng.normal(540, 200, len(empty))
    shallow = empty & (rng.random(len(empty)) < 0.2)
    depths[shallow] = rng.uniform(50, 240, shallow.sum())
    return np.clip(depths, 50, 959).astype(int)


def _ids(rng: Generator, count: int) -> list[str]:
    """Distinct ids of ten hex characters."""
    numbers: set[int] = set()
    while len(numbers) < count:
        numbers.add(int(rng.integers(16**10)))
    return [f"{number:010x}" for number in rng.permutation(sorted(numbers))]


def _store(archive: zipfile.ZipFile, name: str, pixels: np.ndarray) -> None:
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    archive.writestr(
        zipfile.ZipInfo(name, (2018, 7, 19, 0, 0, 0)), png.getvalue()
    )  # a fixed time: the same bytes again


def _table(path: Path, columns: tuple[str, ...], rows: Iterable[tuple]) -> None:
    """Sorted by id, so that the order tells nothing of the sections."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(sorted(rows))
