"""What a net says of tiles being empty, written beside its masks: out of fold, and of the test tiles."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from kit.inference.predict import predict
from kit.runs import Run, read_json
from kit.training import learner
from kit.training.fold import train_folds
from tests.small import easy_tiles, tiny_recipe

pytestmark = pytest.mark.slow

TILES = easy_tiles(24, 9)
RECIPE = tiny_recipe(
    *("data.folds=2", "net.decoder=salt", "salt.width=8", "salt.empty=0.3", "salt.gating=true"),
    *("stages.2.schedule=cosine", "stages.2.cycles=2", "stages.2.snapshots=2"),
)
FOLDS = learner.make_folds(RECIPE, TILES)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Predicted with one fold, then trained on the other too."""
    run = Run(tmp_path_factory.mktemp("runs") / "run")
    train_folds(run, RECIPE, TILES, FOLDS, [0])
    predict(run, RECIPE, TILES)
    assert np.load(run / "test_empty.npy").shape == (9,)
    train_folds(run, RECIPE, TILES, FOLDS, [1])
    return run


@pytest.fixture
def copy(run, tmp_path):
    return Run(shutil.copytree(run.path, tmp_path / "run"))


def by_hand(run: Run, fold: int, weights: str, images: np.ndarray) -> np.ndarray:
    """The mean over the fold's files of weights and both views, (n,), all tiles at once."""
    net, each = learner.make_net(RECIPE).eval(), []
    tiles = torch.from_numpy(np.array(images))
    for path in run.weights(fold, weights):
        net.load_state_dict(load_file(path))
        with torch.no_grad():
            each += [net.outputs(view).empty.sigmoid().numpy() for view in (tiles, tiles.flip(-1))]
    return np.mean(each, 0)


def test_out_of_fold_it_stands_in_the_order_of_the_masks(run):
    expected = np.full(len(TILES.train_ids), np.nan)
    for fold in (0, 1):
        rows = np.flatnonzero(FOLDS["fold"] == fold)
        used = read_json(run / "scores.json")["folds"][str(fold)]["weights"]
        expected[rows] = by_hand(run, fold, used, TILES.train_images[rows])
        np.testing.assert_allclose(np.load(run.fold(fold) / "empty.npy"), expected[rows], atol=1e-3)
    assert np.ptp(expected) > 0.02  # tiles can be told apart
    ids = pd.read_csv(run / "oof_ids.csv", dtype=str)["id"]
    found = np.load(run / "oof_empty.npy")
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected[[list(TILES.train_ids).index(name) for name in ids]], atol=1e-3)


def test_a_fold_more_drops_that_of_the_test_tiles(run):
    assert not (run / "test_empty.npy").exists()


@pytest.mark.parametrize("weights", ["last", "snapshots"])
def test_of_the_test_tiles_it_is_the_mean_over_nets_views_and_folds(copy, weights):
    predict(copy, RECIPE, TILES, weights=weights)
    folds = [by_hand(copy, fold, weights, TILES.test_images) for fold in (0, 1)]
    for fold in (0, 1):
        np.testing.assert_allclose(np.load(copy.fold(fold) / "test_empty.npy"), folds[fold], atol=1e-3)
    found = np.load(copy / "test_empty.npy")
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, np.mean(folds, 0), atol=1e-3)


def test_a_fold_whose_file_is_gone_is_predicted_again(copy, capsys):
    predict(copy, RECIPE, TILES)
    (copy.fold(1) / "test_empty.npy").unlink()
    capsys.readouterr()
    predict(copy, RECIPE, TILES)
    assert ["already" in line for line in capsys.readouterr().out.splitlines()] == [True, False]
    assert (copy.fold(1) / "test_empty.npy").exists()
