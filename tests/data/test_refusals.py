"""Whatever is wrong with files is refused in one line that says where and how to mend it, and nothing is written."""

from pathlib import Path

import numpy as np
import pytest

from kit.data import tiles
from kit.errors import InputError
from tests.data import small
from tests.data.small import TEST, TRAIN, Files


def edit(name: str, old: str, new: str) -> Files:
    text = small.files()[name].decode()
    assert old in text
    return {name: text.replace(old, new, 1).encode()}


def row(name: str, mask: str) -> Files:
    """train.csv with another mask for a tile."""
    lines = small.files()["train.csv"].decode().splitlines()
    return {"train.csv": "\n".join(f"{name},{mask}" if line.startswith(name) else line for line in lines).encode()}


def colour() -> bytes:
    image = np.repeat(small.truth()["train"][1][..., None], 3, axis=2)
    image[7, 5, 1] ^= 1
    return small.png(image)


IMAGE, MASK, TEST_IMAGE = f"train/images/{TRAIN[1]}.png", f"train/masks/{TRAIN[1]}.png", f"test/images/{TEST[1]}.png"
GOOD = small.files()[IMAGE]
VALUES = np.zeros(small.SHAPE, np.uint8)
VALUES[0, :3] = 17, 255, 255
HEADER_ONLY = b"id,rle_mask\n"

# What to change in a good folder, and what the message must say.
REFUSED: dict[str, tuple[Files, tuple[str, ...]]] = {
    "truncated PNG": ({IMAGE: GOOD[:300]}, (IMAGE, "damaged", "restore")),
    "flipped bit in a PNG": ({IMAGE: GOOD[:200] + bytes([GOOD[200] ^ 4]) + GOOD[201:]}, (IMAGE, "damaged", "restore")),
    "no image": ({IMAGE: b"<html>not found</html>"}, (IMAGE, "no PNG", "restore")),
    "empty file": ({TEST_IMAGE: b""}, (TEST_IMAGE, "no PNG", "restore")),
    "colour": ({IMAGE: colour()}, (IMAGE, "colour image", "row 7, column 5", "equal channels")),
    "wrong size": (
        {f"train/images/{TRAIN[0]}.png": small.png(np.zeros((64, 65), np.uint8))},
        (f"{TRAIN[0]}.png", "64 x 65", "this competition's tiles have 101 x 101", "restore"),
    ),
    "mixed sizes": ({IMAGE: small.png(np.zeros((101, 102), np.uint8))}, (IMAGE, "101 x 102", "mixed sizes", "restore")),
    "mixed sizes, mask": ({MASK: small.png(np.zeros((1, 2), np.uint8))}, (MASK, "1 x 2", "mixed sizes", "restore")),
    "mask with other values": ({MASK: small.png(VALUES)}, (MASK, "the value 17", "0 for background and 255 for salt")),
    "mask of one other value": ({MASK: small.png(np.full(small.SHAPE, 7, np.uint8))}, (MASK, "the value 7")),
    "mask and RLE disagree": (
        row(TRAIN[1], "2 10200"),
        ("train.csv line 3", TRAIN[1], MASK, "disagree in 1 pixels", "delete the PNG"),
    ),
    "RLE blank, mask not": (row(TRAIN[1], ""), ("train.csv line 3", "disagree in 10201 pixels")),
    "RLE out of range": (row(TRAIN[2], "10201 2"), ("train.csv line 4 (id 1e5)", "'10201 2'", "past the last pixel")),
    "RLE overlapping": (row(TRAIN[2], "1 5 4 2"), ("train.csv line 4 (id 1e5)", "'4 2'", "overlaps", "join")),
    "RLE no numbers": (row(TRAIN[2], "1 x"), ("train.csv line 4 (id 1e5)", "'x'")),
    "duplicate train id": (
        edit("train.csv", "1e5,", "0a00000002,"),
        ("train.csv line 4 (id 0a00000002)", "already in line 3", "remove"),
    ),
    "duplicate test id": (edit("sample_submission.csv", "null", "ffff"), ("sample_submission.csv line 4", "line 2")),
    "duplicate depth": (edit("depths.csv", "null", "ffff"), ("depths.csv line 8 (id ffff)", "line 6", "remove")),
    "train id without file": (
        edit("train.csv", "1e5,", "2e5,"),
        ("train.csv line 4 (id 2e5)", "no file 2e5.png in", "train/images", "1 of 4 ids", "restore"),
    ),
    "test id without file": (
        edit("sample_submission.csv", "null", "nil"),
        ("line 4 (id nil)", "nil.png", "1 of 3"),
    ),
    "file without a row": (
        {"train/images/more.png": GOOD},
        ("train/images/more.png", "has no row in", "train.csv", "1 of 5 files", "remove"),
    ),
    "8-bit levels in 16 bits": (
        {IMAGE: small.png(np.full(small.SHAPE, 200, np.uint16))},
        (IMAGE, "16-bit image with 8-bit values", "save it as 8 bits"),
    ),
    "depth not a number": (edit("depths.csv", "1e5,", "1e5,deep"), ("depths.csv line 4 (id 1e5)", "'deep", "correct")),
    "depth infinite": (edit("depths.csv", "1e5,", "1e5,inf\nx,"), ("depths.csv line 4 (id 1e5)", "'inf'", "correct")),
    "depth beyond float32": (edit("depths.csv", "1e5,", "1e5,1e300\nx,"), ("line 4 (id 1e5)", "'1e300'", "correct")),
    "depth nan": (
        edit("depths.csv", "1e5,", "1e5,nan\nx,"),
        ("depths.csv line 4 (id 1e5)", "'nan'", "blank if unknown"),
    ),
    "no train rows": ({"train.csv": HEADER_ONLY}, ("train.csv is empty", "download")),
    "no test rows": ({"sample_submission.csv": HEADER_ONLY}, ("sample_submission.csv is empty", "download")),
    "id in train and test": (
        edit("sample_submission.csv", "null", "1e5")
        | {"test/images/1e5.png": small.files()[f"test/images/{TEST[2]}.png"]},
        ("train.csv line 4 (id 1e5)", "sample_submission.csv too", "remove"),
    ),
    "identical pixels": ({TEST_IMAGE: GOOD}, (TEST_IMAGE, "same pixels", TRAIN[1], "remove")),
    "wrong columns": (edit("train.csv", "id,rle_mask", "img,rle"), ("train.csv line 1", "img, rle", "id,rle_mask")),
    "wrong depth column": (edit("depths.csv", "id,z", "id,depth"), ("depths.csv line 1", "id, depth", "id,z")),
    "column twice": (edit("depths.csv", "id,z", "z,z"), ("depths.csv line 1", "z, z", "id and z must be there once")),
    "no header": ({"train.csv": b""}, ("train.csv line 1", "none", "id,rle_mask")),
    "short row": (edit("train.csv", "1e5,", "1e5\nx,"), ("train.csv line 4 (id 1e5)", "1 values under 2 columns")),
    "not UTF-8": ({"train.csv": "id,rle_mask".encode("utf-16")}, ("train.csv", "UTF-8")),
    "open quote": (edit("depths.csv", "1e5,", '"1e5,'), ("depths.csv line", "no CSV", "download")),
}


