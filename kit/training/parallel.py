"""Folds at once, on several GPUs or several on one: a process of its own for each (kit.training.worker).

This process holds the run's lock, deals out the folds and shows how they get on. What a fold's process prints comes
here, and between that lines behind MARK that say how many of its steps are done. It ends when this one does, however
that ends, because its standard input is then closed.
"""

import contextlib
import gc
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import pandas as pd
import torch
from fastai.learner import Learner
from tqdm import tqdm

import kit
from kit import cli
from kit.data.tiles import Tiles
from kit.machine import cpus
from kit.recipe import Recipe
from kit.runs import Run
from kit.training import fold as one
from kit.training import team
from kit.training.callbacks import StopRequest
from kit.training.command import Manner

NO_GPU = ""  # CUDA_VISIBLE_DEVICES of a process that trains on the CPU
MARK = "\x1e"  # ASCII's record separator
Failure = tuple[str, int, str]  # the fold's name, the exit code, why


def devices() -> list[str]:
    """For each GPU that this process sees, the CUDA_VISIBLE_DEVICES of a process that sees only that one."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


def at_once(folds: int, per_device: int = 1) -> int:
    """How many of so many folds are trained at a time: `per_device` on each GPU, or on the CPU if there is none."""
    if team.size() > 1:  # all GPUs are taken by each fold
        return 1
    return max(1, min(per_device * max(1, len(devices())), folds))


def places(count: int) -> list[str]:
    """Where so many folds are trained at a time: a CUDA_VISIBLE_DEVICES for each, the GPUs as evenly as can be."""
    return list(islice(cycle(devices() or [NO_GPU]), count))


def turns(folds: int) -> int:
    """How many folds are trained one after another where there are so many: what a time budget is divided by."""
    return -(-folds // at_once(folds))


@contextlib.contextmanager
def share_of_cores(number: int, count: int) -> Iterator[None]:
    """Keep this thread, and the processes that it starts, to the share `number` of `count` equal shares of the cores.

    As many loader processes and threads as there are cores, for each fold, would be in each other's way.
    """
    if count == 1 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[number::count] or cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def train_folds(
    run: Run,
    recipe: Recipe,
    tiles: Tiles,
    folds: pd.DataFrame,
    which: Sequence[int | None],
    data: Path,
    resume: str,
    manner: Manner,
    learner: Learner | None = None,
) -> bool:
    """kit.training.fold.train_folds on as many GPUs as there are: with one fold at a time it is just that, and in
    processes that take each step together as well.

    Else the run directory has to hold the recipe and the folds already. data: the folder of the tiles; resume: the
    flags that --resume goes on with. A fold that fails leaves the others alone; at the end one line names it, and the
    process exits with the code that the fold's had, or 1 where folds differ in that.
    """
    finished = run.finished_folds()
    todo = [fold for fold in which if fold not in finished]
    count = at_once(len(todo), manner.per_device)
    if count == 1:
        team.announce(team.Job(run.path.resolve(), which, data.resolve()))
        return one.train_folds(run, recipe, tiles, folds, which, manner.tensorboard, learner)
    gc.collect()  # what was made to check the recipe is in the way of the process on the first GPU
    torch.cuda.empty_cache()
    for fold in which:
        if fold in finished:
            print(f"fold {one.fold_name(fold)} is done already")
    chosen = places(count)
    alone = ", each on a GPU of its own" if len(set(chosen)) == count else ""
    print(f"{len(todo)} folds, {count} at a time{alone}", flush=True)
    options = [str(data), "tensorboard"] if manner.tensorboard else [str(data)]
    crew = Crew(run, options, chosen)
    failures = crew.train([one.fold_name(fold) for fold in todo])
    if crew.asked:
        return False
    if failures:
        reasons = "; ".join(f"fold {name} failed: {reason}" for name, _, reason in failures)
        codes = {code for _, code, _ in failures}
        cli.fail(f"{reasons}; {len(todo) - len(failures)} of {len(todo)} folds were trained: "
                 f"mend that, then go on with: python scripts/train.py {resume} --resume",
                 codes.pop() if len(codes) == 1 else 1)  # fmt: skip
    return True


class Crew(StopRequest):
    """The processes of a run's folds, one for each of `devices`. Ctrl-C and SIGTERM are handed on: save and stop.

    Those of a terminal reach only this process, as each of the others is a group of its own; so a fold is asked once.
    """

    def __init__(self, run: Run, options: list[str], devices: list[str]):
        super().__init__()
        self.run, self.options, self.devices = run, options, devices
        self.free = deque(range(len(devices)))
        self.processes: set[subprocess.Popen[str]] = set()

    def train(self, names: Sequence[str]) -> list[Failure]:
        """Train these folds, each in turn on the device that is free first, and give back those that failed."""
        with self.listening(), ThreadPoolExecutor(len(self.devices)) as threads:
            return [failure for failure in threads.map(self._train, names) if failure]

    def _handlers(self) -> dict[signal.Signals, Callable]:
        return super()._handlers() | {signal.SIGTSTP: self._pause}

    def _pause(self, number: int, frame) -> None:
        """Ctrl-Z reaches this process alone: the others stop with it, and go on with it."""
        self._send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)  # until SIGCONT
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        """Each process is a group with its loaders."""
        for process in tuple(self.processes):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.killpg(process.pid, number)

    def _receive(self, number: int, frame) -> None:
        again, self.signal = self.asked, number
        for process in tuple(self.processes):
            process.kill() if again else process.terminate()

    def _train(self, name: str) -> Failure | None:
        if self.asked:
            return None
        device = self.free.popleft()
        try:
            with self._start(name, device) as process:
                self.processes.add(process)
                if self.asked:  # just before it was among those that were told
                    process.terminate()
                last = _show(name, device, process.stdout or ())
                code = process.wait()
                self.processes.discard(process)
        finally:
            self.free.append(device)
        if code == 0 or self.asked:
            return None
        if code < 0:
            return name, 1, f"killed by {signal.Signals(-code).name}"
        return name, code, last.removeprefix("error: ")

    def _start(self, name: str, device: int) -> subprocess.Popen[str]:
        own = {"CUDA_VISIBLE_DEVICES": self.devices[device], "PYTHONPATH": _path()}
        if self.devices[device] == NO_GPU:  # the cores may be a container's share of time, which no affinity divides
            own["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, cpus() // len(self.devices))))
        # -u: lines come when they are printed; -P: nothing in the user's folder is taken for a module
        options = ["-u", "-P", "-W", "ignore::FutureWarning"]  # which torch has for its developers
        command = [sys.executable, *options, "-m", "kit.training.worker", str(self.run.path), name, *self.options]
        with share_of_cores(device, len(self.devices)):
            return subprocess.Popen(
                command, env=os.environ | own, text=True, errors="replace", process_group=0,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip


def _path() -> str:
    """PYTHONPATH of a process that imports this kit, wherever it came from."""
    here = str(Path(kit.__file__).parents[1])
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])


def _show(name: str, position: int, lines: Iterable[str]) -> str:
    """Print what a fold's process says, each line with the fold; a bar on a terminal. Returns its last line."""
    bar, last = None, "it ended without a word"
    with contextlib.ExitStack() as stack:
        for line in lines:
            if line.startswith(MARK):
                done, total = map(int, line.removeprefix(MARK).split())
                if bar is None:
                    bar = tqdm(desc=f"fold {name}", total=total, initial=done, position=position, unit="step",
                               file=sys.stderr, disable=None, leave=False)  # fmt: skip
                    stack.callback(bar.close)
                bar.update(done - bar.n)
            elif line.strip():
                last = line.rstrip()
                tqdm.write(last if last.startswith("fold ") else f"fold {name}: {last}", file=sys.stdout)
                sys.stdout.flush()
    return last
