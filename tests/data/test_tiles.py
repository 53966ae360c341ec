"""Tiles are what was written, in every layout that Kaggle or its users give the files, and what OpenCV reads."""

import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from kit.data import tiles
from kit.data.competition import TGS
from kit.data.tiles import Tiles
from kit.errors import InputError
from tests.data import small
from tests.data.small import TEST, TRAIN, Files


def load(path: Path, content: Files) -> Tiles:
    return tiles.load(small.write(path, content), progress=False)


def assert_is_truth(found: Tiles, truth: dict[str, np.ndarray]) -> None:
    assert tuple(found.train_ids) == TRAIN
    assert tuple(found.test_ids) == TEST
    np.testing.assert_array_equal(found.train_images, truth["train"], strict=True)
    np.testing.assert_array_equal(found.test_images, truth["test"], strict=True)
    np.testing.assert_array_equal(found.masks, truth["masks"], strict=True)
    depth = truth["depth"].astype(np.float32)
    np.testing.assert_array_equal(found.train_depth, depth[: len(TRAIN)], strict=True)
    np.testing.assert_array_equal(found.test_depth, depth[len(TRAIN) :], strict=True)


# Layouts


def one_down(content: Files, folder: str = "tgs/") -> Files:
    return {folder + name: data for name, data in content.items()}


LAYOUTS: dict[str, Callable[[Files], Files]] = {
    "folders": lambda content: content,
    "zips": small.as_zips,
    "zips of a folder": lambda content: small.as_zips(content, "{}/"),
    "one folder down": one_down,
    "zips one folder down": lambda content: one_down(small.as_zips(content)),
    "zip of zips": lambda content: {f"{TGS.slug}.zip": small.zipped(small.as_zips(content))},
    "zip of folders": lambda content: {f"{TGS.slug}.zip": small.zipped(content)},
    "zip of one folder": lambda content: {"competition_data.zip": small.zipped(one_down(content))},
    "zipped csv": lambda content: (
        {name: data for name, data in content.items() if name != "train.csv"}
        | {"train.csv.zip": small.zipped({"train.csv": content["train.csv"]})}
    ),
    "zips beside what they unpack to": lambda content: small.as_zips(small.files(seed=1)) | content,
    "with what a Mac leaves": lambda content: small.as_zips(
        content
        | {
            ".DS_Store": b"x",
            "train/__MACOSX/images/._NA.png": b"x",
            "test/images/._0007.png": b"x",
            "test/.DS_Store": b"x",
        }
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_tiles(tmp_path: Path, layout: str) -> None:
    content = small.files()
    found = load(tmp_path / "data", LAYOUTS[layout](content))
    assert_is_truth(found, small.truth())
    assert found.fingerprint == load(tmp_path / "plain", content).fingerprint


def test_hidden_files_on_disk_are_ignored(tmp_path: Path) -> None:
    junk = {"train/images/.hidden.png": b"x", "__MACOSX/train.csv": b"x", ".trash/train.csv": b"x", "readme.txt": b"x"}
    assert_is_truth(load(tmp_path, small.files() | junk), small.truth())


def test_two_competitions_below_one_folder_are_ambiguous(tmp_path: Path) -> None:
    content = one_down(small.files(), "a/") | one_down(small.files(), "b/")
    with pytest.raises(InputError, match=r"train\.csv is in .*/a and in .*/b: name one of them"):
        load(tmp_path, content)


# Contents


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "16 bit"])
def test_images_of_every_mode(tmp_path: Path, mode: str) -> None:
    content, image = small.files(), small.truth()["train"][1]
    data = small.png(image.astype(np.uint16) * 257) if mode == "16 bit" else small.png(image, mode)
    assert_is_truth(load(tmp_path, content | {f"train/images/{TRAIN[1]}.png": data}), small.truth())


def test_transparency_is_ignored(tmp_path: Path) -> None:
    image = small.truth()["train"][1]
    alpha = np.random.default_rng(0).integers(0, 256, image.shape, np.uint8)
    data = small.png(np.dstack([image, image, image, alpha]))
    assert_is_truth(load(tmp_path, small.files() | {f"train/images/{TRAIN[1]}.png": data}), small.truth())


