"""Rounds of labels: the gain against its formula, what is no round of a training, and one command that can be cut."""

import json
import runpy
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from kit.inference import predict as predicting
from kit.inference import rounds
from kit.runs import read_json, write_probabilities, write_text
from kit.scoring.metric import average_precision
from tests.inference.labelled import MIX, TILES, answers, made
from tests.small import TINY
from tests.test_scripts import ROOT

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
    rows = read_json(home / "runs/a/rounds.json")
    assert [row["run"] for row in rows] == ["runs/a-round1", "runs/a-round2"]
    assert [row["labels_of"] for row in rows] == ["runs/a", "runs/a-round1"]
    scores = [read_json(home / f"runs/{name}/scores.json")["mean"] for name in ("a", "a-round1", "a-round2")]
    for row, (old, new) in zip(rows, pairwise(scores), strict=True):
        assert (row["before"], row["after"]) == (old, new)
    assert set(read_json(home / "runs/a-round2/fold_0/pseudo.json")["models"]) == {"runs/a-round1/fold_0"}
    folds = [(home / f"runs/{name}/folds.csv").read_text() for name in ("a", "a-round1", "a-round2")]
    assert folds[0] == folds[1] == folds[2]
