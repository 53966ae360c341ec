"""Folds at a time: what is trained beside the one alone, and what the table says of it."""

import pytest

from kit import recipe as recipes
from kit.runs import Run, write_json, write_text
from tests.benchmarks import folds
from tests.small import TINY, tiny_recipe


@pytest.fixture
def asked(monkeypatch):
    """The flags of each training, by the run's name; a fold is the slower, the more there are."""
    seen = {}

    def run_of(folder, name, fold, flags):
        seen[name] = flags
        run = Run(folder / name)
        run.path.mkdir(parents=True)
        write_text(run / "recipe.toml", recipes.dumps(tiny_recipe().scaled(7)))
        entry = {"weights": "best", "tiles_per_second": 100 / (2 + fold)}
        scores = {str(number): entry for number in range(fold + 1)}
        write_json(run / "scores.json", {"folds": scores})
        return run

    monkeypatch.setattr(folds, "run_of", run_of)
    return seen


def test_folds_train_the_epochs_of_the_one_alone_and_their_rates_add_up(asked, tmp_path):
    table = folds.compare(tmp_path / "data", str(TINY), 2, 0, tmp_path / "out")
    assert table.splitlines()[2:] == ["| 1 | 50.0 | 1.00x |", "| 2 | 66.7 | 1.33x |", "| 3 | 75.0 | 1.50x |"]
    assert asked.keys() == {"alone", "2-at-a-time", "3-at-a-time"}  # the recipe has four folds
    assert "120s" in asked["alone"]
    flags = asked["3-at-a-time"]
    assert flags[flags.index("--fold") + 1] == "0,1,2"
    assert flags[flags.index("--per-device") + 1] == "3"
    assert recipes.load(flags[flags.index("--recipe") + 1]).epochs == pytest.approx(7)
