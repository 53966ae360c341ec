"""The course of a training as it is drawn, read back; its rates against the schedules and the history's own column."""

import numpy as np
import pandas as pd
import pytest

from kit import recipe as recipes
from kit.report import figures, rates
from kit.runs import Run
from kit.training.schedules import SCHEDULES, Position, plan
from tests.report.drawn import assert_readable, words
from tests.report.trained import history_of

pytestmark = pytest.mark.slow

DEMO = recipes.load("demo")
FIVE = {f"fold {k}": history_of(DEMO, 80, k) for k in range(5)}
ONE = {"fold 0": FIVE["fold 0"]}
ALL_TILES = {"fold none": FIVE["fold 0"].assign(valid_loss=np.nan, score=np.nan, valid_accuracy=np.nan)}
OLD = {"fold 0": FIVE["fold 0"].drop(columns=["train_score", "train_accuracy", "valid_accuracy"])}
FIRST_EPOCH = {"fold 0": FIVE["fold 0"][:1]}
CURVE = pd.DataFrame({"lr": [1e-5, 1e-3, 1e-1], "loss": [0.7, 0.5, 9.0], "suggested": [False, True, False]})


def lines(axes, column: str) -> list[list[list[float]]]:
    return [line.get_xydata().tolist() for line in axes.lines if line.get_label().endswith(column)]


def test_each_fold_has_its_losses_in_the_panel_of_its_loss():
    figure = figures.losses(FIVE)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(dict.fromkeys(DEMO_LOSSES))
    for axes, loss in zip(figure.axes, dict.fromkeys(DEMO_LOSSES), strict=True):
        for column in ("train_loss", "valid_loss"):
            own = [table[table["loss"] == loss] for table in FIVE.values()]
            assert lines(axes, column) == [list(map(list, zip(t["epoch"] + 1.0, t[column], strict=True))) for t in own]
    assert all(f"fold {k}" in words(figure) for k in range(5))


DEMO_LOSSES = [stage.loss for stage in DEMO.stages]


def test_scores_and_accuracies_have_a_panel_each_with_the_stages_parted():
    figure = figures.scores(ONE)
    score, accuracy = figure.axes
    table = ONE["fold 0"]
    assert [y for _, y in lines(score, " score")[0]] == table["score"].tolist()
    assert [y for _, y in lines(score, "train_score")[0]] == table["train_score"].tolist()
    assert [y for _, y in lines(accuracy, "train_accuracy")[0]] == table["train_accuracy"].tolist()
    ends = table.groupby("stage")["epoch"].max()[:-1] + 1.5
    assert [line.get_xdata()[0] for line in score.lines if line.get_linestyle() == ":"] == ends.tolist()


@pytest.mark.parametrize(("histories", "drawn"), [(OLD, ["score"]), (ALL_TILES, ["train_score", "train_accuracy"])])
def test_what_a_history_lacks_is_left_out(histories, drawn):
    figure = figures.scores(histories)
    labels = [line.get_label() for axes in figure.axes for line in axes.lines if line.get_label().startswith("fold")]
    assert [label.rpartition(" ")[2] for label in labels] == drawn
    assert ("training tiles" in words(figure)) == ("train_score" in drawn)
    assert ("validation tiles" in words(figure)) == ("score" in drawn)


VARIED = recipes.load(
    "demo",
    ["stages.0.epochs=0.5", "stages.1.schedule=cosine", "stages.1.cycles=3", "stages.1.epochs=4", "stages.1.pseudo=mix",
     "stages.2.schedule=plateau", "stages.2.epochs=9", "stages.2.patience=1", "pseudo_run=x"],
)  # fmt: skip
SHORT_CYCLES = recipes.load("demo", ["stages.1.schedule=poly", "stages.1.cycles=4", "stages.1.epochs=2"])