def assert_refused(path: Path, parts: tuple[str, ...]) -> None:
    before = small.snapshot(path)
    with pytest.raises(InputError) as error:
        tiles.load(path, progress=False)
    assert small.snapshot(path) == before
    message = str(error.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_nothing_written(tmp_path: Path, case: str) -> None:
    change, parts = REFUSED[case]
    assert_refused(small.write(tmp_path, small.files() | change), parts)


@pytest.mark.parametrize(
    ("lost", "parts"),
    [
        ("train.csv", ("no train.csv in", "give the folder")),
        ("train/", ("neither train.zip nor train/images", "download")),
        ("test/", ("neither test.zip nor test/images", "download")),
        ("train/images/", ("train has no folder images", "download")),
        (IMAGE, ("train.csv line 3", f"no file {TRAIN[1]}.png", "restore")),
    ],
)
def test_refused_where_files_are_missing(tmp_path: Path, lost: str, parts: tuple[str, ...]) -> None:
    content = {name: data for name, data in small.files().items() if not name.startswith(lost)}
    assert_refused(small.write(tmp_path, content), parts)


def test_refused_without_test_images_or_sample(tmp_path: Path) -> None:
    content = {name: data for name, data in small.files().items() if not name.startswith(("test/", "sample"))}
    small.write(tmp_path, content)
    (tmp_path / "test" / "images").mkdir(parents=True)
    assert_refused(tmp_path, ("test/images is empty", "both splits need tiles"))


def test_refused_where_there_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("nowhere", "file"):
        with pytest.raises(InputError, match=rf"{name} is no folder: give the one that holds train\.csv"):
            tiles.load(tmp_path / name)
    assert not (tmp_path / "nowhere").exists()


def test_refused_truncated_zip(tmp_path: Path) -> None:
    content = small.as_zips(small.files())
    content["train.zip"] = content["train.zip"][:-100]
    assert_refused(small.write(tmp_path, content), ("train.zip is no complete zip", "download it again"))
