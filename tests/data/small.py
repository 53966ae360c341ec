"""A small competition written with pillow and the csv module alone, as folders or zips, for the tests of kit.data."""

import csv
import io
import os
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from kit.data.tiles import ARRAYS, Tiles

SHAPE = (101, 101)
TRAIN = ("0b00000001", "0a00000002", "1e5", "NA")  # neither sorted nor safe from a reader that guesses types
TEST = ("ffff", "0007", "null")

Files = dict[str, bytes]


def truth(seed: int = 0) -> dict[str, np.ndarray]:
    """Images, masks and depths; the first tile of each split is black, the first two masks are empty and full."""
    rng = np.random.default_rng(seed)
    images = {split: rng.integers(0, 256, (len(ids), *SHAPE), np.uint8) for split, ids in splits()}
    images["train"][0] = images["test"][0] = 0
    masks = rng.random((len(TRAIN), *SHAPE)) < 0.3
    masks[0], masks[1] = False, True
    return {**images, "masks": masks, "depth": rng.integers(50, 960, len(TRAIN) + len(TEST))}


def splits() -> list[tuple[str, tuple[str, ...]]]:
    return [("train", TRAIN), ("test", TEST)]


def run_lengths(mask: np.ndarray) -> str:
    """The competition's text, pixel by pixel: down the columns, counted from 1."""
    runs: list[list[int]] = []
    for number, salt in enumerate(mask.T.ravel(), start=1):
        if salt and runs and sum(runs[-1]) == number:
            runs[-1][1] += 1
        elif salt:
            runs.append([number, 1])
    return " ".join(f"{start} {length}" for start, length in runs)


def png(array: np.ndarray, mode: str | None = None) -> bytes:
    """An array as PNG; 16-bit grey from uint16."""
    buffer = io.BytesIO()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(buffer, "PNG")
    return buffer.getvalue()


def table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def files(seed: int = 0) -> Files:
    """Path in the data folder -> bytes, in the layout of unpacked zips."""
    data = truth(seed)
    result = {
        "train.csv": table(("id", "rle_mask"), list(zip(TRAIN, map(run_lengths, data["masks"]), strict=True))),
        "sample_submission.csv": table(("id", "rle_mask"), [(name, "1 1") for name in TEST]),
        "depths.csv": table(("id", "z"), list(zip(TRAIN + TEST, data["depth"].tolist(), strict=True))),
    }
    for split, ids in splits():
        for name, image in zip(ids, data[split], strict=True):
            result[f"{split}/images/{name}.png"] = png(image)
    for name, mask in zip(TRAIN, data["masks"], strict=True):
        result[f"train/masks/{name}.png"] = png(mask.astype(np.uint16) * 65535)
    return result


def write(path: Path, content: Files) -> Path:
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def zipped(content: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def below(content: Files, prefix: str) -> Files:
    """The files under a prefix, named without it."""
    return {name.removeprefix(prefix): data for name, data in content.items() if name.startswith(prefix)}


def as_zips(content: Files, inside: str = "") -> Files:
    """The same with train.zip and test.zip, which hold images/ and masks/ below `inside`."""
    result = {name: data for name, data in content.items() if "/" not in name}
    for split, _ in splits():
        members = below(content, f"{split}/")
        result[f"{split}.zip"] = zipped({inside.format(split) + name: data for name, data in members.items()})
    return result


def snapshot(path: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a folder: date and content."""
    return {
        str(file.relative_to(path)): (file.stat().st_mtime_ns, file.read_bytes() if file.is_file() else b"")
        for file in [path, *path.rglob("*")]
    }


def assert_same(one: Tiles, other: Tiles) -> None:
    """Equal in every field."""
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)
    assert one.fingerprint == other.fingerprint != ""


def next_tick(path: Path) -> None:
    """Wait until a change of the file gets another date: file systems count time in steps of some milliseconds."""
    probe = path.with_name(".probe")
    probe.touch()
    while probe.stat().st_ctime_ns <= path.stat().st_ctime_ns:
        probe.touch()
    probe.unlink()


def keep_dates(path: Path, content: bytes) -> None:
    """Replace a file by another of the same size and dates, as unpacking an archive does."""
    next_tick(path)
    stat = path.stat()
    assert len(content) == stat.st_size
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
