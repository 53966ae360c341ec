"""What a finished fold is left with: snapshots of the right epochs, candidates scored, nets to predict with."""

import os
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from safetensors.torch import load_file

from kit.errors import InputError
from kit.nets.tta import predictions
from kit.runs import Run, read_json
from kit.scoring.metric import average_precision
from kit.training import checkpoint, fold, learner
from kit.training.fold import load_nets, train_folds
from tests.small import easy_tiles, tiny_recipe

pytestmark = pytest.mark.slow

TILES = easy_tiles(32, 4)
CYCLES = tiny_recipe(
    *("snapshot_weights=exponential", "stages.2.average=false", "stages.2.schedule=cosine"),
    *("stages.2.epochs=4.5", "stages.2.cycles=3", "stages.2.snapshots=2", "stages.2.lr=0.01"),
)


class Seen(Callback):
    """The weights at the end of each epoch."""

    order = 100

    def __init__(self):
        self.weights = []

    def after_epoch(self) -> None:
        self.weights.append({key: tensor.clone() for key, tensor in self.learn.model.state_dict().items()})


def train(path, recipe, callback):
    run = Run(path)
    table = learner.make_folds(recipe, TILES)
    learn = learner.make_learner(recipe, TILES, 0, table)
    learn.add_cb(callback)
    run.path.mkdir()
    assert train_folds(run, recipe, TILES, table, [0], learner=learn)
    return run


@pytest.fixture(scope="module")
def seen():
    return Seen()


@pytest.fixture(scope="module")
def run(tmp_path_factory, seen):
    return train(tmp_path_factory.mktemp("runs") / "run", CYCLES, seen)


def assert_snapshots(run, epochs, seen):
    assert [path.name for path in run.weights(0, "snapshots")] == [f"{epoch:04d}.safetensors" for epoch in epochs]
    for epoch, path in zip(epochs, run.weights(0, "snapshots"), strict=True):
        own = load_file(path)
        assert all(torch.equal(own[key], tensor) for key, tensor in seen.weights[epoch].items())


def test_snapshots_are_the_ends_of_the_last_cycles(run, seen):
    """4 steps an epoch, cycles of 6 steps: each is a whole and a half epoch, behind three epochs of other stages."""
    assert_snapshots(run, [6, 8], seen)
    history = pd.read_csv(run.fold(0) / "history.csv")
    assert list(history["tiles"][-6:]) == [24, 12] * 3


def test_without_cycles_they_are_the_last_best_epochs(tmp_path):
    scores = [0.3, 0.5, 0.4, 0.6, 0.6, 0.7, 0.1]

    class Scores(Callback):
        order = 55

        def after_epoch(self) -> None:
            self.learn.final_record[2] = scores[self.learn.epoch]

    recipe = tiny_recipe("stages.2.epochs=7", "stages.2.snapshots=3", "stages.2.average=false")
    recipe, seen = replace(recipe, stages=recipe.stages[2:]), Seen()
    learn = learner.make_learner(recipe, TILES, 0)
    learn.add_cbs([Scores(), seen])
    state = learner.fit(learn, recipe, tmp_path / "run" / "fold_0", resume=False)
    assert state.snapshots == [1, 3, 5]
    assert_snapshots(Run(tmp_path / "run"), [1, 3, 5], seen)


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [("constant", "none of its epochs had a new best score"), ("cosine", "it ended within its first cycle")],
)
def test_a_fold_whose_last_stage_kept_no_snapshots_says_why(tmp_path, capsys, schedule, reason):
    """The very first epoch is perfect: none after it is better, and the last stage stops early."""

    class Scores(Callback):
        order = 55

        def after_epoch(self) -> None:
            self.learn.final_record[2] = 0.5 if self.learn.dls.train.epoch else 1.0

    stages = tiny_recipe("stages.0.epochs=1", "stages.2.average=false", "stages.2.epochs=4").stages
    last = replace(stages[2], schedule=schedule, snapshots=2, stop=1)
    run = train(tmp_path / "run", replace(tiny_recipe(), stages=(stages[0], last)), Scores())
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "no snapshots" in line]
    assert line.startswith("fold 0: the last stage kept no snapshots: ")
    assert reason in line
    assert not run.weights(0, "snapshots")


def test_the_average_that_taught_an_earlier_stage_is_not_left(tmp_path):
    recipe = tiny_recipe("stages.0.epochs=1", "stages.0.ema=0.9", "stages.0.consistency=mean-teacher")
    run = train(tmp_path / "run", replace(recipe, stages=recipe.stages[:2]), Seen())
    assert read_json(run / "scores.json")["folds"]["0"]["candidates"].keys() == {"last", "best"}
    assert not (run.fold(0) / "averaged.safetensors").exists()


def test_lost_files_are_made_again_or_asked_for(run, tmp_path, capsys):
    own = Run(shutil.copytree(run.path, tmp_path / "run"))
    again = partial(train_folds, own, CYCLES, TILES, learner.make_folds(CYCLES, TILES), [0])
    expected = {name: (own / name).read_bytes() for name in ("oof.npy", "oof_ids.csv")}
    for lost in (["oof.npy"], ["oof_ids.csv"], ["oof.npy", "oof_ids.csv"]):
        for name in lost:
            (own / name).unlink()
        assert again()
        assert capsys.readouterr().out.splitlines() == [
            "fold 0 is done already",
            f"put together again: {own / 'oof.npy'}",
        ]
        assert {name: (own / name).read_bytes() for name in expected} == expected
    os.truncate(own / "oof.npy", 1000)
    assert again()
    assert (own / "oof.npy").read_bytes() == expected["oof.npy"]
    (own / "oof.npy").unlink()
    (own.fold(0) / "valid.npy").write_bytes(b"")
    with pytest.raises(InputError, match="delete the fold's folder and train it again"):
        again()
    before = {path: path.read_bytes() for path in own.fold(0).rglob("*.safetensors")}
    (own / "scores.json").write_text("{")
    with pytest.raises(InputError, match=r"scores\.json is not valid JSON .*: restore it$"):
        again()
    (own / "scores.json").unlink()
    with pytest.raises(InputError, match=r"fold_0 was trained to its end, but .*scores\.json does not say so"):
        again()
    with pytest.raises(InputError, match="fold_0 was trained to its end"):  # though another one is asked for
        train_folds(own, CYCLES, TILES, learner.make_folds(CYCLES, TILES), [1])
    assert {path: path.read_bytes() for path in own.fold(0).rglob("*.safetensors")} == before


