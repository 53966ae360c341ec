"""What a training of each recipe costs, as it was measured, and the list of recipes that shows it.

`python scripts/benchmark.py recipes` writes kit/recipes/measured.csv; it is read here without torch, so that the list
comes at once.
"""

import csv
from dataclasses import dataclass

from kit import recipe

TABLE = recipe.RECIPES / "measured.csv"
EPOCH = 3200  # tiles: four folds of five of the competition's 4,000


@dataclass(frozen=True)
class Cost:
    """A row of the table: the recipe's net, made from random weights, in training steps of its first stage.

    Augmentation, loss and optimiser are in the steps; validation and what is written between epochs are not.
    """

    recipe: str
    parameters: int
    tiles_per_second: float
    epoch_seconds: float  # of EPOCH tiles
    hardware: str
    versions: str


def costs() -> dict[str, Cost]:
    """Each recipe that was measured, by its name."""
    if not TABLE.exists():
        return {}
    with open(TABLE, newline="") as file:
        rows = [
            Cost(name, int(parameters), float(rate), float(seconds), hardware, versions)
            for name, parameters, rate, seconds, hardware, versions in list(csv.reader(file))[1:]
        ]
    return {row.recipe: row for row in rows}


def listing() -> str:
    """A line for each packaged recipe: name, its source's score (public / private), what it costs here, its source.

    "-" stands for what the source does not state and what was not measured; the last line says where "here" is.
    """
    measured = costs()
    lines = [_line("recipe", "published", "parameters", "an epoch", "source")]
    for name in recipe.names():
        loaded, cost = recipe.load(name), measured.get(name)
        numbers = (f"{cost.parameters / 1e6:.2f} M", _time(cost.epoch_seconds)) if cost else ("-", "-")
        lines.append(_line(name, loaded.published or "-", *numbers, loaded.source))
    places = " and ".join(sorted({cost.hardware for cost in measured.values()})) or "no machine yet"
    note = f"an epoch: the training steps of {EPOCH:,} tiles, measured on {places} by scripts/benchmark.py recipes"
    return "\n".join([*lines, note])


def _line(name: str, published: str, parameters: str, epoch: str, source: str) -> str:
    return f"{name:<24}{published:<16}{parameters:>10}{epoch:>10}  {source}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
