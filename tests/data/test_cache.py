"""The cache saves the reading, notices every change of the sources, and is never worse than no cache."""

import errno
import json
import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.data import cache, png, tiles
from kit.errors import InputError
from tests.data import small
from tests.data.small import TEST, TRAIN, assert_same, keep_dates, next_tick

load = partial(tiles.load, progress=False)
IMAGE = f"train/images/{TRAIN[1]}.png"


@pytest.fixture(params=["folders", "zips"])
def data(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("KIT_CACHE", raising=False)
    content = small.files()
    return small.write(tmp_path / "data", content if request.param == "folders" else small.as_zips(content))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures read from now on."""
    seen: list[str] = []
    original = png.read_image

    def read_image(data: bytes, where: str, *args: Any, **kwargs: Any) -> np.ndarray:
        seen.append(where)
        return original(data, where, *args, **kwargs)

    monkeypatch.setattr(png, "read_image", read_image)
    return seen


def test_second_start_reads_no_picture_and_gives_the_same(data: Path, reads: list[str]) -> None:
    first = load(data)
    assert len(reads) == len(TRAIN) + len(TEST)
    second = load(data)
    assert len(reads) == len(TRAIN) + len(TEST)
    assert_same(first, second)


def test_arrays_are_read_only_both_times(data: Path) -> None:
    for found in (load(data), load(data)):
        assert not any(getattr(found, name).flags.writeable for name in tiles.ARRAYS)


def test_only_arrays_and_a_manifest_lie_in_the_cache(data: Path) -> None:
    load(data)
    names = {path.name for path in (data / ".kit").iterdir()}
    assert names == {f"{name}.npy" for name in tiles.ARRAYS} | {"manifest.json", ".lock"}
    for name in tiles.ARRAYS:
        np.load(data / ".kit" / f"{name}.npy", allow_pickle=False)


# Changes of the sources


def replaced_image(data: Path) -> None:
    (data / IMAGE).write_bytes(small.png(255 - small.truth()["train"][1]))


def test_a_changed_image_is_noticed(tmp_path: Path) -> None:
    small.write(tmp_path, small.files())
    before = load(tmp_path)
    replaced_image(tmp_path)
    after = load(tmp_path)
    np.testing.assert_array_equal(after.train_images[1], 255 - before.train_images[1])
    assert after.fingerprint != before.fingerprint


def test_a_change_that_keeps_size_and_date_is_noticed(tmp_path: Path) -> None:
    small.write(tmp_path, small.files())
    load(tmp_path)
    text = (tmp_path / "depths.csv").read_bytes()
    assert b"NA,1" not in text
    depth = text.split(b"NA,")[1][:1]
    keep_dates(tmp_path / "depths.csv", text.replace(b"NA," + depth, b"NA,1"))
    assert str(load(tmp_path).train_depth[3]).startswith("1")


def test_a_changed_zip_is_noticed(tmp_path: Path) -> None:
    small.write(tmp_path, small.as_zips(small.files()))
    before = load(tmp_path)
    image = 255 - small.truth()["test"][1]
    small.write(tmp_path, small.as_zips(small.files() | {f"test/images/{TEST[1]}.png": small.png(image)}))
    after = load(tmp_path)
    np.testing.assert_array_equal(after.test_images[1], image)
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize("lost", [IMAGE, f"test/images/{TEST[0]}.png", "train.csv"])
def test_a_removed_file_is_noticed(tmp_path: Path, lost: str) -> None:
    small.write(tmp_path, small.files())
    load(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(InputError, match=Path(lost).name):
        load(tmp_path)


@pytest.mark.parametrize("added", ["depths.csv", "sample_submission.csv"])
def test_an_added_table_is_noticed(tmp_path: Path, added: str) -> None:
    content = small.files()
    late = content.pop(added)
    small.write(tmp_path, content)
    before = load(tmp_path)
    (tmp_path / added).write_bytes(late)
    assert load(tmp_path).fingerprint != before.fingerprint


def test_an_added_mask_is_noticed(tmp_path: Path) -> None:
    content = {name: data for name, data in small.files().items() if "/masks/" not in name}
    small.write(tmp_path, content)
    load(tmp_path)
    small.write(tmp_path, {f"train/masks/{TRAIN[0]}.png": small.png(np.ones(small.SHAPE, np.uint8))})
    with pytest.raises(InputError, match="disagree"):
        load(tmp_path)


def test_an_added_image_is_noticed_without_a_sample_submission(tmp_path: Path) -> None:
    content = small.files()
    del content["sample_submission.csv"]
    small.write(tmp_path, content)
    load(tmp_path)
    (tmp_path / "test" / "images" / "new.png").write_bytes(small.png(np.eye(101, dtype=np.uint8)))
    assert "new" in load(tmp_path).test_ids


def test_folders_unpacked_beside_their_zip_take_its_place(tmp_path: Path) -> None:
    small.write(tmp_path, small.as_zips(small.files()))
    load(tmp_path)
    small.write(tmp_path, {name: data for name, data in small.files().items() if "/" in name})
    replaced_image(tmp_path)
    np.testing.assert_array_equal(load(tmp_path).train_images[1], 255 - small.truth()["train"][1])


def test_files_that_are_not_the_competitions_do_not_count(data: Path, reads: list[str]) -> None:
    load(data)
    (data / "notes.txt").write_text("x")
    (data / ".kit" / "mosaic.csv").write_text("x")
    reads.clear()
    load(data)
    assert reads == []


def test_a_refusal_leaves_the_old_cache_alone(tmp_path: Path) -> None:
    small.write(tmp_path, small.files())
    load(tmp_path)
    before = small.snapshot(tmp_path / ".kit")
    (tmp_path / IMAGE).write_bytes(b"x")
    with pytest.raises(InputError):
        load(tmp_path)
    assert small.snapshot(tmp_path / ".kit") == before


# Damage to the cache


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    next_tick(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def manifest(text: str) -> Callable[[Path], object]:
    return lambda kept: (kept / "manifest.json").write_text(text)


def foreign_format(kept: Path) -> None:
    value = json.loads((kept / "manifest.json").read_text())
    (kept / "manifest.json").write_text(json.dumps(value | {"format": value["format"] + 1}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "array cut": lambda kept: cut(kept / "masks.npy"),
    "array emptied": lambda kept: (kept / "train_ids.npy").write_bytes(b""),
    "array with a flipped bit": lambda kept: flip(kept / "train_images.npy"),
    "array lost": lambda kept: (kept / "test_depth.npy").unlink(),
    "array of another shape": lambda kept: np.save(kept / "masks.npy", np.zeros((1, 2, 3))),
    "manifest cut": lambda kept: cut(kept / "manifest.json"),
    "manifest lost": lambda kept: (kept / "manifest.json").unlink(),
    "manifest of another kind": manifest("[1, 2]"),
    "manifest without keys": manifest("{}"),
    "manifest no text": lambda kept: (kept / "manifest.json").write_bytes(b"\xff\xfe"),
    "other format": foreign_format,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_rebuilt_without_a_word(
    tmp_path: Path, reads: list[str], capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    small.write(tmp_path, small.files())
    first = load(tmp_path)
    reads.clear()
    DAMAGE[damage](tmp_path / ".kit")
    assert_same(load(tmp_path), first)
    assert len(reads) == len(TRAIN) + len(TEST)
    assert_same(load(tmp_path), first)
    assert len(reads) == len(TRAIN) + len(TEST)
    assert capsys.readouterr().err == ""


# Places


def test_elsewhere_where_the_data_cannot_be_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[str]
) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    os.chmod(data, 0o555)
    before = small.snapshot(data)
    first = load(data)
    assert small.snapshot(data) == before
    reads.clear()
    assert_same(load(data), first)
    assert reads == []
    assert [path.parent for path in (tmp_path / "cache").rglob("manifest.json")] == cache.places(data)[1:]


def test_two_data_folders_share_one_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    paths = [small.write(tmp_path / name, small.files(seed)) for seed, name in enumerate("ab")]
    for path in paths:
        os.chmod(path, 0o555)
    first = [load(path) for path in paths]
    assert first[0].fingerprint != first[1].fingerprint
    for path, found in zip(paths, first, strict=True):
        assert_same(load(path), found)


def test_without_any_place_it_says_so_and_goes_on(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.chmod(data, 0o555)
    before = small.snapshot(data)
    assert len(load(data).train_ids) == len(TRAIN)
    assert small.snapshot(data) == before
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "not cached" in lines[0]
    assert "set KIT_CACHE" in lines[0]


def test_what_is_derived_lies_beside_the_data_where_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    assert cache.folder(tmp_path / "data") == tmp_path / "data" / ".kit"
    os.chmod(tmp_path / "data", 0o555)
    elsewhere = cache.folder(tmp_path / "data")
    assert (elsewhere.parent, elsewhere.is_dir()) == (tmp_path / "cache", True)


@pytest.mark.parametrize("elsewhere", [None, "file/cache"])
def test_where_nothing_can_be_written_that_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: str | None
) -> None:
    monkeypatch.delenv("KIT_CACHE", raising=False)
    if elsewhere:
        monkeypatch.setenv("KIT_CACHE", str(tmp_path / elsewhere))
    (tmp_path / "file").touch()
    (tmp_path / "data" / ".kit").mkdir(parents=True)
    os.chmod(tmp_path / "data" / ".kit", 0o555)  # the data can be written, the cache cannot
    with pytest.raises(InputError, match="is read-only: set KIT_CACHE") as error:
        cache.folder(tmp_path / "data")
    assert "\n" not in str(error.value)


def test_a_full_disk_gets_its_space_back(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = np.save

    def save(file: Any, array: np.ndarray, **kwargs: Any) -> None:
        if array.dtype == bool:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(file, array, **kwargs)

    monkeypatch.setattr(np, "save", save)
    first = load(data)
    assert [path.name for path in (data / ".kit").iterdir()] == [".lock"]
    assert "No space left" in capsys.readouterr().err
    monkeypatch.undo()
    assert_same(load(data), first)


# Several processes


def _first_reader(path: Path, start: Any) -> None:
    start.wait()
    tiles.load(path, progress=False)


@pytest.mark.slow
def test_two_first_readers_leave_a_cache_that_is_valid(data: Path, reads: list[str]) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    workers = [context.Process(target=_first_reader, args=(data, start)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    load(data)
    assert reads == []


def _worker(path: Path, start: Any, results: Any) -> None:
    start.wait()
    for _ in range(5):
        found = tiles.load(path, progress=False)
        results.put((found.fingerprint, tiles._fingerprint(found)))
        (path / ".kit" / "manifest.json").unlink(missing_ok=True)  # so that all keep building and replacing


@pytest.mark.slow
def test_processes_that_build_at_once_do_not_mix_their_arrays(tmp_path: Path) -> None:
    data = small.write(tmp_path, small.files())
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(4), context.SimpleQueue()
    workers = [context.Process(target=_worker, args=(data, start, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    found = {results.get() for _ in range(20)}
    assert found == {(load(data).fingerprint,) * 2}
    assert [path.name for path in (data / ".kit").glob(".*")] == [".lock"]  # no temporary file is left
