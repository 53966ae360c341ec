"""Rounds of labels: the gain against its formula, what is no round of a training, and one command that can be cut."""

import json
import runpy
import shutil
import sys
from argparse import Namespace
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kit import recipe as recipes
from kit.errors import InputError
from kit.inference import predict as predicting
from kit.inference import pseudo, rounds
from kit.runs import Run, read_json, write_json, write_probabilities, write_text
from kit.scoring.metric import average_precision
from kit.training import command
from kit.training import pseudo as labels
from tests.inference.labelled import FOLDS, MIX, TILES, answers, made
from tests.processes import ROOT
from tests.small import TINY, tiny_recipe

pytestmark = pytest.mark.usefixtures("home")


def test_the_gain_of_a_round_is_on_the_tiles_that_both_have():
    rng = np.random.default_rng(0)
    runs = [made("a"), made("b")]
    probs = [
        np.where(rng.random((40, 1, 1)) < share, TILES.masks, ~TILES.masks).astype(np.float16) for share in (0.3, 1)
    ]
    order = rng.permutation(40)[:35]
    for run, prob, rows in zip(runs, probs, (np.arange(40), order), strict=True):
        write_probabilities(run / "oof.npy", prob[rows].shape, [prob[rows]])
        write_text(run / "oof_ids.csv", pd.DataFrame({"id": TILES.train_ids[rows]}).to_csv(index=False))
    found = rounds.gain(*runs, TILES)
    each = [average_precision(prob[order] > 0.5, TILES.masks[order]) for prob in probs]
    assert found["before"] == pytest.approx(each[0].mean(), abs=1e-5)
    assert found["after"] == 1
    assert found["gain"] == pytest.approx(1 - each[0].mean(), abs=2e-5)
    half_width = 1.96 * (each[1] - each[0]).std() / 35**0.5  # the normal approximation of the same interval
    assert found["high"] - found["low"] == pytest.approx(2 * half_width, rel=0.2)
    (runs[0] / "oof.npy").unlink()
    assert rounds.gain(*runs, TILES) == {}


class Trains(BaseException):
    """The first training would begin now."""


@pytest.fixture
def begin(monkeypatch):
    """Call scripts/train.py's work up to the moment when the first training begins."""

    def train(args):
        raise Trains

    monkeypatch.setattr(rounds.command, "train", train)
    monkeypatch.setattr(rounds.tile_files, "load", lambda data: TILES)
    return lambda **flags: rounds.train(Namespace(run="it", data=None, **flags))


def iterated(*settings: str) -> tuple[Run, list[Run]]:
    """A run and its two rounds, as if they had been trained."""
    first, recipe = made("it"), tiny_recipe("stages.0.pseudo=mix", *settings)
    write_text(first / "recipe.toml", recipes.dumps(replace(recipe, iterate=2)))
    runs = [first]
    for number in (1, 2):
        pseudo.label(runs[-1:], TILES, [0], pseudo.Options(confidence=0.3))
        run, own = made(f"it-round{number}", number), replace(recipe, pseudo_run=str(runs[-1].path))
        write_text(run / "recipe.toml", recipes.dumps(own))
        record = labels.load(own, TILES, 0, TILES.train_ids[FOLDS == 0].tolist()).record
        write_json(run / "fold_0/pseudo.json", record)
        runs.append(run)
    return first, runs[1:]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("settings", [(), ("time_budget=900s a fold",)])
def test_rounds_of_this_training_go_on(begin, settings):
    first, (one, _) = iterated(*settings)
    if settings:  # a budget gives a round of more tiles fewer epochs
        edit(one / "recipe.toml", "epochs = 1.5", "epochs = 0.8")
    with pytest.raises(Trains):
        begin(resume=True)
    shutil.rmtree(one / "fold_0")  # cut before it began: nothing was learnt from any labels
    shutil.rmtree(first / "pseudo")
    shutil.rmtree(Path("runs/it-round2"))
    with pytest.raises(Trains):
        begin(resume=True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda: edit(Path("runs/it/recipe.toml"), "seed = 0", "seed = 1"), "it-round1 .*its recipe differs"),
        (lambda: edit(Path("runs/it-round2/recipe.toml"), "lr = 0.002", "lr = 0.003"), "it-round2 .*its recipe"),
        (lambda: edit(Path("runs/it-round2/recipe.toml"), "epochs = 1.5", "epochs = 3.0"), "it-round2 .*its recipe"),
        (lambda: edit(Path("runs/it-round1/recipe.toml"), "runs/it", "runs/other"), "those of runs/other, not of runs"),
        (
            lambda: edit(Path("runs/it/folds.csv"), f"{TILES.train_ids[5]},1", f"{TILES.train_ids[5]},2"),
            "it-round1 .*its folds.csv differs",
        ),
        (lambda: edit(Path("runs/it-round1/environment.json"), TILES.fingerprint, "x"), "other data"),
        (lambda: shutil.rmtree("runs/it/pseudo"), "it-round1 .*runs/it/pseudo/fold_0, which it .* is not there"),
        (lambda: shutil.rmtree("runs/it-round1"), "it-round2 .*runs/it-round1/pseudo/fold_0, which .* is not there"),
        (
            lambda: pseudo.label([Run("runs/it-round1")], TILES, [0], pseudo.Options(confidence=0.5)),
            "it-round2 .*other labels than those in runs/it-round1/pseudo/fold_0",
        ),
    ],
)
def test_what_is_no_round_of_this_training_is_refused_before_it_begins(begin, spoil, words):
    iterated()
    spoil()
    with pytest.raises(InputError, match=words) as caught:
        begin(resume=True)
    assert "\n" not in str(caught.value)