MASKS: dict[str, Callable[[np.ndarray], bytes]] = {
    "1 bit": lambda mask: small.png(mask.astype(np.uint8) * 255, "1"),
    "8 bit": lambda mask: small.png(mask.astype(np.uint8) * 255),
    "8 bit, 0 and 1": lambda mask: small.png(mask.astype(np.uint8)),
    "16 bit, 0 and 1": lambda mask: small.png(mask.astype(np.uint16)),
    "RGB": lambda mask: small.png(mask.astype(np.uint8) * 255, "RGB"),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_every_kind(tmp_path: Path, kind: str) -> None:
    drawn = {
        f"train/masks/{name}.png": MASKS[kind](mask) for name, mask in zip(TRAIN, small.truth()["masks"], strict=True)
    }
    assert_is_truth(load(tmp_path, small.files() | drawn), small.truth())


@pytest.mark.parametrize("missing", ["train/masks/", f"train/masks/{TRAIN[2]}.png"])
def test_masks_without_png_come_from_the_run_lengths(tmp_path: Path, missing: str) -> None:
    content = {name: data for name, data in small.files().items() if not name.startswith(missing)}
    assert_is_truth(load(tmp_path, content), small.truth())


def test_depth_is_nan_where_unknown_and_rows_of_other_tiles_do_not_matter(tmp_path: Path) -> None:
    depths = small.table(("id", "z"), [("elsewhere", 3), (TEST[1], 700.5), (TRAIN[2], 51), (TRAIN[3], "")])
    found = load(tmp_path, small.files() | {"depths.csv": depths})
    np.testing.assert_array_equal(found.depth("train"), np.array([np.nan, np.nan, 51, np.nan], np.float32))
    np.testing.assert_array_equal(found.depth("test"), np.array([np.nan, 700.5, np.nan], np.float32))


def test_depths_are_optional(tmp_path: Path) -> None:
    content = small.files()
    del content["depths.csv"]
    found = load(tmp_path, content)
    assert np.isnan(found.depth("train")).all()
    assert found.depth("test").shape == (len(TEST),)


def test_without_a_sample_submission_test_tiles_come_sorted(tmp_path: Path) -> None:
    content = small.files()
    del content["sample_submission.csv"]
    found = load(tmp_path, content)
    assert list(found.ids("test")) == sorted(TEST)
    np.testing.assert_array_equal(found.images("test"), small.truth()["test"][np.argsort(TEST)])


def test_tables_saved_by_a_spreadsheet(tmp_path: Path) -> None:
    """Byte order mark, CRLF, blank lines, another order of columns and one column more."""
    content = small.files()
    rows = [line.split(",") for line in content["train.csv"].decode().splitlines()]
    text = "\r\n".join(f"{mask},more,{name}" for name, mask in rows) + "\r\n\r\n"
    assert_is_truth(load(tmp_path, content | {"train.csv": b"\xef\xbb\xbf" + text.encode()}), small.truth())


def test_constant_tiles_are_found_and_may_stand_in_both_splits(tmp_path: Path) -> None:
    found = load(tmp_path, small.files())
    assert found.constant("train").tolist() == [True, False, False, False]
    assert found.constant("test").tolist() == [True, False, False]


def test_access_by_split(tmp_path: Path) -> None:
    found = load(tmp_path, small.files())
    assert found.images("train") is found.train_images
    assert found.ids("test") is found.test_ids
    with pytest.raises(ValueError, match="not 'valid'"):
        found.depth("valid")


CHANGES: dict[str, Files] = {
    "a pixel": {f"test/images/{TEST[1]}.png": small.png(small.truth()["test"][1] ^ np.uint8(np.eye(101)))},
    "a depth": {"depths.csv": small.files()["depths.csv"].replace(b"NA,", b"NA,1")},
    "the order": {"sample_submission.csv": small.table(("id", "rle_mask"), [(name, "1 1") for name in TEST[::-1]])},
}


@pytest.mark.parametrize("change", CHANGES)
def test_fingerprint_follows_the_content(tmp_path: Path, change: str) -> None:
    content = small.files()
    before = load(tmp_path / "a", content).fingerprint
    assert load(tmp_path / "b", content | CHANGES[change]).fingerprint != before


def test_first_reading_is_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.write(tmp_path, small.files())
    tiles.load(tmp_path)
    first = capsys.readouterr()
    assert first.err == f"reading {2 * len(TRAIN) + len(TEST)} images and masks of {tmp_path}\n"
    tiles.load(tmp_path)
    second = capsys.readouterr()
    assert first.out == second.out == second.err == ""


def test_another_competition_has_its_own_columns_and_size(tmp_path: Path) -> None:
    """Read twice: the cache of one competition must not serve another."""
    small.write(tmp_path, small.files())
    tiles.load(tmp_path, progress=False)
    with pytest.raises(InputError, match="this competition's tiles have 128 x 128"):
        tiles.load(tmp_path, replace(TGS, tile_shape=(128, 128)), progress=False)


# The competition's own files


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tiles]:
    place = os.environ.get("KIT_TEST_DATA")
    if not place:
        pytest.skip("set KIT_TEST_DATA to a folder with the competition's files")
    path = tmp_path_factory.mktemp("real")
    for file in Path(place).resolve().iterdir():  # linked, so that no cache is written beside the originals
        (path / file.name).symlink_to(file)
    return path, tiles.load(path, progress=False)


