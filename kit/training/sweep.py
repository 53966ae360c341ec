"""What scripts/sweep.py does: trainings become tasks of a Ray cluster, and what each has reached comes home as it goes.

A task is scripts/train.py in a folder of its own on whichever machine is free. Its checkpoints are sent to the Keeper,
on the machine that began the sweep, so that another machine can go on where a lost one was.
"""

import argparse
import ctypes
import logging
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from kit import cli, runs
from kit import recipe as recipes
from kit.errors import InputError
from kit.recipe import Recipe
from kit.training.command import NOT_BESIDE_OTHERS, check_per_device, folds_of

ROOT = Path(__file__).parents[2]
LOOK = 2.0  # seconds between two looks for a new checkpoint
# read before the other files of a run and written after them, so that these are never older than what they say
MARKS = ("resume.pt", "scores.json")
COLUMNS = ["run", "recipe", "seed", "fold", "score", "epochs", "seconds", "tiles_per_second", "machine", "error"]


@dataclass(frozen=True)
class Task:
    """One training: a recipe with its seed, on one fold, with further flags of scripts/train.py."""

    name: str  # of the run
    recipe: Recipe
    fold: int
    flags: tuple[str, ...]

    def command(self, resume: bool) -> list[str]:
        """What scripts/train.py is given, in a folder with recipe.toml."""
        if resume:
            return ["--run", self.name, "--resume"]
        return ["--run", self.name, "--recipe", "recipe.toml", "--fold", str(self.fold), *self.flags]

    def order(self) -> str:
        """What the run is known by: the same name with another order is another sweep's."""
        return "\n".join([recipes.dumps(self.recipe), *self.command(resume=False)])


def tasks_of(args: argparse.Namespace) -> list[Task]:
    """The trainings that the flags of scripts/sweep.py ask for. Raises InputError, before anything is started."""
    if not find_spec("ray"):
        raise InputError("a sweep needs Ray: pip install 'ray>=2.40'")
    if not (ROOT / "scripts" / "train.py").exists():
        raise InputError("a sweep sends the scripts along, which the installed package lacks: run it from a clone")
    check_per_device(args.per_device)
    tries = [flag for flag in args.flags if flag.startswith("--time-budget") or flag in ("auto", "--bs=auto")]
    if args.per_device > 1 and tries:
        raise InputError(NOT_BESIDE_OTHERS)
    try:
        seeds = [int(seed) for seed in args.seed.split(",")]
    except ValueError:
        raise InputError(f"--seed {args.seed!r} is not understood: give 0, or 0,1") from None
    tasks = []
    for name in args.recipe.split(","):
        recipe = recipes.load(name)
        for seed in seeds:
            for fold in folds_of(args.fold, recipe.data.folds):
                if fold is None:
                    raise InputError("--fold none has no score to compare: give folds, such as 0,1 or all")
                run = f"{args.name}-{recipe.name}-s{seed}-f{fold}"
                data = ("--data", str(cli.data_dir(args.data).resolve()))
                tasks.append(Task(run, replace(recipe, seed=seed), fold, (*data, *args.flags)))
    for task in tasks:
        _check_run(task)
    return tasks


def _check_run(task: Task) -> None:
    """Raises InputError where the run is there and is not of this sweep."""
    order = Path("runs") / task.name / "order.txt"
    if not order.exists():
        runs.new_run(task.name)
    elif order.read_text() != task.order():
        raise InputError(f"{order.parent} is of another sweep, its recipe or flags differ: choose another --name")


def table_of(name: str) -> Path:
    return Path("runs") / f"{name}.sweep.csv"


def run(tasks: list[Task], args: argparse.Namespace) -> pd.DataFrame:
    """Train what is not trained yet, print how it goes, write the table after each and return it, (tasks, COLUMNS)."""
    import ray

    rows = {task.name: _row(task) for task in tasks}
    _join(args.address)
    try:
        keeper, share = _keeper(), _share(args.per_device)
        waiting = {}
        for task in tasks:
            if rows[task.name]["score"] is None:
                runs.write_text(Path("runs") / task.name / "order.txt", task.order())
                # a lost machine is no fault of the task's: it is tried again as long as there are machines
                reference = ray.remote(train).options(max_retries=-1, **share).remote(task, keeper)
                waiting[reference] = task
        print(f"{len(waiting)} of {len(tasks)} trainings to do, {_machines()}", flush=True)
        while waiting:
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            task = waiting.pop(ended)
            rows[task.name] = _row(task, *ray.get(ended))
            table = pd.DataFrame(rows.values(), columns=COLUMNS)
            runs.write_text(table_of(args.name), table.to_csv(index=False))
            print(_line(rows[task.name]), flush=True)
    finally:
        ray.shutdown()
    table = pd.DataFrame(rows.values(), columns=COLUMNS)
    runs.write_text(table_of(args.name), table.to_csv(index=False))
    return table


def in_words(table: pd.DataFrame) -> str:
    """The mean out-of-fold score of each recipe over its seeds and folds, best first."""
    found = table.dropna(subset="score").groupby("recipe")["score"].agg(["mean", "std", "count"])
    lines = [f"{'recipe':<24}  {'score':>6}  {'std':>6}  trainings"]
    for name, row in found.sort_values("mean", ascending=False).iterrows():
        lines.append(f"{name:<24}  {row['mean']:6.4f}  {row['std']:6.4f}  {row['count']:.0f}")
    return "\n".join(lines)