def test_a_new_training_is_refused_where_a_round_of_its_name_is_there(begin):
    args = dict.fromkeys(command.RECIPE_FLAGS) | {"resume": False, "recipe": str(TINY)}
    with pytest.raises(Trains):
        begin(**args | {"set": ["stages.0.pseudo=mix", "iterate=2"]})
    Path("runs/it-round2").mkdir(parents=True)
    with pytest.raises(InputError, match="runs/it-round2 is of an earlier training"):
        begin(**args | {"set": ["stages.0.pseudo=mix", "iterate=2"]})
    with pytest.raises(Trains):
        begin(**args | {"set": ["stages.0.pseudo=mix", "iterate=1"]})
    made("it")
    with pytest.raises(InputError, match="runs/it exists already: add --resume"):
        begin(**args | {"set": ["stages.0.pseudo=mix", "iterate=2"]})


def stop(*args):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("where", "what", "left"),
    [
        ("kit.training.fold.train_folds", lambda *args: False, SystemExit),
        ("kit.training.fold.train_folds", stop, SystemExit),
        ("kit.inference.rounds._label", stop, KeyboardInterrupt),
    ],
)
def test_an_interrupted_round_says_once_how_all_go_on(begin, monkeypatch, capsys, where, what, left):
    first, _ = iterated()
    monkeypatch.setattr(rounds.command, "train", lambda args: first)
    monkeypatch.setattr(where, what)
    with pytest.raises(left):
        begin(resume=True, tensorboard=False, per_device=1)
    out, err = capsys.readouterr()
    assert (out + err).count("go on with") == (out + err).count("--run it --resume") == 1


def test_a_net_that_is_unsure_is_labelled_by_hand_and_then_goes_on(monkeypatch):
    monkeypatch.setattr(predicting, "predict", lambda *args: None)
    first = made("it")
    prob = np.zeros((30, 101, 101))
    prob[:, 60:] = 0.5  # six tenths are decided
    write_probabilities(first.fold(0) / "test.npy", prob.shape, [prob])
    with pytest.raises(InputError) as caught:
        rounds._label(first, first, TILES, [0])
    assert str(caught.value) == (
        "0 test tiles have a confidence of 0.9 in fold 0, the surest has 0.59: python scripts/pseudo_label.py it "
        "--confidence 0.5, then python scripts/train.py --run it --resume"
    )


@pytest.mark.slow
def test_rounds_in_one_command_go_on_where_they_were_cut(home, demo_data, monkeypatch):
    """In this process, so that it can be cut; the truth takes the place of predictions, which come from one epoch."""
    arguments = ["--data", str(demo_data), "--epochs", "1", "--fold", "0", "--run", "a", "--set", "iterate=2", *MIX]
    trained, again, predict = [], rounds.command.start, predicting.predict

    def predict_well(run, *args):
        predict(run, *args)
        truth = answers(demo_data)[1]
        write_probabilities(run.fold(0) / "test.npy", truth.shape, [truth])

    def cut_in_the_second_round(run, *args):
        if run.name == "a-round2":
            raise KeyboardInterrupt
        trained.append(run.name)
        again(run, *args)

    def train(*flags: str) -> None:
        monkeypatch.setattr("sys.argv", [str(ROOT / "scripts" / "train.py"), *flags])
        runpy.run_path(sys.argv[0])["main"]()

    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setattr(predicting, "predict", predict_well)
    with monkeypatch.context() as patch:
        patch.setattr(rounds.command, "start", cut_in_the_second_round)
        with pytest.raises(KeyboardInterrupt):
            train("--recipe", str(TINY), *arguments)
    assert trained == ["a", "a-round1"]
    assert len(json.loads((home / "runs/a/rounds.json").read_text())) == 1
    before = (home / "runs/a-round1/fold_0/last.safetensors").stat().st_mtime_ns
    train("--run", "a", "--resume")
    assert (home / "runs/a-round1/fold_0/last.safetensors").stat().st_mtime_ns == before
    rows = json.loads((home / "runs/a/rounds.json").read_text())
    assert [row["run"] for row in rows] == ["runs/a-round1", "runs/a-round2"]
    assert [row["labels_of"] for row in rows] == ["runs/a", "runs/a-round1"]
    scores = [read_json(home / f"runs/{name}/scores.json")["mean"] for name in ("a", "a-round1", "a-round2")]
    for row, (old, new) in zip(rows, pairwise(scores), strict=True):
        assert (row["before"], row["after"]) == (old, new)
    assert set(read_json(home / "runs/a-round2/fold_0/pseudo.json")["models"]) == {"runs/a-round1/fold_0"}
    folds = [(home / f"runs/{name}/folds.csv").read_text() for name in ("a", "a-round1", "a-round2")]
    assert folds[0] == folds[1] == folds[2]