def test_real_order_depths_and_constants(real: tuple[Path, Tiles]) -> None:
    path, found = real
    text = {name: pd.read_csv(path / name, dtype={"id": str}, keep_default_na=False) for name in os.listdir(path)
            if name.endswith(".csv")}  # fmt: skip
    depth = text["depths.csv"].set_index("id")["z"]
    for split, table in (("train", "train.csv"), ("test", "sample_submission.csv")):
        assert found.ids(split).tolist() == text[table]["id"].tolist()
        np.testing.assert_array_equal(found.depth(split), depth[found.ids(split)].to_numpy(np.float32))
    black = found.constant("train")
    assert black.any()
    assert not found.train_images[black].any()
    assert not found.masks[black].any()


def test_real_pixels_and_masks_equal_what_opencv_decodes(real: tuple[Path, Tiles]) -> None:
    path, found = real
    for split in ("train", "test"):
        with zipfile.ZipFile(path / f"{split}.zip") as archive:
            for index, name in enumerate(found.ids(split)):
                image = _opencv(archive.read(f"images/{name}.png"))
                assert (found.images(split)[index] == (image if image.ndim == 2 else image[..., 0])).all(), name
                if split == "train":
                    mask = _opencv(archive.read(f"masks/{name}.png"))
                    assert (found.masks[index] == (mask > 0)).all(), name


def test_relative_depth_is_measured_by_the_training_tiles(tmp_path: Path) -> None:
    found = load(tmp_path, small.files())
    depth, nan = np.array([50, 250, 959, 450], np.float32), np.float32("nan")
    known = replace(found, train_depth=depth, test_depth=np.array([959, 1868, nan], np.float32))
    train = known.relative_depth("train")
    assert (train.dtype, train.shape) == (np.float32, (4,))
    np.testing.assert_allclose(train, [0, 200 / 909, 1, 400 / 909], rtol=1e-6)
    np.testing.assert_allclose(known.relative_depth("test"), [1, 2, 0.5], rtol=1e-6)
    gap = replace(known, train_depth=np.array([nan, 250, 959, 450], np.float32))
    np.testing.assert_allclose(gap.relative_depth("train"), [0.5, 0, 1, 200 / 709], rtol=1e-6)


@pytest.mark.parametrize("depth", [float("nan"), 300.0])
def test_without_two_depths_every_tile_lies_in_the_middle(tmp_path: Path, depth: float) -> None:
    found = replace(load(tmp_path, small.files()), train_depth=np.full(4, depth, np.float32))
    assert found.relative_depth("train").tolist() == [0.5] * 4
    assert found.relative_depth("test").tolist() == [0.5] * 3


def _opencv(data: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return picture
