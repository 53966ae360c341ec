"""Test probabilities: every fold once, their mean, made again when what they were made from has changed."""

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from kit import recipe as recipes
from kit.data.rle import decode_many
from kit.errors import InputError
from kit.inference import command
from kit.inference import predict as predicting
from kit.inference.images import predict_images, read_folder
from kit.inference.predict import average, predict
from kit.leaderboard import submission
from kit.runs import Run, read_json, write_json, write_probabilities, write_text
from kit.scoring.decide import masks_of_test
from kit.training import fold as folding
from kit.training import learner
from tests.small import easy_tiles, tiny_recipe

TILES = easy_tiles(24, 9)
SETTINGS = (
    "data.folds=2",
    "snapshot_weights=exponential",
    *(f"stages.2.{setting}" for setting in ("schedule=cosine", "cycles=2", "snapshots=2")),
)


def test_the_mean_of_folds_in_chunks(tmp_path):
    generator = np.random.default_rng(0)
    arrays = [generator.random((1100, 5, 5)).astype(np.float16) for _ in range(3)]
    for number, array in enumerate(arrays):
        write_probabilities(tmp_path / f"{number}.npy", array.shape, [array[:700], array[700:]])
        np.testing.assert_array_equal(np.load(tmp_path / f"{number}.npy"), array)
    average([tmp_path / f"{number}.npy" for number in range(3)], tmp_path / "mean.npy")
    expected = np.mean([array.astype(np.float64) for array in arrays], axis=0)
    np.testing.assert_allclose(np.load(tmp_path / "mean.npy"), expected, atol=3e-4)  # half of float16's step near 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe, run = tiny_recipe(*SETTINGS), Run(tmp_path_factory.mktemp("runs") / "run")
    folding.train_folds(run, recipe, TILES, learner.make_folds(recipe, TILES), [0, 1])
    return run


@pytest.mark.slow
def test_predictions_go_on_with_the_next_fold_and_are_remade_when_stale(run, capsys, monkeypatch):
    recipe = tiny_recipe(*SETTINGS)
    predict(run, recipe, TILES)
    first = np.load(run / "test.npy")
    assert first.shape == (9, 101, 101)
    assert first.dtype == np.float16
    assert not list(run.path.rglob("*empty*"))  # the net has no head for it

    def made() -> list[str]:
        capsys.readouterr()
        predict(run, recipe, TILES)
        return ["already" if "already" in line else "made" for line in capsys.readouterr().out.splitlines()]

    assert made() == ["already", "already"]
    (run.fold(1) / "test.npy").unlink()  # cut in the second fold
    assert made() == ["already", "made"]
    os.truncate(run.fold(1) / "test.npy", 1000)
    assert made() == ["already", "made"]
    (run.fold(0) / "test.json").unlink()  # killed between the two files
    assert made() == ["made", "already"]
    np.testing.assert_array_equal(np.load(run / "test.npy"), first)
    predict(run, recipe, TILES, "none")
    assert not np.array_equal(np.load(run / "test.npy"), first)
    other = easy_tiles(24, 9, seed=1)
    predict(run, recipe, other)
    assert not np.array_equal(np.load(run / "test.npy"), first)


@pytest.mark.slow
def test_the_masks_of_a_run_become_its_submission(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predict(run, tiny_recipe(*SETTINGS), TILES)
    ids, masks = masks_of_test(run, TILES)
    path = submission.write_of_run("run", ids, masks, list(TILES.test_ids))
    submission.validate(path, list(TILES.test_ids))
    rows = [line.split(",") for line in path.read_text().split("\n")[1:-1]]
    expected = (np.load(run / "test.npy") > 0.5) & ~TILES.constant("test")[:, None, None]
    np.testing.assert_array_equal(decode_many([text for _, text in rows], (101, 101)), expected)


def by_hand(run: Run, files: list[Path], weights: list[float]) -> np.ndarray:
    """The weighted mean over files of weights of the two views' mean probability, all test tiles at once."""
    net = learner.make_net(tiny_recipe(*SETTINGS)).eval()
    images = torch.from_numpy(TILES.test_images)
    total = torch.zeros(images.shape)
    for path, weight in zip(files, weights, strict=True):
        net.load_state_dict(load_file(path))
        with torch.no_grad():
            total += weight * (net(images).sigmoid() + net(images.flip(-1)).sigmoid().flip(-1)) / 2
    return total.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["last", "averaged", "snapshots"])
def test_the_weights_asked_for_are_those_that_predict(run, weights, monkeypatch):
    monkeypatch.setattr(predicting, "CHUNK", 4)  # three chunks, each with every net
    read = []
    load = folding.checkpoint.load_weights
    monkeypatch.setattr(folding.checkpoint, "load_weights", lambda path, net: (read.append(path), load(path, net)))
    predict(run, tiny_recipe(*SETTINGS), TILES, weights=weights)
    folds = []
    for fold in (0, 1):
        files = run.weights(fold, weights)
        shares = 1.25 ** np.arange(len(files))  # the newest counts most, each older one 0.8 of the next
        folds.append(by_hand(run, files, list(shares / shares.sum()) if weights == "snapshots" else [1.0]))
    assert len(files) == (2 if weights == "snapshots" else 1)
    assert len(read) == (2 * 3 * 2 if weights == "snapshots" else 2)  # one alone is read once for all chunks
    np.testing.assert_allclose(np.load(run / "test.npy"), np.mean(folds, 0), atol=2e-3)


