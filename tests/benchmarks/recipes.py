"""What a training of each recipe costs on this machine: its real net's parameters, and the rate of its first stage.

The rows go into kit/recipes/measured.csv, which `train.py --list` and docs/recipes.md show. A net that a user trains
from pretrained weights is made from random ones, which cost the same.
"""

import argparse
import csv
import io
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, fields

import numpy as np
import pandas as pd

from kit import measured
from kit import recipe as recipes
from kit.errors import InputError
from kit.measured import EPOCH, Cost
from kit.nets.model import parameter_count
from kit.recipe import Recipe
from kit.runs import write_text
from kit.training.learner import make_learner
from tests.benchmarks.side import hardware, versions
from tests.benchmarks.training import training_steps
from tests.small import easy_tiles

TILES = 400  # half of them to train on: more than any batch
WARM_UP, FEWEST, MOST = 1, 2, 20  # steps
ENOUGH = 10.0  # seconds
PACKAGES = ("torch", "fastai", "timm")


def main(args: argparse.Namespace) -> None:
    """`scripts/benchmark.py recipes`. Raises InputError, before any is timed."""
    for name in args.names:
        if name not in recipes.names():
            raise InputError(f"no packaged recipe {name!r}: see train.py --list")
    print("\n| recipe | parameters | tiles/s |\n|---|---|---|", flush=True)
    for name in args.names or recipes.names():
        # a process each, so that none works in the memory that another left; it is not to warn of its libraries
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn, warnings.simplefilter, ("ignore", FutureWarning)) as pool:
            cost = pool.submit(measure, recipes.load(name).from_scratch()).result()
        merge([cost])
        print(f"| {name} | {cost.parameters:,} | {cost.tiles_per_second:g} |", flush=True)
    print(f"written: {measured.TABLE}")


def measure(recipe: Recipe) -> Cost:
    """The cost of training `recipe`, on tiles that are made for it."""
    tiles = easy_tiles(TILES)
    folds = pd.DataFrame({"id": tiles.train_ids, "fold": np.arange(TILES) % 2})
    learn = make_learner(recipe, tiles, 0, folds)
    rate = float(f"{steady_rate(training_steps(learn)):.3g}")
    seconds = float(f"{EPOCH / rate:.3g}")
    return Cost(recipe.name, parameter_count(learn.model), rate, seconds, hardware(), versions(PACKAGES))


def steady_rate(steps: Iterator[int]) -> float:
    """Tiles per second in the median of the steps that ENOUGH seconds hold; `steps` gives the tiles of each.

    FEWEST steps are timed at least, MOST at most, after WARM_UP.
    """
    rates: list[float] = []
    for _ in range(WARM_UP):
        next(steps)
    begun = time.perf_counter()
    while len(rates) < FEWEST or (len(rates) < MOST and time.perf_counter() - begun < ENOUGH):
        started = time.perf_counter()
        tiles = next(steps)
        rates.append(tiles / (time.perf_counter() - started))
    return statistics.median(rates)


def merge(costs: Iterable[Cost]) -> None:
    """Put these rows into the table, in the place of older ones; recipes that are gone leave it."""
    rows = measured.costs() | {cost.recipe: cost for cost in costs}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(item.name for item in fields(Cost))
    writer.writerows(astuple(rows[name]) for name in recipes.names() if name in rows)
    write_text(measured.TABLE, text.getvalue())
