"""train.py --lr-find: a table, a picture and a suggestion for a run, new or there, and nothing is trained."""

import argparse
import os

import pandas as pd
import pytest

from kit.data import demo
from kit.data.tiles import load
from kit.errors import InputError
from kit.report.lr_find import find
from kit.report.training_section import section
from kit.runs import Run, find_run, write_text
from kit.training import command, learner
from tests.small import TINY

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's folder, where the finder takes few steps."""
    from kit.training import lr_finder

    demo.write(tmp_path / "data", n_train=40, n_test=8, seed=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lr_finder, "STEPS", 16)
    return tmp_path


def flags(**given) -> argparse.Namespace:
    none = dict.fromkeys([*command.RECIPE_FLAGS, "data", "fold", "run", "resume", "pretext", "tensorboard"])
    return argparse.Namespace(**{**none, "set": [], "per_device": 1, **given})


def test_a_new_name_gets_its_curve_and_is_still_free_for_a_training(home, capsys):
    find(flags(recipe=str(TINY), lr=1e-3, run="a"))
    assert sorted(os.listdir(home / "runs/a")) == [".lock", "lr_find.csv", "lr_find.png"]
    curve = pd.read_csv(home / "runs/a/lr_find.csv")
    (suggested,) = curve["lr"][curve["suggested"]]
    assert f"suggested: --lr {suggested:.1e} (the recipe has 1.0e-03)" in capsys.readouterr().out
    with pytest.raises(InputError, match="no run 'a'"):
        find_run("a")


def test_a_run_that_is_there_gets_one_with_resume(home):
    args = flags(recipe=str(TINY), run="a")
    recipe = command.recipe_of(args)
    tiles = load(home / "data")
    run = Run(home / "runs/a")
    write_text(run / "folds.csv", learner.make_folds(recipe, tiles).to_csv(index=False))
    command.record(run, "recipe.toml", recipe, tiles, home / "data", [0])
    with pytest.raises(InputError, match="add --resume"):
        find(args)
    with pytest.raises(InputError, match="leave out --recipe"):
        find(flags(recipe=str(TINY), run="a", resume=True))
    find(flags(run="a", resume=True))
    assert [part.name for part in section([run]).parts] == ["a-lr-find"]
