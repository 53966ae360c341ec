"""The chapter on the training: what is in it for which runs, and how runs differ."""

from dataclasses import replace

import pandas as pd
import pytest

from kit import recipe as recipes
from kit.errors import InputError
from kit.report.plates import Table
from kit.report.training_section import section
from kit.runs import Run, write_json, write_text
from tests.report.trained import trained

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    return trained(tmp_path / "one", recipes.load("demo"), folds=2)


def ensemble(path) -> Run:
    """As kit.inference.ensemble writes it: no folds of its own."""
    run = Run(path)
    write_text(run / "recipe.toml", recipes.dumps(recipes.Recipe(name="ensemble", source="mean of a, b")))
    write_json(run / "ensemble.json", {})
    write_json(run / "scores.json", {"folds": {}, "mean": 0.85})
    return run


def names(runs) -> list[str]:
    return [part.name for part in section(runs).parts]


def test_one_run_has_its_losses_scores_and_rates(run):
    assert names([run]) == ["one-loss", "one-score", "one-rate"]


def test_the_finders_curve_is_there_where_it_was_looked_for(run):
    curve = pd.DataFrame({"lr": [1e-4, 1e-3], "loss": [0.7, 0.6], "suggested": [False, True]})
    write_text(run / "lr_find.csv", curve.to_csv(index=False))
    assert names([run])[-1] == "one-lr-find"


def test_several_runs_stand_side_by_side_with_the_keys_that_differ(run, tmp_path):
    other = trained(tmp_path / "two", recipes.load("demo", ["net.stem=no-pool", "stages.0.lr=0.5"]))
    demo = recipes.load("demo")
    shorter = trained(tmp_path / "three", replace(demo, stages=demo.stages[:2]))
    parts = section([run, other, shorter, ensemble(tmp_path / "both")]).parts
    table = parts[0]
    assert isinstance(table, Table)
    rows = table.frame.set_index("key")
    assert rows.columns.tolist() == ["one", "two", "three", "both"]
    assert rows.loc["score out of fold", "both"] == "0.8500"
    assert rows.loc["folds"].tolist() == ["2", "1", "1", ""]
    assert rows.loc["ensemble"].tolist() == ["", "", "", "mean of a, b"]
    assert rows.loc["net.stem"].tolist() == ["own", "no-pool", "own", ""]
    assert rows.loc["stages.0.lr", ["one", "two"]].tolist() == ["0.0004", "0.5"]
    assert rows.loc["stages.2.epochs", "one"]
    assert rows.loc["stages.2.epochs", "three"] == ""
    assert "standard deviation over folds" in rows.index
    assert not {"name", "source", "data.augment", "stages.2.weight_decay", "stages.0.epochs"} & set(rows.index)
    assert [part.name for part in parts[1:]] == ["runs-scores", *(f"{name}-{what}" for name in ("one", "two", "three")
                                                                  for what in ("loss", "score", "rate"))]  # fmt: skip


def test_an_ensemble_alone_has_no_training_to_show(tmp_path):
    assert names([ensemble(tmp_path / "both")]) == []


def test_a_run_on_every_tile_has_no_validation_and_is_drawn_all_the_same(run):
    (run.fold(0) / "history.csv").rename(run.fold(1) / "history.csv")
    run.fold(1).rename(run.fold(None))
    path = run.fold(None) / "history.csv"
    table = pd.read_csv(path).assign(score=float("nan"), valid_loss=float("nan"), valid_accuracy=float("nan"))
    write_text(path, table.to_csv(index=False))
    assert names([run]) == ["one-loss", "one-score", "one-rate"]


COLUMNS = "epoch,stage,loss,tiles,train_loss,score"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "epoch,stage\n0,0\n",
        f"{COLUMNS}\n",
        f"{COLUMNS}\n0,first,bce,80,0.5,0.5\n",
        f"{COLUMNS}\n0.5,0,bce,80,0.5,0.5\n",
        f"{COLUMNS}\n0,0,bce,80,low,0.5\n",
        f"{COLUMNS}\n0,0,,80,0.5,0.5\n",
        f"{COLUMNS},valid_loss\n0,0,bce,80,0.5,0.5,low\n",
    ],
)
def test_a_damaged_history_is_named(run, content):
    path = run.fold(1) / "history.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"^{path} .*: restore or delete it"):
        section([run])


@pytest.mark.parametrize(
    "rows", ["0.1,0.7,False", "0.1,0.7,True\n0.2,0.7,True", "0.1,0.7,maybe", "0.1,low,True", "0.1,,True", "x,0.7,True"]
)
def test_a_damaged_learning_rate_finder_is_named(run, rows):
    (run / "lr_find.csv").write_text(f"lr,loss,suggested\n{rows}\n")
    with pytest.raises(InputError, match=rf"^{run / 'lr_find.csv'} is damaged"):
        section([run])


def test_a_fold_without_a_speed_is_told_without_one(run, tmp_path):
    write_json(run / "scores.json", {"folds": {"0": {"weights": "best", "score": 0.8}}, "mean": 0.8})
    table = section([run, trained(tmp_path / "two", recipes.load("demo"))]).parts[0]
    rows = table.frame.set_index("key")
    assert rows.loc["training, tiles/s"].tolist() == ["", "40.0"]


def test_a_history_of_another_recipe_is_named(run):
    recipe = recipes.load("demo")
    write_text(run / "recipe.toml", recipes.dumps(replace(recipe, stages=recipe.stages[:2])))
    with pytest.raises(InputError, match=r"fold_0/history.csv has a stage 3 .* restore one of them"):
        section([run])


def test_what_no_run_has_is_no_row(tmp_path):
    runs = [trained(tmp_path / name, recipes.load("demo", [f"seed={seed}"])) for seed, name in enumerate("ab")]
    table = section(runs).parts[0]
    assert isinstance(table, Table)
    assert table.frame["key"].tolist() == ["score out of fold", "folds", "training, tiles/s", "seed"]
