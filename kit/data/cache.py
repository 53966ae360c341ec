"""Arrays kept from the last reading of a data folder, valid as long as the folder's listings are what they were then.

Layout: DATA/.kit/NAME.npy and manifest.json, which says what the arrays were made from and is written last. In
KIT_CACHE/HASH instead, HASH being that of the data folder's path, where DATA cannot be written. Safe to delete.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kit import runs
from kit.data import archive
from kit.errors import InputError

FORMAT = 1  # raise it when the arrays of one and the same data folder come out differently

Listings = dict[str, archive.Listing]


def places(data: Path) -> list[Path]:
    """The folders that may hold what is derived from the data folder `data`, best first; they need not exist."""
    elsewhere = os.environ.get("KIT_CACHE")
    name = hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16]
    return [data / ".kit", *([Path(elsewhere) / name] if elsewhere else [])]


def folder(data: Path) -> Path:
    """The first of `places` that can be written, made if need be. Raises InputError where there is none."""
    for place in places(data):
        if place.parent == data and not _writable(data):
            continue
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            if _writable(place):
                return place
    raise InputError(f"{data} is read-only: set KIT_CACHE to a folder that can be written")


def read(data: Path, maker: str, names: Iterable[str]) -> tuple[dict[str, np.ndarray], str] | None:
    """The arrays `names` (read-only, mapped from disk) and the fingerprint written with them.

    None where there is no valid cache: other sources or another `maker` than at writing, or a cache that is damaged.
    """
    for folder in places(data):
        # A damaged manifest may hold anything, hence the many errors; what is not right is built again.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            manifest = json.loads((folder / "manifest.json").read_text())
            if (manifest["format"], manifest["maker"]) != (FORMAT, maker):
                continue
            if any(archive.scan(data / name) != listing for name, listing in manifest["sources"].items()):
                continue
            if _identities(folder, names) != manifest["arrays"]:
                continue
            arrays = {name: np.asarray(np.load(_file(folder, name), "r", allow_pickle=False)) for name in names}
            # Once more: another process that rebuilds may have replaced files while we opened them.
            if _identities(folder, names) == manifest["arrays"]:
                return arrays, str(manifest["fingerprint"])
    return None


def write(data: Path, maker: str, arrays: dict[str, np.ndarray], fingerprint: str, sources: Listings) -> None:
    """Keep arrays for `read`. Where no place can be written, say so in one line and go on."""
    reason = f"{data} is read-only"
    for folder in places(data):
        if folder.parent == data and not _writable(data):
            continue
        try:
            _write(folder, arrays, {"maker": maker, "fingerprint": fingerprint, "sources": sources})
            return
        except OSError as error:
            reason = f"{folder}: {error.strerror or error}"
            with contextlib.suppress(OSError):  # a full disk gets its space back
                for name in arrays:
                    _file(folder, name).unlink(missing_ok=True)
    print(f"tiles are not cached ({reason}): set KIT_CACHE to a folder that can be written", file=sys.stderr)


def _write(folder: Path, arrays: dict[str, np.ndarray], manifest: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    identities = {}
    with runs.exclusive(folder / ".lock"):  # of two first readers, one's manifest must not describe the other's arrays
        for name, array in arrays.items():
            with runs.atomic_path(_file(folder, name)) as temporary, open(temporary, "wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
                identities[name] = _identity(temporary)
        runs.write_json(folder / "manifest.json", {"format": FORMAT, **manifest, "arrays": identities})


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _identity(path: Path) -> list[int]:
    """Enough to know a file again: neither another writer's array nor one that was changed since passes for it."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _identities(folder: Path, names: Iterable[str]) -> dict[str, list[int]]:
    return {name: _identity(_file(folder, name)) for name in names}


def _writable(folder: Path) -> bool:
    """The permission bits count for root too, who could write but was told not to."""
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)
