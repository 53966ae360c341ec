"""The competition's files wherever they lie: on disk, in zips, or in zips inside a zip, all seen as folders of bytes.

Nothing is extracted to disk. A zip comes from a download, so it is held to a bound and its names to its own folder.
"""

import contextlib
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from kit.errors import InputError

UNPACK_BOUND = 2 * 2**30  # bytes that one zip may unpack to: some ten times the full competition
KINDS = (".csv", ".png", ".zip")  # whatever else lies about is not the competition's
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError)

Listing = dict[str, list[int] | None]


@dataclass(frozen=True)
class Folder:
    """One folder. A zip in it is a folder too, under the zip's name without .zip, unless there is a real one.

    `where` is how messages call it; `files` give their bytes when called, `folders` open when called.
    """

    where: str
    files: Mapping[str, Callable[[], bytes]]
    folders: Mapping[str, Callable[[], "Folder"]]

    def folder(self, name: str) -> "Folder | None":
        return self.folders[name]() if name in self.folders else None

    def file(self, name: str) -> Callable[[], bytes] | None:
        """A file, or the one in a zip of its name: Kaggle serves a lone train.csv as train.csv.zip."""
        zipped = None if name in self.files else self.folder(name)
        return (zipped or self).files.get(name)


class Archive:
    """A data folder opened for reading. Use it as a context: it keeps zips open.

    `listings` holds every folder on disk that was looked at so far, by its path relative to the data folder. As long
    as all of them stay as they are, reading again gives the same result; the cache rests on that.
    """

    def __init__(self, path: Path):
        self.path = path
        self.listings: dict[str, Listing] = {}
        self._zips = contextlib.ExitStack()

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._zips.close()

    def root(self) -> Folder:
        """The data folder. Raises InputError, as everything that opens or reads here does."""
        return self._on_disk(".")

    def _on_disk(self, relative: str) -> Folder:
        path = self.path / relative
        try:
            listing = self.listings[relative] = scan(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): change its permissions") from None
        files = {name: partial(_read_file, path / name) for name, stat in listing.items() if stat is not None}
        folders = {_stem(name): partial(self._zip, path / name, str(path / name)) for name in files if _is_zip(name)}
        inner = {name: partial(self._on_disk, os.path.join(relative, name)) for name in listing if name not in files}
        return Folder(str(path), files, folders | inner)

    def _zip(self, source: Path | Callable[[], bytes], where: str) -> Folder:
        """Open a zip on disk, or one inside another zip, whose bytes are then held in memory."""
        try:
            file = source if isinstance(source, Path) else io.BytesIO(source())
            opened = self._zips.enter_context(zipfile.ZipFile(file))
        except InputError:
            raise
        except ZIP_ERRORS as error:
            raise InputError(f"{where} is no complete zip ({error}): download it again") from None
        if sum(info.file_size for info in opened.infolist()) > UNPACK_BOUND:
            raise InputError(
                f"{where} unpacks to more than {UNPACK_BOUND / 2**30:g} GiB, the bound for one zip: "
                "it is not the competition's, download it again"
            )
        members = [(_parts(info.filename, where), info) for info in opened.infolist()]
        return self._in_zip(opened, where, [(parts, info) for parts, info in members if _counts(parts, info)])

    def _in_zip(self, opened: zipfile.ZipFile, where: str, members: list[tuple[list[str], Any]]) -> Folder:
        files: dict[str, Callable[[], bytes]] = {}
        inner: dict[str, list[tuple[list[str], Any]]] = {}
        for (name, *rest), info in members:
            if rest:
                inner.setdefault(name, []).append((rest, info))
            elif name in files:
                raise InputError(f"{where} holds {name} twice: keep one of the two, or download the zip again")
            else:
                files[name] = partial(_read_member, opened, info, f"{where}/{name}")
        zips = {_stem(name): partial(self._zip, files[name], f"{where}/{name}") for name in files if _is_zip(name)}
        folders = {name: partial(self._in_zip, opened, f"{where}/{name}", found) for name, found in inner.items()}
        return Folder(where, files, zips | folders)


def scan(path: Path) -> Listing:
    """What counts in a folder on disk: sub-folders (None) and files ([size, mtime, ctime], times in ns).

    ctime sees what mtime does not: a file replaced by one with the old date. Raises OSError.
    """
    listing: Listing = {}
    with os.scandir(path) as entries:
        for entry in entries:
            if _hidden(entry.name):
                continue
            if entry.name.lower().endswith(KINDS) and entry.is_file():
                stat = entry.stat()
                listing[entry.name] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            elif entry.is_dir():
                listing[entry.name] = None
    return listing


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def _stem(name: str) -> str:
    return name[: -len(".zip")]


def _counts(parts: Iterable[str], info: zipfile.ZipInfo) -> bool:
    return not info.is_dir() and info.filename.lower().endswith(KINDS) and not any(map(_hidden, parts))


def _parts(name: str, where: str) -> list[str]:
    """A member's path; some zips made on Windows separate by backslashes."""
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or ":" in parts[0] or ".." in parts:
        raise InputError(f"{where} holds a path outside its folder, {name!r}: do not trust it, download it again")
    return [part for part in parts if part not in ("", ".")]


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): restore it or change its permissions") from None


def _read_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> bytes:
    """Read no more than the zip's directory announced, which the bound was checked on: it may lie."""
    try:
        with opened.open(info) as file:
            data = file.read(info.file_size + 1)
        if len(data) != info.file_size:
            raise zipfile.BadZipFile(f"{len(data)} bytes instead of {info.file_size}")
    except ZIP_ERRORS as error:
        raise InputError(f"{where} cannot be read from its zip ({error}): download the zip again") from None
    return data