@pytest.mark.slow
def test_weights_that_a_fold_lacks_are_one_line(run):
    with pytest.raises(InputError, match=r"fold 0 of .* has no 'ema' weights: choose one of"):
        predict(run, tiny_recipe(*SETTINGS), TILES, weights="ema")


def write_pngs(folder: Path, images: np.ndarray, names: list[str]) -> Path:
    folder.mkdir()
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / name)
    return folder


@pytest.mark.slow
def test_loose_files_get_the_masks_of_the_same_tiles(run, tmp_path):
    names = [f"{number}.png" for number in (3, 10, 1, 2, 20, 4, 5, 6, 7)]
    folder = write_pngs(tmp_path / "mine", TILES.test_images, names)
    (folder / "readme.txt").write_text("no image")
    path = predict_images(run, tiny_recipe(*SETTINGS), folder)
    assert path == tmp_path / "mine_masks.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert list(table.columns) == ["id", "rle_mask"]
    assert list(table["id"]) == sorted(name[:-4] for name in names)
    predict(run, tiny_recipe(*SETTINGS), TILES)
    prob = np.load(run / "test.npy")[[names.index(f"{name}.png") for name in table["id"]]]
    masks = decode_many(list(table["rle_mask"]), (101, 101))
    sure = abs(prob.astype(float) - 0.5) > 2e-3  # float16 decides nearer ones
    np.testing.assert_array_equal(masks[sure], (prob > 0.5)[sure])


def test_a_folder_that_holds_no_tiles_is_one_line(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        read_folder(tmp_path / "absent")
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match=r"holds no \.png file"):
        read_folder(tmp_path)
    folder = write_pngs(tmp_path / "other", np.zeros((1, 128, 128), np.uint8), ["a.png"])
    with pytest.raises(InputError, match=r"a\.png has 128 x 128 pixels"):
        read_folder(folder)


def test_a_run_without_a_finished_fold_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no finished fold"):
        predict(Run(tmp_path), tiny_recipe(), TILES)


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, 1.5, -0.1])
def test_what_is_no_probability_is_named_by_its_id(run, value):
    """A NaN is below every threshold: unseen, it would be submitted as an empty mask."""
    predict(run, tiny_recipe(*SETTINGS), TILES)
    prob = np.load(run / "test.npy")
    prob[5, 3, 3] = value
    write_probabilities(run / "test.npy", prob.shape, [prob])
    with pytest.raises(InputError, match=f"id {TILES.test_ids[5]}: not a probability"):
        masks_of_test(run, TILES)


def arguments(**given) -> argparse.Namespace:
    """What scripts/predict.py parses when nothing else is given."""
    defaults = {"run": None, "vote": False, "images": None, "export": False, "tta": None, "weights": None, "data": "."}
    return argparse.Namespace(**defaults | given)


@pytest.mark.slow
def test_several_runs_are_predicted_and_become_one(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command.tile_files, "load", lambda path: TILES)
    members = [Run(shutil.copytree(run.path, f"runs/{name}")) for name in "ab"]
    recipe = tiny_recipe(*SETTINGS)
    for member in members:
        write_text(member / "recipe.toml", recipes.dumps(recipe))
        write_json(member / "environment.json", {"data": ".", "fingerprint": TILES.fingerprint, "folds": [0, 1]})
        write_text(member / "folds.csv", learner.make_folds(recipe, TILES).to_csv(index=False))
        (member / "test.npy").unlink(missing_ok=True)
    command.predict_runs(members, arguments(run="both"))
    both = Run("runs/both")
    np.testing.assert_array_equal(np.load(both / "test.npy"), np.load(members[0] / "test.npy"))
    np.testing.assert_array_equal(
        np.load(both / "oof.npy")[0], np.load(members[0] / "oof.npy")[order(both, members[0])]
    )
    assert "next: python scripts/tune_threshold.py both" in capsys.readouterr().out
    # an ensemble is a member with what it has; its own runs are not asked for
    command.predict_runs([both, members[0]], arguments(run="more", vote=True))
    assert read_json("runs/more/ensemble.json")["method"] == "vote"


def order(run: Run, member: Run) -> int:
    """Where the first tile of a run stands in another."""
    first, ids = (pd.read_csv(each / "oof_ids.csv", dtype=str)["id"] for each in (run, member))
    return list(ids).index(first[0])


@pytest.mark.parametrize(
    ("count", "given", "message"),
    [
        (2, {}, "give it a name with --run"),
        (1, {"run": "both"}, "name several runs"),
        (1, {"vote": True}, "name several runs"),
        (1, {"images": "mine", "run": "both"}, "no --images"),
        (2, {"images": "mine"}, "--images takes one run"),
        (2, {"export": True}, "--export takes one run"),
        (1, {"export": True, "images": "mine"}, "give one of them"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(count, given, message):
    with pytest.raises(InputError, match=message):
        command.predict_runs([Run(f"runs/{number}") for number in range(count)], arguments(**given))
