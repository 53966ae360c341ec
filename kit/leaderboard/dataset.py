"""A private dataset of the user's that holds exactly these files: made, renewed or left alone, and waited for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kit.errors import RefusedError, UnreachableError
from kit.leaderboard import client, transfer
from kit.leaderboard.client import Client

LICENCE = "apache-2.0"
LONGEST = 30 * 60  # seconds that Kaggle may take to unpack and index a dataset


def publish(kaggle: Client, owner: str, title: str, files: Mapping[str, Path]) -> str:
    """Let the dataset OWNER/SLUG, the slug being that of its title, hold these files by name; say what was done.

    The names must say what the content is (see package.py): a dataset that has them all is left alone, and one that
    was made by a call whose answer was lost is recognised, so there is one version, never two. Returns when Kaggle has
    the dataset ready to be mounted. Raises RefusedError, UnreachableError.
    """
    slug = slug_of(title)
    ref = f"{owner}/{slug}"

    def same() -> str | None:
        names = _names(kaggle, owner, slug)
        return f"{ref} is there" if names == set(files) else None

    names = _names(kaggle, owner, slug)
    if names == set(files):
        return f"dataset {ref}: unchanged"
    listed = [{"token": transfer.upload(_begin(kaggle, name, path), path)} for name, path in files.items()]
    if names is None:
        answer = kaggle.once("CreateDataset", same, ownerSlug=owner, slug=slug, title=title, licenseName=LICENCE,
                             isPrivate=True, files=listed)  # fmt: skip
    else:
        answer = kaggle.once("CreateDatasetVersion", same, ownerSlug=owner, datasetSlug=slug,
                             body={"versionNotes": ", ".join(files), "files": listed})  # fmt: skip
    if error := getattr(answer, "error", ""):
        raise RefusedError(f"dataset {ref}: {error}")
    lacking = set(files) - (_names(kaggle, owner, slug) or set())
    if lacking:
        raise RefusedError(f"dataset {ref} lacks {min(lacking)}: look at https://www.kaggle.com/datasets/{ref}")
    return f"dataset {ref}: {'created' if names is None else 'a new version'} with {', '.join(files)}"


def slug_of(title: str) -> str:
    """Kaggle's slug of a plain title, letters and single spaces."""
    return title.lower().replace(" ", "-")


def _begin(kaggle: Client, name: str, path: Path) -> Callable[[], Any]:
    stat = path.stat()
    return lambda: kaggle.ask("StartBlobUpload", type="DATASET", name=name, contentLength=stat.st_size,
                              lastModifiedEpochSeconds=int(stat.st_mtime))  # fmt: skip


def _names(kaggle: Client, owner: str, slug: str) -> set[str] | None:
    """The names of the files of the newest version, once Kaggle has it ready; None where there is no such dataset."""
    if not _ready(kaggle, owner, slug):
        return None
    pages = kaggle.pages("ListDatasetFiles", ownerSlug=owner, datasetSlug=slug)
    return {file.name for page in pages for file in page.dataset_files or []}


def _ready(kaggle: Client, owner: str, slug: str) -> bool:
    """Wait until Kaggle has the newest version ready. False where there is no such dataset.

    Raises RefusedError where Kaggle failed to process it, UnreachableError where that takes too long.
    """
    ref = f"{owner}/{slug}"

    def look() -> bool | None:
        try:
            status = kaggle.ask("GetDatasetStatus", ownerSlug=owner, datasetSlug=slug).status.name
        except RefusedError as refusal:
            if refusal.status in (403, 404):  # what is not there and what is not ours look alike
                return False
            raise
        if status == "FAILED":
            raise RefusedError(f"dataset {ref}: Kaggle could not process it: https://www.kaggle.com/datasets/{ref}")
        return {"READY": True, "DELETED": False}.get(status)

    found = client.poll(look, LONGEST)
    if found is None:
        raise UnreachableError(f"dataset {ref} is not ready after {LONGEST // 60} minutes: give the same command later")
    return found
