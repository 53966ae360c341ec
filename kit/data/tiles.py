"""What a tile is: the competition's files become arrays, every one of them checked, and every fault one clear line.

Reads Kaggle's folder as it was downloaded, zipped or not (kit.data.archive), and keeps the arrays (kit.data.cache).
"""

import contextlib
import hashlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kit.data import cache, png, rle, tables
from kit.data.archive import Archive, Folder
from kit.data.competition import TGS, Competition
from kit.data.tables import Table
from kit.errors import InputError

DOWNLOAD = "download the competition's files again"


@dataclass(frozen=True, eq=False)
class Tiles:
    """All tiles of a competition, (H, W) = (101, 101) for TGS, in the order of train.csv and sample_submission.csv.

    ids (n,) str; images (n, H, W) uint8; masks (n_train, H, W) bool, True is salt; depths (n,) float32 in feet, NaN
    where unknown. `fingerprint` is a hash of all that, the same wherever and however the files lie.
    """

    train_ids: np.ndarray
    test_ids: np.ndarray
    train_images: np.ndarray
    test_images: np.ndarray
    masks: np.ndarray
    train_depth: np.ndarray
    test_depth: np.ndarray
    fingerprint: str = ""

    def ids(self, split: str) -> np.ndarray:
        return self._of(split, self.train_ids, self.test_ids)

    def images(self, split: str) -> np.ndarray:
        return self._of(split, self.train_images, self.test_images)

    def depth(self, split: str) -> np.ndarray:
        return self._of(split, self.train_depth, self.test_depth)

    def relative_depth(self, split: str) -> np.ndarray:
        """(n,) float32: (z - min) / (max - min) over the training tiles; 0.5 where z is not known, or always the same.

        A test tile from above or below all training tiles lies a little outside of 0..1.
        """
        known = self.train_depth[~np.isnan(self.train_depth)]
        low, high = (known.min(), known.max()) if len(known) else (0, 0)
        depth = self.depth(split)
        if low == high:
            return np.full(len(depth), 0.5, np.float32)
        return np.nan_to_num((depth - low) / (high - low), nan=0.5).astype(np.float32)

    def constant(self, split: str) -> np.ndarray:
        """(n,) bool: the tiles whose pixels are all alike; in TGS they are black and hold no salt."""
        images = self.images(split)
        return images.min(axis=(1, 2)) == images.max(axis=(1, 2))

    @staticmethod
    def _of(split: str, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        if split not in ("train", "test"):
            raise ValueError(f'split must be "train" or "test", not {split!r}')
        return train if split == "train" else test


ARRAYS = tuple(field.name for field in fields(Tiles) if field.name != "fingerprint")


def load(path: str | Path, competition: Competition = TGS, progress: bool = True) -> Tiles:
    """Read a data folder, or the cache of the last reading while no file has changed. The arrays are read-only.

    Raises InputError, one line with the file, the row or id, and the mend, for anything wrong; nothing is then written.
    """
    path, maker = Path(path), repr(competition)
    if not path.is_dir():
        raise InputError(f"{path} is no folder: give the one that holds train.csv, train.zip and test.zip")
    cached = cache.read(path, maker, ARRAYS)
    if cached:
        return Tiles(**cached[0], fingerprint=cached[1])
    with Archive(path) as archive:
        tiles = _read(_survey(_find_root(archive.root()), competition), competition, progress)
    arrays = {name: getattr(tiles, name) for name in ARRAYS}
    for array in arrays.values():
        array.flags.writeable = False  # as from the cache
    cache.write(path, maker, arrays, tiles.fingerprint, archive.listings)
    return tiles


def _find_root(folder: Folder) -> Folder:
    """Where train.csv is: here, or up to two folders or zips down. The nearest wins."""
    level = [folder]
    for _ in range(3):
        found = [here for here in level if here.file("train.csv")]
        if len(found) > 1:
            raise InputError(
                f"train.csv is in {' and in '.join(sorted(here.where for here in found))}: name one of them"
            )
        if found:
            return found[0]
        level = [opened() for here in level for opened in here.folders.values()]
    raise InputError(f"no train.csv in {folder.where}: give the folder of the competition's files, or {DOWNLOAD}")


@dataclass(frozen=True)
class _Sources:
    """Where everything is, the tables read and the names checked; no pixel seen yet."""

    where: str
    train: Table
    test: Table
    depth: dict[str, float]
    train_images: Folder
    train_masks: Folder | None
    test_images: Folder


def _survey(root: Folder, competition: Competition) -> _Sources:
    train = tables.read(root, "train.csv", competition.columns)
    sample = tables.read(root, "sample_submission.csv", competition.columns)
    depths = tables.read(root, "depths.csv", (competition.id_column, competition.depth_column))
    assert train is not None  # the root is where it was found
    in_train, in_test = _split_folder(root, "train"), _split_folder(root, "test")
    test_images = in_test.folders["images"]()
    sources = _Sources(
        root.where,
        train,
        sample or _listed(test_images),
        _depths(depths) if depths else {},
        in_train.folders["images"](),
        in_train.folder("masks"),
        test_images,
    )
    _check_ids(sources)
    return sources


def _split_folder(root: Folder, split: str) -> Folder:
    """The folder that holds images/ (and masks/) of a split: train, train.zip, or one folder further down."""
    outer = root.folder(split)
    if outer is None:
        raise InputError(f"{root.where} has neither {split}.zip nor {split}/images: {DOWNLOAD}")
    if "images" in outer.folders:
        return outer
    for opened in outer.folders.values():
        inner = opened()
        if "images" in inner.folders:
            return inner
    raise InputError(f"{outer.where} has no folder images: {DOWNLOAD}, or put the {split} images there")


def _listed(images: Folder) -> Table:
    """The test tiles where there is no sample_submission.csv."""
    return Table(images.where, sorted(name[:-4] for name in images.files if name.endswith(".png")), [], [])


def _check_ids(sources: _Sources) -> None:
    for table, images in ((sources.train, sources.train_images), (sources.test, sources.test_images)):
        for where, found in ((table.where, table.ids), (images.where, images.files)):
            if not found:
                raise InputError(f"{where} is empty, it lists no tile: both splits need tiles, {DOWNLOAD}")
        lost = [index for index, name in enumerate(table.ids) if f"{name}.png" not in images.files]
        if lost:
            raise InputError(
                f"{table.row(lost[0])}: no file {table.ids[lost[0]]}.png in {images.where} "
                f"({len(lost)} of {len(table.ids)} ids without a file): restore the files or remove the rows"
            )
    test_ids = set(sources.test.ids)
    for index, name in enumerate(sources.train.ids):
        if name in test_ids:
            raise InputError(
                f"{sources.train.row(index)}: the id stands in {sources.test.where} too, "
                "but a tile is of train or of test: remove one of them"
            )
    for table, images in ((sources.train, sources.train_images), (sources.test, sources.test_images)):
        known = set(table.ids)
        extra = sorted(name for name in images.files if name.endswith(".png") and name[:-4] not in known)
        if extra:
            raise InputError(
                f"{images.where}/{extra[0]} has no row in {table.where} ({len(extra)} of {len(images.files)} files "
                f"without a row): {DOWNLOAD}, or remove the files"
            )


def _depths(table: Table) -> dict[str, float]:
    depth = {}
    for index, (name, text) in enumerate(zip(table.ids, table.values, strict=True)):
        try:
            depth[name] = float(text or "nan") if text.isascii() and "_" not in text else math.inf
        except ValueError:
            depth[name] = math.inf
        if text and not abs(depth[name]) <= float(np.finfo(np.float32).max):
            raise InputError(
                f"{table.row(index)}: the depth {text!r} is not a number: correct it, or leave it blank if unknown"
            )
    return depth


def _read(sources: _Sources, competition: Competition, progress: bool) -> Tiles:
    train, test, shape = sources.train, sources.test, competition.tile_shape
    masks = _decode(train, shape)
    drawn = sources.train_masks.files if sources.train_masks else {}
    with _progress(sources.where, len(train.ids) + len(drawn) + len(test.ids), progress) as bar:
        train_images = _images(sources.train_images, train.ids, shape, bar)
        test_images = _images(sources.test_images, test.ids, shape, bar)
        if sources.train_masks:
            _compare(sources.train_masks, train, masks, bar)
    train_depth, test_depth = (
        np.array([sources.depth.get(name, math.nan) for name in table.ids], np.float32) for table in (train, test)
    )
    tiles = Tiles(
        np.array(train.ids), np.array(test.ids), train_images, test_images, masks, train_depth, test_depth
    )  # fmt: skip
    _refuse_copies(tiles, sources)
    return replace(tiles, fingerprint=_fingerprint(tiles))


@contextlib.contextmanager
def _progress(where: str, total: int, wanted: bool) -> Iterator[tqdm]:
    """A bar on a terminal, one line elsewhere: the first reading takes seconds."""
    if wanted and not sys.stderr.isatty():
        print(f"reading {total} images and masks of {where}", file=sys.stderr)
    with tqdm(total=total, desc="reading tiles", unit=" files", disable=None if wanted else True) as bar:
        yield bar


def _images(folder: Folder, ids: list[str], shape: tuple[int, int], bar: tqdm) -> np.ndarray:
    images = np.empty((len(ids), *shape), np.uint8)
    for index, name in enumerate(ids):
        data, where = folder.files[f"{name}.png"](), f"{folder.where}/{name}.png"
        images[index] = png.read_image(data, where, shape, mixed=index > 0)
        bar.update()
    return images


def _decode(train: Table, shape: tuple[int, int]) -> np.ndarray:
    try:
        return rle.decode_many(train.values, shape)
    except rle.RunLengthError as error:
        raise InputError(f"{train.row(error.index)}: {error.reason}") from None


def _compare(folder: Folder, train: Table, masks: np.ndarray, bar: tqdm) -> None:
    """Each mask stands twice in the competition's files, drawn and as run lengths, and both must say the same."""
    for index, name in enumerate(train.ids):
        if f"{name}.png" not in folder.files:
            continue
        where = f"{folder.where}/{name}.png"
        drawn = png.read_mask(folder.files[f"{name}.png"](), where, masks.shape[1:])
        if (drawn != masks[index]).any():
            raise InputError(
                f"{train.row(index)}: its run lengths and {where} disagree in {(drawn != masks[index]).sum()} pixels: "
                "restore both, or delete the PNG to go by the run lengths"
            )
        bar.update()


def _refuse_copies(tiles: Tiles, sources: _Sources) -> None:
    """A test tile that is also a training tile would be a leak; constant tiles are alike without being copies."""
    seen = {
        hashlib.sha256(image).digest(): name for image, name in zip(tiles.train_images, tiles.train_ids, strict=True)
    }
    for image, name, constant in zip(tiles.test_images, tiles.test_ids, tiles.constant("test"), strict=True):
        twin = None if constant else seen.get(hashlib.sha256(image).digest())
        if twin is not None:
            raise InputError(
                f"{sources.test_images.where}/{name}.png has the same pixels as the training tile {twin}: "
                "remove one of the two with its row, or restore the file"
            )


def _fingerprint(tiles: Tiles) -> str:
    digest = hashlib.sha256()
    for name in ARRAYS:
        array = getattr(tiles, name)
        digest.update(f"{name} {array.shape} ".encode())
        digest.update(" ".join(array).encode() if array.dtype.kind == "U" else array.tobytes())
    return digest.hexdigest()[:16]
