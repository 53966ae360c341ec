"""Two ways of one job in turn, so that a change of the machine's speed meets both; medians of the rounds."""

import contextlib
import importlib
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from kit.data import demo, tiles
from kit.machine import cpus

PACKAGES = ("torch", "fastai", "timm", "albumentations", "numpy", "segmentation-models-pytorch")

held: Callable[[], object]  # in a process of own_process


@dataclass(frozen=True)
class Row:
    """One line of the table; a rate is higher-is-better, seconds are lower-is-better."""

    what: str
    ours: str
    peer: str = "-"
    ratio: str = "-"
    rounds: int = 1

    def __str__(self) -> str:
        return f"| {self.what} | {self.ours} | {self.peer} | {self.ratio} | {self.rounds} |"


def seconds(job: Callable[[], object]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def median_seconds(job: Callable[[], object], rounds: int = 5) -> float:
    """After one round to warm up."""
    job()
    return statistics.median(seconds(job) for _ in range(rounds))


def in_turn(ours: Callable[[], object], peer: Callable[[], object], rounds: int = 5) -> tuple[float, float, str]:
    """Median seconds of both, and the ratio peer/ours as its median and range over the rounds."""
    ours(), peer()
    pairs = [(seconds(ours), seconds(peer)) for _ in range(rounds)]
    ratios = sorted(theirs / own for own, theirs in pairs)
    own, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return own, theirs, f"{statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})"


@contextlib.contextmanager
def own_process(make: Callable[..., Callable[[], object]], *args: Any) -> Iterator[Callable[[], object]]:
    """The job that make(*args) gives, made and run in a process of its own.

    In the kit's it would have the allocator settings that the kit makes.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(_hold, make, *args).result()
        yield lambda: pool.submit(_run_held).result()


def _hold(make: Callable[..., Callable[[], object]], *args: Any) -> None:
    global held
    held = make(*args)


def _run_held() -> None:
    held()  # what it gives may not fit through the pipe


def table(folder: Path, groups: Iterable[str]) -> None:
    """Print the rows of each group, on demo data that is written to `folder`."""
    demo.write(folder, n_train=400, n_test=100, seed=0)
    loaded = tiles.load(folder, progress=False)
    print("\n| what | this kit | peer | ratio | rounds |\n|---|---|---|---|---|", flush=True)
    for group in groups:
        for row in importlib.import_module(f"tests.benchmarks.{group}").rows(loaded, folder):
            print(row, flush=True)


def hardware() -> str:
    """The processor's name as Linux knows it, its cores, and the GPU's name where there is one."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    gpu = f" with {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (names[0] if names else platform.processor()) + f", {cpus()} cores" + gpu


def versions(packages: Iterable[str] = PACKAGES) -> str:
    """Those of the packages that are installed: a peer is needed only beside it."""
    found = []
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join(found)