def prob_of(*args):
    return np.concatenate([part.prob for part in predictions(*args)])


@pytest.mark.parametrize(("settings", "best_is_last"), [((), True), (("stages.2.lr=1e-1",), False)])
def test_the_score_of_each_of_the_weights_is_that_of_its_own_predictions(tmp_path, settings, best_is_last):
    recipe = tiny_recipe(*settings)
    run = train(tmp_path / "run", recipe, Seen())
    rows, net = np.flatnonzero(learner.make_folds(recipe, TILES)["fold"] == 0), learner.make_net(recipe)
    candidates = read_json(run / "scores.json")["folds"]["0"]["candidates"]
    assert list(candidates) == ["averaged", "last", "best"]
    for name, score in candidates.items():
        checkpoint.load_weights(run.fold(0) / f"{name}.safetensors", net)
        prob = prob_of(net, TILES.train_images[rows], "none")
        assert score == pytest.approx(average_precision(prob > 0.5, TILES.masks[rows]).mean(), abs=1e-5), name
    assert (candidates["last"] == candidates["best"]) == best_is_last


def test_snapshots_predict_their_weighted_mean(run):
    """The newer of two snapshots counts 1 / 1.8 with weights that fall to 0.8; the fold's tiles are scored on it."""
    table = learner.make_folds(CYCLES, TILES)
    rows = np.flatnonzero(table["fold"] == 0)
    net, each = learner.make_net(CYCLES), []
    for path in run.weights(0, "snapshots"):
        checkpoint.load_weights(path, net)
        each.append(prob_of(net, TILES.train_images[rows], "none"))
    expected = (0.8 * each[0] + each[1]) / 1.8
    score = average_precision(expected > 0.5, TILES.masks[rows]).mean()
    assert read_json(run / "scores.json")["folds"]["0"]["candidates"]["snapshots"] == pytest.approx(score, abs=1e-5)
    mean, nets = 0, set()
    for weight, loaded in load_nets(run, CYCLES, 0, "snapshots")():
        mean = mean + weight * prob_of(loaded, TILES.train_images[rows], "none")
        nets.add(id(loaded))
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    assert len(nets) == 1  # one net in memory, whatever their number


def test_chosen_snapshots_make_the_folds_own_predictions(tmp_path, monkeypatch):
    monkeypatch.setattr(fold, "_choose", lambda scores: "snapshots")
    run = train(tmp_path / "run", replace(CYCLES, tta="none", snapshot_weights="mean"), Seen())
    rows = np.flatnonzero(learner.make_folds(CYCLES, TILES)["fold"] == 0)
    net, each = learner.make_net(CYCLES), []
    for path in run.weights(0, "snapshots"):
        checkpoint.load_weights(path, net)
        each.append(prob_of(net, TILES.train_images[rows], "none"))
    np.testing.assert_allclose(np.load(run / "oof.npy").astype(np.float32), np.mean(each, 0), atol=1e-3)
    assert run.finished_folds() == [0]
    assert sum(1 for _ in load_nets(run, CYCLES, 0)()) == 2
    for path in run.weights(0, "snapshots"):
        path.unlink()
    assert run.finished_folds() == []
    with pytest.raises(InputError, match="is empty"):
        load_nets(run, CYCLES, 0)()


def test_a_tie_goes_to_the_average_of_the_most():
    assert fold._choose({"averaged": None, "snapshots": None, "last": None}) == "averaged"
    assert fold._choose({"snapshots": None, "last": None}) == "snapshots"
    assert fold._choose({"averaged": 0.5, "snapshots": 0.6, "last": 0.6, "best": 0.6}) == "snapshots"
    assert fold._choose({"averaged": 0.5, "last": 0.5, "best": 0.7}) == "best"


def test_weights_that_a_fold_does_not_have_are_one_line(run):
    with pytest.raises(
        InputError, match=r"fold 0 of .* has no 'averaged' weights: choose one of snapshots, last, best"
    ):
        load_nets(run, CYCLES, 0, "averaged")()


def test_heads_and_depth_are_trained_and_predicted(tmp_path):
    """The parts of a recipe that change what a batch and an output are, through a whole fold."""
    recipe = tiny_recipe(
        *("net.decoder=salt", "salt.width=8", "salt.deep=0.1", "salt.empty=0.1", "salt.nonempty=0.5"),
        *("salt.gating=true", "data.channels=grey+depth+y", "stages.0.normalise=true"),
    )
    run = train(tmp_path / "run", recipe, Seen())
    history = pd.read_csv(run.fold(0) / "history.csv")
    assert np.isfinite(history["train_loss"]).all()
    ((_, net),) = load_nets(run, recipe, 0)()
    rows = np.flatnonzero(learner.make_folds(recipe, TILES)["fold"] == 0)
    depth = TILES.relative_depth("train")[rows]
    prob = prob_of(net, TILES.train_images[rows], "hflip", depth)
    np.testing.assert_allclose(np.load(run / "oof.npy").astype(np.float32), prob, atol=1e-3)
