"""From nothing to what trainings read: the competition's zip, whole and checked, the cache of its tiles, the folds."""

import shutil
import sys
import zipfile
from pathlib import Path

from kit import recipe, runs
from kit.data import folds, tiles
from kit.data.archive import ZIP_ERRORS
from kit.data.competition import TGS
from kit.errors import InputError, UnreachableError
from kit.leaderboard import transfer
from kit.leaderboard.client import Client, log_in

ROOM = 3  # times the download's size: the zip, the cache of its arrays, and air


def download(data: Path) -> None:
    """Fetch the competition's zip into the folder `data`, where the tiles are then read from it as it is.

    What a cut has left is gone on with. Size, MD5 and the checksum of every file in it are held against what came; a
    zip that is there already is only checked. Raises InputError, RefusedError, UnreachableError.
    """
    client = log_in()
    sizes = _listed(client)
    data.mkdir(parents=True, exist_ok=True)
    with runs.exclusive(data / ".download.lock"):
        _download(client, data, sizes)


def _download(client: Client, data: Path, sizes: dict[str, int]) -> None:
    path = data / f"{TGS.slug}.zip"
    if path.exists() and not _fault(path) and not _difference(path, sizes):
        print(f"{path} is there already, and sound")
        return
    needed, free = ROOM * sum(sizes.values()), shutil.disk_usage(data).free
    if free < needed:
        raise InputError(f"{data} has {free / 2**30:.1f} GiB free, the data needs {needed / 2**30:.1f}: make room")
    print(f"downloading {len(sizes)} files, {sum(sizes.values()) / 2**20:.1f} MiB, to {path}", flush=True)
    transfer.download(lambda: client.ask("DownloadDataFiles", competitionName=TGS.slug), path)
    if fault := _fault(path):
        path.unlink()
        raise UnreachableError(f"what came is not the competition's zip ({fault}): download it again")
    if difference := _difference(path, sizes):  # a list may be wrong; each tile is checked
        print(f"note: {difference}", file=sys.stderr)
    print(f"written: {path}")


def build(data: Path) -> tiles.Tiles:
    """Read and check every tile, fill the cache, deal the folds, say what was found. Raises InputError."""
    loaded = tiles.load(data)
    salt = loaded.masks.any(axis=(1, 2)).sum()
    print(f"{len(loaded.train_ids):,} training tiles, {salt:,} with salt; {len(loaded.test_ids):,} test tiles")
    baseline = recipe.load("baseline")
    choice = baseline.data
    table = folds.make(loaded, choice.folds, choice.folds_by, baseline.seed)
    sizes = table["fold"].value_counts()
    print(f"{choice.folds} folds by {choice.folds_by}, of {sizes.min():,} to {sizes.max():,} tiles")
    return loaded


def _listed(client: Client) -> dict[str, int]:
    """The competition's files and their sizes in bytes."""
    answers = client.pages("ListDataFiles", competitionName=TGS.slug)
    return {file.name: file.total_bytes for answer in answers for file in answer.files}


def _fault(path: Path) -> str:
    """What is wrong with the zip itself, or nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            return f"the checksum of {broken} is wrong" if broken else ""
    except ZIP_ERRORS as error:
        return f"{error}"


def _difference(path: Path, sizes: dict[str, int]) -> str:
    """What a sound zip has otherwise than Kaggle's list says, or nothing."""
    with zipfile.ZipFile(path) as archive:
        there = {info.filename: info.file_size for info in archive.infolist()}
    for name, size in sizes.items():
        if there.get(name) != size:
            return f"Kaggle lists {name} with {size:,} bytes, the zip has {there.get(name, 'none')}"
    return ""
