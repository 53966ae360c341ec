"""A kernel on Kaggle: its script and metadata, one version of it, and what that version wrote.

A version that was made by a call whose answer was lost is recognised by its text; so there is one, never two.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kit import runs
from kit.data.competition import TGS
from kit.errors import InputError, RefusedError
from kit.leaderboard import client, transfer
from kit.leaderboard.client import Client, TroubleError
from kit.leaderboard.dataset import slug_of

TITLE = "Salt kit kernel"
METADATA = "kernel-metadata.json"
LIMIT = 1_000_000  # bytes of text: Kaggle says "less than 1 megabytes" and has refused 1.03 MB
LOG_LINES = 15  # of a kernel's log that are shown when it failed
OUTPUT = "submission.csv"


@dataclass(frozen=True)
class Kernel:
    """What is pushed. datasets: refs OWNER/SLUG of private datasets."""

    owner: str
    text: str
    datasets: tuple[str, ...]
    gpu: bool = True
    internet: bool = False

    @property
    def slug(self) -> str:
        return slug_of(TITLE)

    @property
    def ref(self) -> str:
        return f"{self.owner}/{self.slug}"

    @property
    def url(self) -> str:
        return f"https://www.kaggle.com/code/{self.ref}"

    def metadata(self, code_file: str) -> dict[str, Any]:
        """kernel-metadata.json for the kaggle client. Every boolean is said: what is left out may mean yes."""
        return {
            "id": self.ref,
            "title": TITLE,
            "code_file": code_file,
            "language": "python",
            "kernel_type": "script",
            "is_private": True,
            "enable_gpu": self.gpu,
            "enable_tpu": False,
            "enable_internet": self.internet,
            "dataset_sources": list(self.datasets),
            "competition_sources": [TGS.slug],
            "kernel_sources": [],
            "model_sources": [],
        }

    def write(self, folder: Path) -> None:
        """Write what would be pushed: script and metadata, which a `kaggle kernels push -p FOLDER` takes too."""
        runs.write_text(folder / "kernel.py", self.text)
        runs.write_json(folder / METADATA, self.metadata("kernel.py"))


def script(template: Path, arguments: Sequence[str], wheel: str, embedded: str = "") -> str:
    """scripts/kernel.py with its three settings filled in. Raises InputError where Kaggle would refuse its size."""
    text = template.read_text()
    for name, value in {"ARGUMENTS: list[str]": list(arguments), "WHEEL": wheel, "EMBEDDED": embedded}.items():
        parts = re.split(rf"^{re.escape(name)} = .*$", text, flags=re.M)
        text = f"{name} = {json.dumps(value)}".join(parts)
        if len(parts) != 2:
            raise InputError(f"{template} does not set {name} once: restore it (git checkout {template})")
    if len(text.encode()) >= LIMIT:
        raise InputError(f"the script has {len(text.encode()):,} bytes, Kaggle takes less than {LIMIT:,}: "
                         "leave out --embed, a dataset has room for the kit")  # fmt: skip
    return text


def push(kaggle: Client, kernel: Kernel) -> int:
    """The number of the version with this kernel, made unless the newest is it and did not fail.

    Raises RefusedError, also where Kaggle made the version without one of its inputs; UnreachableError.
    """
    before, same = _newest(kaggle, kernel)
    if same and _status(kaggle, kernel, before).status.name not in ("ERROR", "CANCEL_ACKNOWLEDGED", "CANCEL_REQUESTED"):
        print(f"kernel {kernel.ref}: version {before} is this one already, nothing is pushed", flush=True)
        return before

    def made() -> int | None:
        number, same = _newest(kaggle, kernel)
        return number if same and number > before else None

    answer = kaggle.once(
        "SaveKernel", made, slug=kernel.ref, newTitle=TITLE, text=kernel.text, language="python", kernelType="script",
        isPrivate=True, enableGpu=kernel.gpu, enableTpu=False, enableInternet=kernel.internet,
        datasetDataSources=list(kernel.datasets), competitionDataSources=[TGS.slug], kernelDataSources=[],
        modelDataSources=[], categoryIds=[],
    )  # fmt: skip
    if isinstance(answer, int):
        return answer
    if answer.error:
        raise RefusedError(f"kernel {kernel.ref}: {answer.error}")
    refused = [*(answer.invalid_dataset_sources or []), *(answer.invalid_competition_sources or [])]
    if refused:
        raise RefusedError(f"kernel {kernel.ref}: Kaggle made version {answer.version_number} without "
                           f"{', '.join(refused)}, which it does not know or not let you use")  # fmt: skip
    return int(answer.version_number)


def follow(kaggle: Client, kernel: Kernel, version: int) -> None:
    """Wait until a version has run, printing what changes. Raises RefusedError with its log's end where it failed."""
    seen = ""

    def look() -> Any:
        nonlocal seen
        answer = _status(kaggle, kernel, version)
        name = answer.status.name
        if name != seen:
            print(f"version {version}: {name.lower().replace('_', ' ')}", flush=True)
            seen = name
        return None if name in ("QUEUED", "RUNNING", "NEW_SCRIPT", "CANCEL_REQUESTED") else answer

    answer = client.poll(look)
    assert answer is not None  # without a limit poll waits for one
    if answer.status.name == "COMPLETE":
        return
    lines = _log_lines(_outputs(kaggle, kernel, version)[1])[-LOG_LINES:]
    print("\n".join(["the end of its log:", *lines]), flush=True)
    reason = answer.failure_message or (lines[-1] if lines else "without a reason")
    raise RefusedError(f"kernel {kernel.ref}: version {version} did not end well: {reason}: see {kernel.url}")


