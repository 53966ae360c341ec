"""A run directory: its name, its files written whole or not at all, its lock, and the record of what made it."""

import contextlib
import fcntl
import json
import mmap
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from kit.errors import InputError
from kit.machine import cpus

RECORDED_PACKAGES = ("numpy", "torch", "torchvision", "fastai", "timm", "albumentations", "opencv-python-headless")


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`; it takes the name `path` when the block succeeds and is deleted when not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, after waiting for the process that holds it; the kernel frees it with its process."""
    with open(path, "a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file atomically and durably. OSError (a full disk) leaves what was there before."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path | str, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_probabilities(path: Path | str, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> None:
    """Write a float16 .npy of `shape` from its parts in order, atomically; only one part is in memory.

    Plain writes and no memory map, under which a full disk kills the process instead of raising OSError.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for part in parts:
            file.write(np.ascontiguousarray(part, np.float16).data)
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Path | str, mend: str = "restore or delete it") -> dict[str, Any]:
    """Raises InputError for a file that is missing or, ending in `mend`, for one that is not a JSON object."""
    try:
        content = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing: the run is not finished, go on with train.py --resume") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): {mend}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold a JSON object: {mend}")
    return content


def has_rows(path: Path, count: int) -> bool:
    """Whether a .npy file is there with so many rows, none of them cut off."""
    try:
        return len(np.load(path, mmap_mode="r", allow_pickle=False)) == count
    except (OSError, ValueError, EOFError, TypeError):
        return False


def forget_pages(array: np.ndarray) -> None:
    """Give back the memory of what was read so far of an array that is mapped from a file; others are left alone.

    The kernel counts every page that was touched as this process's, and a large file's pages add up.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


RECIPE, PRETEXT = "recipe.toml", "pretext.toml"  # by which a run is found, and by which a pretext run
FIGURES = ("score", "epochs", "seconds", "tiles_per_second")  # of a fold in scores.json


class Run:
    """One run directory, runs/NAME; the layout is in docs/architecture.md."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.name = Path(os.path.abspath(path)).name  # of "." too

    @property
    def given(self) -> str:
        """What a command line calls it: its name where it lies under runs/, else its path."""
        return self.name if self.path.resolve().parent == Path("runs").resolve() else str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def fold(self, fold: int | None) -> Path:
        """Directory of one fold; None is the training on every tile."""
        return self.path / ("fold_none" if fold is None else f"fold_{fold}")

    def weights(self, fold: int | None, name: str) -> list[Path]:
        """The files of a fold's weights: one, or for "snapshots" as many as there are, the oldest first."""
        if name == "snapshots":
            return sorted((self.fold(fold) / "snapshots").glob("[0-9]*.safetensors"))
        return [self.fold(fold) / f"{name}.safetensors"]

    def made_on(self, fingerprint: str) -> bool:
        """Whether the tiles with this fingerprint (of data.tiles.Tiles) are those that the run was made on."""
        return bool(read_json(self / "environment.json").get("fingerprint") == fingerprint)

    def scores(self) -> dict[str, Any]:
        """scores.json: folds, what is known of each by its name, and of all the mean and std where there are folds.

        Before a fold is done there are none. Raises InputError for a damaged file.
        """
        path = self / "scores.json"
        if not path.exists():
            return {"folds": {}}
        scores = read_json(path, "restore it")
        folds, known = scores.get("folds"), _numbers(scores, "mean", "std")
        if not known or not isinstance(folds, dict) or not all(_is_fold(*item) for item in folds.items()):
            raise InputError(f"{path} is not what train.py wrote: restore it")
        return scores

    def finished_folds(self) -> list[int | None]:
        """The folds that were trained to the end and have their weights, in order (None: trained on every tile)."""
        used = {None if name == "none" else int(name): fold["weights"] for name, fold in self.scores()["folds"].items()}
        files = {fold: self.weights(fold, name) for fold, name in used.items()}
        return [fold for fold, paths in files.items() if paths and all(path.exists() for path in paths)]

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; the kernel gives the lock back however the process ends.

        What a killed process left half-written is deleted. Raises InputError when another process holds the run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self / ".lock", "a+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by loader processes, as flock is
            except OSError:
                file.seek(0)
                raise InputError(
                    f"{self.path} is in use by process {file.read().strip() or 'unknown'}: "
                    "wait for it to end, or choose another --run"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            for left in self.path.rglob(".*.tmp*"):
                left.unlink(missing_ok=True)
            yield


def _is_fold(name: str, entry: Any) -> bool:
    """Whether an entry of scores.json is that of a fold, the numbers that it may have being numbers."""
    known = isinstance(entry, dict) and isinstance(entry.get("weights"), str)
    known = known and isinstance(entry.get("candidates", {}), dict)
    return known and (name == "none" or name.isdecimal()) and _numbers(entry, *FIGURES)


def _numbers(values: dict[str, Any], *names: str) -> bool:
    return all(isinstance(values[name], int | float) for name in names if name in values)


def new_run(name: str) -> Run:
    """The run `name` under runs/, which must be a plain name and not taken."""
    if not re.fullmatch(r"\w[\w.+-]{0,99}", name) or name.endswith(".csv") or name == "latest":
        raise InputError(f"--run {name!r} is no usable name: give a plain folder name such as resnet34-a")
    run = Run(Path("runs") / name)
    if (run / RECIPE).exists() or (run / PRETEXT).exists():
        raise InputError(f"{run.path} exists already: add --resume to go on with it, or choose another --run")
    return run


def find_run(name: str, kind: str = RECIPE) -> Run:
    """The run, or with kind=PRETEXT the pretext run, that a user means by a name, a path, or "latest" (started last).

    Raises InputError where there is none, and for a run of the other kind.
    """
    what, flag = ("run", "") if kind == RECIPE else ("pretext run", " --pretext")
    if name == "latest":
        found = sorted(Path("runs").glob(f"*/{kind}"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise InputError(f"there is no {what} under runs/ yet: train one with python scripts/train.py{flag}")
        return Run(found[-1].parent)
    for path in (Path("runs") / name, Path(name)):
        if (path / kind).exists():
            return Run(path)
        if (path / PRETEXT).exists():
            raise InputError(
                f"{path} is a pretext run, which predicts no masks: train a run on its encoder with "
                f"--weights {path / 'encoder.safetensors'}, or go on with it by train.py --pretext --resume"
            )
        if (path / RECIPE).exists():
            raise InputError(f"{path} was trained on masks and is no pretext run: leave out --pretext")
    known = sorted(path.parent.name for path in Path("runs").glob(f"*/{kind}"))
    raise InputError(f"no {what} {name!r} (a {what} has a {kind}); {what}s here: {', '.join(known) or 'none'}")


def default_name(recipe: str, arch: str) -> str:
    """A free run name such as baseline-resnet34-1120-1405."""
    base = re.sub(r"[^\w.+-]", "_", f"{recipe}-{arch}-{datetime.now():%m%d-%H%M}").lstrip(".+-")
    name, count = base, 1
    while (Path("runs") / name).exists():
        count += 1
        name = f"{base}-{count}"
    return name


def environment() -> dict[str, Any]:
    """What a result depends on beside the recipe: versions, hardware, the kit's own commit."""
    versions = {}
    for package in RECORDED_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": cpus(),
        "versions": versions,
        "commit": _commit(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def command_line() -> str:
    """The command as the user could type it again."""
    import shlex

    return shlex.join(["python", *sys.argv])


def _commit() -> str:
    """The git commit of the kit's own checkout, with -dirty where files differ; empty when installed."""
    here = Path(__file__).parent.parent
    if not (here / ".git").exists():
        return ""
    try:
        text = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return text.stdout.strip()