def check(table: pd.DataFrame) -> None:
    """Raises InputError where a training failed."""
    failed = table[table["error"] != ""]
    if len(failed):
        raise InputError(f"{len(failed)} trainings failed ({', '.join(failed['run'])}): mend what the lines above say, "
                         "then the same command again")  # fmt: skip


def train(task: Task, keeper: Any) -> tuple[str, str]:
    """On a machine of the cluster: start or go on with a run; returns the machine's name, and an error or ""."""
    import platform

    import ray

    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        home = Path(folder)
        run = home / "runs" / task.name
        write(run, ray.get(keeper.held.remote(task.name)))
        runs.write_text(home / "recipe.toml", recipes.dumps(task.recipe))
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), *task.command((run / runs.RECIPE).exists())]
        with open(home / "log.txt", "w+") as log:
            process = subprocess.Popen(command, cwd=home, stdout=log, stderr=log, preexec_fn=_die_with_parent)
            sent: dict[str, float] = {}
            while not _ended(process):
                _send(keeper, task.name, run, sent)
            _send(keeper, task.name, run, sent, last=True)
            log.seek(0)
            lines = log.read().splitlines()
        return platform.node(), "" if process.returncode == 0 else (lines or ["killed without a word"])[-1]


class Keeper:
    """On the machine that began the sweep: writes what the tasks send into runs/, and gives it to those that go on."""

    def __init__(self, root: str):
        self.root = Path(root)

    def held(self, name: str) -> dict[str, bytes]:
        return dict(read(self.root / name))

    def keep(self, name: str, files: dict[str, bytes], gone: set[str]) -> None:
        write(self.root / name, files)
        for path in gone:
            (self.root / name / path).unlink(missing_ok=True)


def read(run: Path) -> Iterator[tuple[str, bytes]]:
    """The files of a run with their paths in it, marks first."""
    for path in _in_order(run.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield str(path.relative_to(run)), path.read_bytes()


def write(run: Path, files: dict[str, bytes]) -> None:
    """Write files of a run, each whole or not at all, marks last."""
    for path in reversed(_in_order(run / name for name in files)):
        path.parent.mkdir(parents=True, exist_ok=True)
        runs.write_bytes(path, files[str(path.relative_to(run))])


def _in_order(paths: Any) -> list[Path]:
    return sorted(paths, key=lambda path: (path.name not in MARKS, path))


def _send(keeper: Any, name: str, run: Path, sent: dict[str, float], last: bool = False) -> None:
    """Send what is new since the last time, if there is a checkpoint; `sent`, path -> mtime, is brought up to date."""
    import ray

    now = {str(path.relative_to(run)): path.stat().st_mtime for path in _in_order(run.rglob("*"))
           if path.is_file() and not path.name.startswith(".")}  # fmt: skip
    marks = {path: when for path, when in now.items() if Path(path).name in MARKS}
    if not last and all(sent.get(path) == when for path, when in marks.items()):
        return
    files = {path: content for path, content in read(run) if sent.get(path) != now.get(path)}
    ray.get(keeper.keep.remote(name, files, sent.keys() - now))
    sent.clear()
    sent.update(now)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process ends within LOOK seconds."""
    try:
        process.wait(LOOK)
    except subprocess.TimeoutExpired:
        return False
    return True


def _die_with_parent() -> None:
    """A training must end with the task that started it, or two machines would go on with one run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _join(address: str | None) -> None:
    import ray

    shipped = {"working_dir": str(ROOT), "excludes": ["/data", "/runs", "/submissions", "/.venv", "/.git", "/tests"]}
    try:
        ray.init(address=address or "local", runtime_env=shipped, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        raise InputError(f"no Ray cluster answers at --address {address}: start one with `ray start --head`") from None


def _keeper() -> Any:
    """The Keeper, on this machine: only here is its disk the one that the results belong to."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    root = str(Path("runs").resolve())
    return ray.remote(Keeper).options(num_cpus=0, scheduling_strategy=here).remote(root)


def _share(per_device: int) -> dict[str, float]:
    """What a training takes of its machine: that part of a GPU, or of the smallest machine where there is none.

    Ray takes a task that waits for an answer for idle and lends its cores, but not its memory, to another: so much of
    that keeps one more away.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    on_gpus = [machine for machine in machines if machine.get("GPU")]
    cores = min([machine["CPU"] // machine["GPU"] for machine in on_gpus] or [machine["CPU"] for machine in machines])
    own = {"num_cpus": cores // per_device or cores / per_device}
    if on_gpus:
        return own | {"num_gpus": 1 / per_device}
    return own | {"memory": 1.02 * min(machine["memory"] for machine in machines) / (per_device + 1)}


def _machines() -> str:
    import ray

    resources = ray.cluster_resources()
    return f"on {resources.get('CPU', 0):.0f} cores and {resources.get('GPU', 0):.0f} GPUs"


def _row(task: Task, machine: str = "", error: str = "") -> dict[str, Any]:
    """A line of the table: what the run's scores.json says, or that there is none."""
    path = Path("runs") / task.name / "scores.json"
    fold = runs.read_json(path)["folds"].get(str(task.fold), {}) if path.exists() else {}
    figures = {name: fold.get(name) for name in ("score", "epochs", "seconds", "tiles_per_second")}
    known = {"run": task.name, "recipe": task.recipe.name, "seed": task.recipe.seed, "fold": task.fold}
    return known | figures | {"machine": machine, "error": error}


def _line(row: dict[str, Any]) -> str:
    result = row["error"] or f"score {row['score']:.4f}, {row['epochs']} epochs in {row['seconds']:.0f} s"
    return f"{row['run']}: {result} ({row['machine']})"
