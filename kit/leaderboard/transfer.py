"""Files to and from Kaggle's storage: whole or not at all, going on after a cut, never with another file's bytes.

The client's own upload remembers half-done ones by name, size and date, and then sends old bytes for new ones; its
downloads save error pages as results. Here nothing is remembered about uploads, and a download goes on only where the
server vouches that the file is the same.
"""

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kit import runs
from kit.leaderboard import client
from kit.leaderboard.client import TroubleError, in_bounds, patiently

RESUMES = 3  # times that one upload goes on where it was cut, before it starts anew
PIECE = 2**16  # bytes; a cut loses the last one


def upload(begin: Callable[[], Any], path: Path) -> str:
    """Send a file and return its token. begin: asks Kaggle for a place, an answer with `token` and `create_url`.

    Raises RefusedError or UnreachableError.
    """

    def attempt() -> str:
        place = begin()
        _put(place.create_url, path)
        return str(place.token)

    return patiently(attempt)


def _put(url: str, path: Path) -> None:
    """Send the file's bytes by Google's resumable protocol, which says after a cut how many have arrived."""
    import requests

    size, arrived = path.stat().st_size, 0
    for last in [False] * RESUMES + [True]:
        try:
            with in_bounds(f"uploading {path.name}"), open(path, "rb") as file:
                file.seek(arrived)
                part = {"Content-Range": f"bytes {arrived}-{size - 1}/{size}"} if arrived else {}
                response = requests.put(url, data=file if size else b"", headers=part)
                response.raise_for_status()
                if response.status_code != 308:  # "go on": not all has arrived
                    return
        except TroubleError as trouble:
            if last or trouble.after:
                raise
            client.sleep(1)
        with in_bounds(f"uploading {path.name}"):
            response = requests.put(url, headers={"Content-Range": f"bytes */{size}"})
            response.raise_for_status()
            if response.status_code != 308:
                return
            known = re.fullmatch(r"bytes=0-(\d+)", response.headers.get("Range", ""))
            arrived = int(known[1]) + 1 if known else 0


def download(begin: Callable[[], Any], path: Path, size: int | None = None) -> None:
    """Write what `begin` opens (a streaming response) to `path`; what a cut leaves in PATH.part is gone on with.

    size: in bytes, where it is known from elsewhere. Size and, where the server names it, MD5 are checked before the
    file takes its name. Raises RefusedError or UnreachableError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    patiently(lambda: _get(begin(), part, size))
    os.replace(part, path)
    _identity_of(part).unlink(missing_ok=True)


def fetch(url: str) -> Callable[[], Any]:
    """A `begin` for `download`: a plain GET of a signed address."""

    def begin() -> Any:
        import requests

        with in_bounds("downloading"):
            response = requests.get(url, stream=True)
            response.raise_for_status()
            return response

    return begin


def _get(response: Any, part: Path, size: int | None) -> None:
    headers = response.headers
    length = int(headers["Content-Length"]) if headers.get("Content-Length") else None
    tag = headers.get("ETag") or headers.get("Last-Modified")
    if size is not None and length not in (None, size):
        raise TroubleError(f"downloading {part.stem}: {length} bytes are offered instead of {size}")
    identity = {"tag": tag, "size": length}
    known = tag and length and part.exists() and _read_identity(part) == identity
    start = part.stat().st_size if known else 0
    with in_bounds(f"downloading {part.stem}"):
        if start and start != length:
            response = _from(response, start, tag)
            start = start if response.status_code == 206 else 0
        if not start:
            runs.write_json(_identity_of(part), identity)
        if not start or start != length:
            _write(response, part, start, length)
        response.close()
    _check(part, length if size is None else size, headers)


def _write(response: Any, part: Path, start: int, length: int | None) -> None:
    bar = tqdm(total=length, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None)  # on a terminal
    with open(part, "ab" if start else "wb") as file, bar:
        for piece in response.iter_content(PIECE):
            file.write(piece)
            bar.update(len(piece))
        file.flush()
        os.fsync(file.fileno())


def _from(response: Any, start: int, tag: str | None) -> Any:
    """The same download from byte `start` on, or the whole of it (status 200) where the file is another by now."""
    import requests

    response.close()
    again = requests.get(response.url, headers={"Range": f"bytes={start}-", "If-Range": str(tag)}, stream=True)
    again.raise_for_status()
    return again


def _check(part: Path, size: int | None, headers: Any) -> None:
    """Raises TroubleError where the bytes on disk are too few or others than promised; others are deleted."""
    found = part.stat().st_size
    if size is not None and found < size:
        raise TroubleError(f"downloading {part.stem}: cut after {found} of {size} bytes")
    digest = re.search(r"md5=([\w+/=]+)", headers.get("x-goog-hash", ""))
    wrong = digest and base64.b64encode(_md5(part)).decode() != digest[1]
    if wrong or (size is not None and found > size):
        part.unlink()
        raise TroubleError(
            f"downloading {part.stem}: {'the MD5 is wrong' if wrong else 'too many bytes'}, starting again"
        )


def _md5(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").digest()


def _identity_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_identity(part: Path) -> Any:
    try:
        return json.loads(_identity_of(part).read_text())
    except (OSError, ValueError):
        return None