@pytest.mark.parametrize(
    "recipe", [DEMO, VARIED, SHORT_CYCLES, *map(recipes.load, ("baseline", "cpu", "resnext50-1st"))]
)
@pytest.mark.parametrize("n_tiles", [3, 83])
def test_the_rate_of_every_step_follows_from_recipe_and_history_alone(recipe, n_tiles):
    """Against the plan, which knows how many tiles there are, and the history's own rates of epochs' last steps."""
    history = history_of(recipe, n_tiles)
    table = rates.by_step(recipe, history)
    epochs = plan(recipe, n_tiles)
    assert table.groupby("epoch").size().tolist() == [epoch.steps for epoch in epochs]
    np.testing.assert_allclose(table.groupby("epoch")["lr"].last(), history["lr"], rtol=1e-12)
    first = [
        SCHEDULES[recipe.stages[epoch.stage].schedule](
            recipe.stages[epoch.stage], Position(epoch.first_step, epoch.cycle_steps)
        ).lr
        for epoch in epochs
        if recipe.stages[epoch.stage].schedule != "plateau"
    ]
    stages = [recipe.stages[stage].schedule != "plateau" for stage in table.groupby("epoch")["stage"].first()]
    np.testing.assert_allclose(table.groupby("epoch")["lr"].first()[stages], first, rtol=1e-12)


def test_a_stage_that_ended_early_has_the_rates_of_what_it_did():
    history = history_of(DEMO, 80)
    kept = history[(history["stage"] != 1) | (history["epoch"] < history["epoch"][history["stage"] == 1].max())]
    table = rates.by_step(DEMO, kept)
    np.testing.assert_allclose(table.groupby("epoch")["lr"].last(), kept["lr"], rtol=1e-12)
    assert table["step"].tolist() == list(range(1, len(table) + 1))


def test_snapshots_and_averages_are_marked_at_the_ends_of_their_epochs(tmp_path):
    run, recipe = Run(tmp_path), recipes.load("demo", ["stages.2.average=true"])
    (tmp_path / "fold_0" / "snapshots").mkdir(parents=True)
    (tmp_path / "fold_0" / "snapshots" / "0001.safetensors").touch()
    history = history_of(recipe, 80)
    table = rates.by_step(recipe, history)
    marks = rates.events(run, 0, recipe, table)
    ends = (history["tiles"] / [recipe.stages[stage].bs for stage in history["stage"]]).cumsum()
    assert marks["snapshot kept"] == [(ends[1], pytest.approx(history["lr"][1]))]
    last = history["stage"] == 2
    assert [step for step, _ in marks["weights averaged (SWA)"]] == ends[last].tolist()
    figure = figures.learning_rates({"0": table}, ["first", "second", "third"], marks)
    drawn = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    np.testing.assert_allclose(drawn["snapshot kept"], marks["snapshot kept"])
    np.testing.assert_allclose(drawn["second"], table.loc[table["stage"] == 1, ["step", "lr"]])


def test_the_finders_curve_marks_the_suggestion_and_the_recipes_rate():
    (axes,) = figures.loss_against_rate(CURVE, 2e-3).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn["suggested: 1.0e-03"] == [[1e-3, 0.5]]
    assert [x for x, _ in drawn["the recipe's: 2.0e-03"]] == [2e-3] * 2
    assert axes.get_ylim()[1] < 1  # what diverged does not flatten the rest


def test_every_run_is_in_the_legend_by_its_name_whatever_it_is():
    figure = figures.scores_of_runs({"_old": list(FIVE.values())[:2], "a_$x^$": list(FIVE.values())[2:3]})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["_old", "a_$x^$"]
    assert_readable(figure)


RATES = {"0": rates.by_step(DEMO, FIVE["fold 0"])}
LONG = "a-name-" * 14
DRAWN = {
    **{
        f"losses, {name}": lambda h=h: figures.losses(h)
        for name, h in (("five", FIVE), ("old", OLD), ("all", ALL_TILES), ("first", FIRST_EPOCH))
    },
    **{
        f"scores, {name}": lambda h=h: figures.scores(h)
        for name, h in (("five", FIVE), ("old", OLD), ("all", ALL_TILES), ("first", FIRST_EPOCH))
    },
    "rates": lambda: figures.learning_rates(RATES, [rates.in_words(*pair) for pair in enumerate(DEMO.stages)], {}),
    "finder": lambda: figures.loss_against_rate(CURVE, 2e-3),
    "runs": lambda: figures.scores_of_runs({LONG + str(k): list(FIVE.values())[k:] for k in range(4)}),
}


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_is_cut_off(name):
    assert_readable(DRAWN[name]())
