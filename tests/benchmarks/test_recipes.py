"""What a recipe costs: rates of steps of known length, rows that are merged, the net that is counted."""

import argparse
import time

import pytest

from kit import measured
from kit import recipe as recipe_files
from kit.errors import InputError
from kit.measured import Cost
from kit.training.learner import make_net
from tests.benchmarks import recipes
from tests.small import tiny_recipe


def test_the_rate_is_the_median_without_the_first_step(monkeypatch):
    monkeypatch.setattr(recipes, "MOST", 5)

    def steps():
        for seconds in (0.5, 0.05, 0.05, 0.2, 0.05, 0.05):  # a start and a hiccup
            time.sleep(seconds)
            yield 8

    assert recipes.steady_rate(steps()) == pytest.approx(8 / 0.05, rel=0.1)


def test_slow_steps_are_few(monkeypatch):
    monkeypatch.setattr(recipes, "ENOUGH", 0.01)
    taken = []

    def steps():
        while True:
            time.sleep(0.02)
            taken.append(4)
            yield 4

    recipes.steady_rate(steps())
    assert len(taken) == recipes.WARM_UP + recipes.FEWEST


def test_a_row_takes_the_place_of_its_older_one(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "TABLE", tmp_path / "measured.csv")
    rows = [Cost(name, 10, 2.0, 1600.0, "a CPU, 2 cores", "torch 9") for name in ("cpu", "gone", "baseline")]
    recipes.merge(rows)
    newer = Cost("cpu", 11, 4.0, 800.0, 'a "better" CPU', "torch 10")
    recipes.merge([newer])
    assert list(measured.costs().items()) == [("baseline", rows[2]), ("cpu", newer)]
    assert list(tmp_path.iterdir()) == [tmp_path / "measured.csv"]


def test_an_unknown_recipe_is_refused_before_any_is_timed(monkeypatch):
    monkeypatch.setattr(recipes, "ProcessPoolExecutor", None)
    with pytest.raises(InputError, match="'cup'"):
        recipes.main(argparse.Namespace(names=["cpu", "cup"]))


@pytest.mark.slow
def test_the_real_net_is_timed(monkeypatch):
    monkeypatch.setattr(recipes, "ENOUGH", 0.1)
    cost = recipes.measure(tiny_recipe())
    net = make_net(tiny_recipe())
    assert cost.parameters == sum(p.numel() for p in net.parameters())
    assert cost.epoch_seconds == pytest.approx(3200 / cost.tiles_per_second, rel=0.01)
    assert cost.recipe == "tiny"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(measured.costs()))
def test_the_packaged_table_counts_todays_nets(name):
    net = make_net(recipe_files.load(name).from_scratch())
    assert measured.costs()[name].parameters == sum(p.numel() for p in net.parameters())
