"""Zips come from the network: one that is cut, swollen, forged or points elsewhere is refused and costs no memory."""

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.data import archive
from kit.data.archive import Archive
from kit.errors import InputError
from tests.data import small


def put(path: Path, data: bytes) -> Path:
    (path / "train.zip").write_bytes(data)
    return path


def read_all(path: Path) -> dict[str, bytes]:
    """Every file of DATA/train.zip."""
    with Archive(path) as opened:
        folder = opened.root().folder("train")
        assert folder is not None
        return {name: read() for name, read in folder.files.items()}


def refused(path: Path) -> str:
    before = small.snapshot(path)
    with pytest.raises(InputError) as error:
        read_all(path)
    assert small.snapshot(path) == before
    message = str(error.value)
    assert "train.zip" in message
    assert "download" in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_compression_is_read(tmp_path: Path, method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        made.writestr("a.png", bytes(range(256)))
    assert read_all(put(tmp_path, buffer.getvalue())) == {"a.png": bytes(range(256))}


def test_a_zip_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = small.zipped({"a.png": bytes(range(256)), "b.png": b"b"})
    for length in range(0, len(whole), 7):
        refused(put(tmp_path, whole[:length]))


def test_a_damaged_zip_never_gives_other_bytes(tmp_path: Path) -> None:
    """Names may change with a flipped bit (nothing in a zip protects them); contents may not."""
    content = {"a.png": bytes(range(256)), "b.png": b"b" * 50}
    whole = small.zipped(content)
    survived = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        try:
            found = read_all(put(tmp_path, bytes(damaged)))
        except InputError:
            continue
        survived += 1
        assert set(found.values()) <= set(content.values())
    assert survived < len(whole) / 2


def test_a_page_instead_of_a_zip(tmp_path: Path) -> None:
    assert "no complete zip" in refused(put(tmp_path, b"<html>please log in</html>"))


def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as twice:
        twice.writestr("images/a.png", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            twice.writestr("images/a.png", b"2")
    with Archive(tmp_path) as opened, pytest.raises(InputError, match=r"images holds a\.png twice"):
        opened.root().folder("train").folder("images")


@pytest.mark.parametrize(
    "name", ["../evil.png", "images/../../evil.png", "/etc/evil.png", "C:/evil.png", "..\\evil.png", "../evil.txt"]
)
def test_a_path_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    assert "outside its folder" in refused(put(tmp_path, small.zipped({"a.png": b"a", name: b"x"})))


def test_backslashes_separate_folders(tmp_path: Path) -> None:
    put(tmp_path, small.zipped({"images\\a.png": b"a"}))
    with Archive(tmp_path) as opened:
        images = opened.root().folders["train"]().folders["images"]()
        assert images.files["a.png"]() == b"a"
        assert images.where == f"{tmp_path}/train.zip/images"


def test_more_than_the_bound_is_refused_before_anything_is_unpacked(tmp_path: Path) -> None:
    """A file of 8 MiB whose size in the directory becomes 3 GiB, as in a bomb."""
    data = resized(small.zipped({"a.png": bytes(8 * 2**20)}), 8 * 2**20, 3 * 2**30)
    assert archive.UNPACK_BOUND == 2 * 2**30
    assert peak(lambda: "more than 2 GiB" in refused(put(tmp_path, data))) < 2**20


def test_the_bound_is_on_the_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "UNPACK_BOUND", 1000)
    assert len(read_all(put(tmp_path, small.zipped({"a.png": bytes(500), "b.png": bytes(500)})))) == 2
    assert "the bound" in refused(put(tmp_path, small.zipped({"a.png": bytes(500), "b.png": bytes(501)})))
    nested = small.zipped({"inner.zip": small.zipped({"a.png": bytes(1001)})})
    put(tmp_path, nested)
    with Archive(tmp_path) as opened, pytest.raises(InputError, match=r"train\.zip/inner\.zip unpacks to more"):
        opened.root().folders["train"]().folders["inner"]()


def test_a_directory_that_lies_about_sizes_does_not_cost_memory(tmp_path: Path) -> None:
    data = resized(small.zipped({"a.png": bytes(64 * 2**20)}), 64 * 2**20, 100)
    assert peak(lambda: "cannot be read from its zip" in refused(put(tmp_path, data))) < 2 * 2**20


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(small.zipped({"a.png": b"a"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    assert "encrypted" in refused(put(tmp_path, bytes(data)))


def resized(data: bytes, old: int, new: int) -> bytes:
    """A zip whose headers announce another size for a file."""
    assert struct.pack("<L", old) in data
    return data.replace(struct.pack("<L", old), struct.pack("<L", new))


def peak(action: Callable[[], bool]) -> int:
    """Bytes that Python held at most while `action` ran, which must return true."""
    tracemalloc.start()
    try:
        assert action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
