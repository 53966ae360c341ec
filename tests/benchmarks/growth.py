"""How time and memory grow with the tiles: each script a user waits for, as a process, on demo data of several sizes.

As in the competition, two tiles in eleven have a mask. Seconds are those of the whole process, its start included;
memory is the most that it held at one time.
"""

import argparse
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kit.data import demo
from kit.errors import InputError
from kit.report import figures
from kit.runs import write_text
from tests.benchmarks.side import hardware

SIZES = (500, 2_000, 8_000, 22_000)
SCRIPTS = Path(__file__).parents[2] / "scripts"
# a small process starts the script: one that this one started would count this one's memory as its own
LAUNCHER = """import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)"""
# in the order in which one needs what the other wrote
STEPS = {
    "prepare": ["prepare.py"],
    "mosaic": ["mosaic.py"],
    "one epoch": ["train.py", "--recipe", "cpu", "--fold", "0", "--epochs", "1", "--run", "growth"],
    "predict": ["predict.py", "growth"],
    "decide": ["tune_threshold.py", "growth"],
}


def main(args: argparse.Namespace) -> None:
    """`scripts/benchmark.py growth`."""
    folder = Path(args.out or "runs/growth")
    table = measure(SIZES, STEPS)
    write_text(folder / "growth.csv", table.to_csv(index=False))
    figures.save(figures.growth(table, hardware()), folder / "growth.png")
    print(markdown(table))
    print(f"written: {folder}/growth.csv, growth.png")


def measure(sizes: Sequence[int], steps: dict[str, list[str]]) -> pd.DataFrame:
    """A row for each step and size, as it was measured: step, tiles, seconds, mib.

    `steps` are scripts with their arguments; the data are named by KIT_DATA. Raises InputError where one fails.
    """
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            n_train = max(4, round(size * 2 / 11))
            demo.write(Path(folder) / "data", n_train=n_train, n_test=size - n_train, seed=0)
            for step, command in steps.items():
                seconds, mib = _run(command, Path(folder))
                print(f"{size:>6,} tiles  {step:<9}  {seconds:7.1f} s  {mib:6,.0f} MiB", flush=True)
                rows.append({"step": step, "tiles": size, "seconds": round(seconds, 2), "mib": round(mib)})
    return pd.DataFrame(rows)


def _run(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Seconds and peak MiB of a script that runs in `folder`."""
    script, *arguments = command
    launched = [sys.executable, "-c", LAUNCHER, "peak", sys.executable, str(SCRIPTS / script), *arguments]
    environment = os.environ | {"KIT_DATA": str(folder / "data")}
    started = time.perf_counter()
    done = subprocess.run(launched, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise InputError(f"scripts/{script} failed: {done.stderr.strip()[-500:]}")
    unit = 1 if platform.system() == "Darwin" else 1024
    return seconds, int((folder / "peak").read_text()) * unit / 2**20


def exponent(table: pd.DataFrame, step: str, column: str = "seconds") -> float:
    """The power of the number of tiles with which `column` grew between the two largest sizes; 1 is linear."""
    first, last = table[table["step"] == step].sort_values("tiles").to_dict("records")[-2:]
    return math.log(last[column] / first[column]) / math.log(last["tiles"] / first["tiles"])


def markdown(table: pd.DataFrame) -> str:
    """A row for each step: seconds and MiB at each size, and how the seconds grew at last."""
    sizes = sorted(table["tiles"].unique())
    head = ["step", *(f"{size:,} tiles" for size in sizes), "seconds grow with"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for step in table["step"].unique():
        own = table[table["step"] == step].set_index("tiles")
        cells = [f"{own.loc[size, 'seconds']:.1f} s, {own.loc[size, 'mib']:,.0f} MiB" for size in sizes]
        lines.append(f"| {step} | {' | '.join(cells)} | tiles^{exponent(table, step):.2f} |")
    return "\n".join(lines)
