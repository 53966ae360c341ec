"""Several folds of a small net at a time on one device (--per-device): tiles per second of all, beside one alone.

The minutes fix the epochs of the one alone, and every fold beside others trains as many.
"""

import argparse
from pathlib import Path

from kit import cli
from kit import recipe as recipes
from kit.errors import InputError
from kit.runs import Run
from tests.benchmarks.trained import check_minutes, flags, run_of

AT_A_TIME = (2, 3, 5)


def main(args: argparse.Namespace) -> None:
    """`scripts/benchmark.py folds`. Raises InputError."""
    minutes = check_minutes(args.minutes, default=1)
    recipe = args.recipe or "cpu"
    folder = Path(args.out or f"runs/folds-{Path(recipe).stem}-{minutes:g}m-seed{args.seed}")
    print(compare(cli.data_dir(args.data), recipe, minutes, args.seed, folder))
    print(f"written: {folder}")


def compare(data: Path, recipe: str, minutes: float, seed: int, folder: Path) -> str:
    """Train what `folder` lacks, and give a table with a row for each number of folds. Raises InputError."""
    alone = run_of(folder, "alone", 0, [*flags(recipe, data, minutes, 0, seed), "--no-pretrained"])
    again = ["--recipe", str((alone / "recipe.toml").resolve()), "--data", str(data.resolve())]
    rates = {1: alone.scores()["folds"]["0"]["tiles_per_second"]}
    there = recipes.load(recipe).data.folds
    for count in (count for count in AT_A_TIME if count <= there):
        cut = Run(folder / "runs" / f"{count}-at-a-time")
        if cut.path.exists() and len(cut.finished_folds()) < count:
            raise InputError(f"{cut.path} was cut, and folds that go on may not do so together: delete it")
        chosen = ["--fold", ",".join(map(str, range(count))), "--per-device", str(count)]
        run = run_of(folder, f"{count}-at-a-time", count - 1, [*again, *chosen])
        rates[count] = sum(fold["tiles_per_second"] for fold in run.scores()["folds"].values())
    rows = [f"| {count} | {rate:.1f} | {rate / rates[1]:.2f}x |" for count, rate in rates.items()]
    return "\n".join(["| folds at a time | tiles/s together | beside one |", "|---|---|---|", *rows])