def fetch(kaggle: Client, kernel: Kernel, version: int, folder: Path) -> Path:
    """Download all that a version wrote into `folder`, a run's own files at its top, with kernel.log and kernel.py.

    Returns the submission's path. Raises RefusedError where there is none, UnreachableError, and InputError where the
    folder holds something else.
    """
    stamp = folder / "kernel.py"
    if folder.exists() and not (stamp.exists() and stamp.read_text() == kernel.text):
        raise InputError(f"{folder} is there already, and not from this kernel: rename it")
    runs.write_text(stamp, kernel.text)
    files, log = _outputs(kaggle, kernel, version)
    for name, url in files.items():
        path = folder / re.sub(r"^runs/kernel/", "", name)
        if not path.resolve().is_relative_to(folder.resolve()):
            raise RefusedError(f"kernel {kernel.ref}: its output {name!r} would lie outside {folder}")
        if path.exists():  # each is written whole, so a fetch that was cut goes on
            continue
        try:
            client.patiently(partial(_download, path, url))
        except RefusedError as error:  # the addresses are for minutes only
            raise RefusedError(f"kernel {kernel.ref}: {name} of version {version} is not to be had ({error}); "
                               "give the same command again", error.status) from None  # fmt: skip
    runs.write_text(folder / "kernel.log", "\n".join(_log_lines(log)) + "\n")
    if OUTPUT not in files:
        raise RefusedError(f"kernel {kernel.ref}: version {version} wrote no {OUTPUT}: see {folder / 'kernel.log'}")
    return folder / OUTPUT


def _download(path: Path, url: str) -> None:
    transfer.download(transfer.fetch(url), path)
    with open(path, "rb") as file:
        page = file.read(64).lstrip()[:1] == b"<"
    if page:  # no output of ours begins so
        path.unlink()
        raise TroubleError(f"{path.name}: a web page came in its place")


def _newest(kaggle: Client, kernel: Kernel) -> tuple[int, bool]:
    """The number of the newest version (0 where there is no such kernel), and whether it is what would be pushed."""
    try:
        answer = kaggle.ask("GetKernel", userName=kernel.owner, kernelSlug=kernel.slug)
    except RefusedError as refusal:
        if refusal.status in (403, 404):  # what is not there and what is not ours look alike
            return 0, False
        raise
    told = answer.metadata
    # the text names its inputs by their content; line ends are Kaggle's affair
    same = answer.blob.source.split() == kernel.text.split()
    same = same and (told.enable_gpu, told.enable_internet) == (kernel.gpu, kernel.internet)
    return int(told.current_version_number), same


def _status(kaggle: Client, kernel: Kernel, version: int) -> Any:
    # without the label the answer may still be about the version before
    return kaggle.ask("GetKernelSessionStatus", userName=kernel.owner, kernelSlug=kernel.slug,
                      versionLabel=f"v{version}")  # fmt: skip


def _outputs(kaggle: Client, kernel: Kernel, version: int) -> tuple[dict[str, str], str]:
    """The files that a version wrote, name -> address, and its log."""
    asked = {"userName": kernel.owner, "kernelSlug": kernel.slug, "versionLabel": f"v{version}"}
    files: dict[str, str] = {}
    log = ""
    for page in kaggle.pages("ListKernelSessionOutput", **asked):
        files |= {file.file_name: file.url for file in page.files or []}
        log = log or page.log
    return files, log


def _log_lines(log: str) -> list[str]:
    """The lines of a log, which Kaggle keeps as a JSON list of pieces of text."""
    try:
        pieces = [str(piece["data"]) for piece in json.loads(log or "[]")]
    except (ValueError, TypeError, KeyError):
        pieces = [log]
    return "".join(pieces).splitlines()
