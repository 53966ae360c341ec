"""Files to and from a server of our own: after every kind of cut whole, and never with other bytes than their own."""

import json
import os

import pytest

from kit.errors import RefusedError, UnreachableError
from kit.leaderboard import transfer
from kit.leaderboard.client import Client

CONTENT = bytes(range(256)) * 4000  # a megabyte
URL = "http://localhost/files/big.bin"


def send(kaggle, path):
    size, client = path.stat().st_size, Client()
    token = transfer.upload(lambda: client.ask("StartBlobUpload", name=path.name, contentLength=size), path)
    return kaggle.uploaded(token)


@pytest.fixture
def big(tmp_path):
    path = tmp_path / "big.bin"
    path.write_bytes(CONTENT)
    return path


def test_an_upload_arrives(kaggle, big):
    assert send(kaggle, big) == CONTENT
    assert kaggle.count("PUT") == 1
    big.write_bytes(b"")
    assert send(kaggle, big) == b""


@pytest.mark.parametrize("keep", [0, 1, 300_000, len(CONTENT)])
def test_an_upload_that_is_cut_goes_on(kaggle, big, keep):
    kaggle.plant("PUT", cut=True, keep=keep)
    assert send(kaggle, big) == CONTENT
    assert kaggle.count("StartBlobUpload") == 1
    asked, *rest = [body["span"] for body in kaggle.bodies("PUT")[1:]]
    assert asked == f"bytes */{len(CONTENT)}"
    wanted = {0: [""], len(CONTENT): []}.get(keep, [f"bytes {keep}-{len(CONTENT) - 1}/{len(CONTENT)}"])
    assert rest == wanted


@pytest.mark.usefixtures("impatient")
def test_an_upload_that_is_cut_again_and_again_begins_anew(kaggle, big):
    kaggle.plant("PUT", cut=True, keep=10, times=8)
    assert send(kaggle, big) == CONTENT
    assert kaggle.count("StartBlobUpload") > 1


def test_an_upload_of_which_a_part_is_kept_goes_on(kaggle, big):
    kaggle.plant("PUT", keep=300_000)
    assert send(kaggle, big) == CONTENT
    assert kaggle.count("StartBlobUpload") == 1


@pytest.mark.parametrize(("status", "error"), [(403, RefusedError), (400, RefusedError), (503, UnreachableError)])
def test_an_upload_that_is_refused(kaggle, big, status, error):
    kaggle.plant("PUT", status=status, times=999)
    with pytest.raises(error, match=f"uploading big.bin: Kaggle answers {status}"):
        send(kaggle, big)


def test_bytes_of_an_earlier_file_never_get_in(kaggle, big):
    """The client's own upload would go on with the first file's bytes: name, size and date are the same."""
    kaggle.plant("PUT", cut=True, keep=500_000, times=999)
    with pytest.raises(UnreachableError):
        send(kaggle, big)
    kaggle.faults.clear()
    stat = big.stat()
    big.write_bytes(CONTENT[::-1])
    os.utime(big, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert send(kaggle, big) == CONTENT[::-1]


def get(path, size=None):
    transfer.download(transfer.fetch(URL), path, size)


def test_a_download_is_whole_and_alone(kaggle, tmp_path):
    kaggle.files["big.bin"] = CONTENT
    path = tmp_path / "new" / "got.bin"
    get(path, len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["got.bin"]


@pytest.mark.parametrize("keep", [0, 1000, 300_000, len(CONTENT) - 1])
def test_a_download_that_is_cut_goes_on(kaggle, tmp_path, keep):
    kaggle.files["big.bin"] = CONTENT
    kaggle.plant("GET", keep=keep)
    get(tmp_path / "got.bin")
    assert (tmp_path / "got.bin").read_bytes() == CONTENT
    ranges = [body["range"] for body in kaggle.bodies("GET")]
    assert any(span[len("bytes=") : -1] > "0" for span in ranges) == (keep >= transfer.PIECE)


def test_a_later_process_goes_on_too_but_not_with_another_file(kaggle, tmp_path):
    kaggle.files["big.bin"] = CONTENT
    for new in (CONTENT, CONTENT[::-1], CONTENT[:500]):
        kaggle.files["big.bin"] = CONTENT
        kaggle.plant("GET", keep=300_000, times=1)
        kaggle.plant("GET", status=503, times=99)
        with pytest.raises(UnreachableError):
            get(tmp_path / "got.bin")
        kaggle.faults.clear()
        assert not (tmp_path / "got.bin").exists()
        kaggle.files["big.bin"] = new
        get(tmp_path / "got.bin")
        assert (tmp_path / "got.bin").read_bytes() == new
        (tmp_path / "got.bin").unlink()


def test_what_is_not_the_file_is_not_kept(kaggle, tmp_path):
    kaggle.files["big.bin"] = CONTENT
    kaggle.plant("GET", headers={"x-goog-hash": "md5=AAAAAAAAAAAAAAAAAAAAAA=="}, times=99)
    with pytest.raises(UnreachableError, match="the MD5 is wrong"):
        get(tmp_path / "got.bin")
    kaggle.faults.clear()
    with pytest.raises(UnreachableError, match=f"{len(CONTENT)} bytes are offered instead of 7"):
        get(tmp_path / "got.bin", 7)
    kaggle.plant("GET", status=403, message="expired")
    with pytest.raises(RefusedError, match="403, expired"):
        get(tmp_path / "got.bin")
    assert not (tmp_path / "got.bin").exists()


def test_a_damaged_note_about_a_part_is_no_note(kaggle, tmp_path):
    kaggle.files["big.bin"] = CONTENT
    (tmp_path / "got.bin.part").write_bytes(b"x" * 100)
    (tmp_path / "got.bin.part.json").write_text(json.dumps([1])[:-1])
    get(tmp_path / "got.bin")
    assert (tmp_path / "got.bin").read_bytes() == CONTENT
