"""A training that was cut ends bit for bit where an uninterrupted one ends, wherever the cut was."""

import os
import shutil
import signal
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from safetensors.torch import load_file

from kit.errors import InputError
from kit.runs import Run, read_json
from kit.training import checkpoint, fold, learner
from kit.training.fold import train_folds
from kit.training.loaders import make_loaders
from kit.training.schedules import plan
from tests.small import easy_tiles, tiny_recipe

pytestmark = pytest.mark.slow

TILES = easy_tiles(32, 4)


class Killed(BaseException):
    """Nothing in the kit may catch this: as sudden as SIGKILL."""


class KillAt(Callback):
    """End the process, so to speak, before or after a given training step of the whole fold."""

    order = 100

    def __init__(self, step: int, event: str):
        self.left, self.event = step, event

    def _die_at(self, event: str) -> None:
        if self.training and event == self.event:
            self.left -= 1
            if self.left < 0:
                raise Killed

    def before_batch(self) -> None:
        self._die_at("before_batch")

    def after_step(self) -> None:
        self._die_at("after_step")


def ask_at(step: int) -> Callback:
    """Ask the process to save and stop after a given number of training steps."""

    class AskAt(Callback):
        order, seen = 60, 0

        def after_batch(self) -> None:
            AskAt.seen += self.training
            if self.training and AskAt.seen == step:
                os.kill(os.getpid(), signal.SIGTERM)

    return AskAt()


def train(path, recipe, callback=None) -> Run:
    run = Run(path)
    run.path.mkdir(exist_ok=True)
    folds = learner.make_folds(recipe, TILES)
    learn = learner.make_learner(recipe, TILES, 0, folds)
    if callback:
        learn.add_cb(callback)
    train_folds(run, recipe, TILES, folds, [0], learner=learn)
    return run


def killed_and_resumed(path, recipe, step: int, event: str) -> Run:
    with pytest.raises(Killed):
        train(path, recipe, KillAt(step, event))
    return train(path, recipe)


def stopped_and_resumed(path, recipe, step: int) -> Run:
    run = train(path, recipe, ask_at(step))
    assert not (run / "scores.json").exists()
    return train(run.path, recipe)


def weights(run: Run) -> dict[str, torch.Tensor]:
    files = {path.relative_to(run.path): load_file(path) for path in run.path.rglob("*.safetensors")}
    return {f"{path}: {key}": tensor for path, tensors in files.items() for key, tensor in tensors.items()}


def assert_equal(run: Run, reference: Run) -> None:
    own, others = weights(run), weights(reference)
    assert own.keys() == others.keys()
    assert [key for key in own if not torch.equal(own[key], others[key])] == []
    np.testing.assert_array_equal(np.load(run / "oof.npy"), np.load(reference / "oof.npy"))
    histories = [pd.read_csv(each.fold(0) / "history.csv").drop(columns="seconds") for each in (run, reference)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    entries = [read_json(each / "scores.json")["folds"]["0"] for each in (run, reference)]
    for entry in entries:
        del entry["seconds"], entry["tiles_per_second"]
    assert entries[0] == entries[1]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return train(tmp_path_factory.mktemp("reference") / "run", tiny_recipe())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(reference, tmp_path):
    assert_equal(train(tmp_path / "again", tiny_recipe()), reference)
    other = train(tmp_path / "other", tiny_recipe("seed=1"))
    assert not all(torch.equal(own, weights(reference)[key]) for key, own in weights(other).items())


# 24 training tiles: stages of 6 (bs 5, 4 an epoch), 4 and 8 steps (bs 6)
@pytest.mark.parametrize(
    ("step", "event"),
    [(0, "before_batch"), (5, "after_step"), (7, "after_step"), (11, "before_batch"), (16, "after_step")],
)
def test_killed_anywhere_it_ends_where_it_would_have(reference, tmp_path, step, event):
    assert_equal(killed_and_resumed(tmp_path / "run", tiny_recipe(), step, event), reference)


# DynamicUnet; EMA in every stage; gradients normalised, an early end, RMSprop; cosine cycles that end in mid-epoch,
# with snapshots
VARIED = tiny_recipe(
    "net.decoder=dynamic",
    *(f"stages.{number}.ema=0.9" for number in range(3)),
    *("stages.1.optimiser=rmsprop", "stages.1.normalise=true", "stages.1.epochs=6"),
    *("stages.1.monitor=train_loss", "stages.1.mode=max", "stages.1.stop=2"),
    *("stages.2.average=false", "stages.2.schedule=cosine", "stages.2.epochs=3", "stages.2.cycles=2"),
    *("stages.2.snapshots=2", "stages.2.lr_min=1e-4", "data.channels=grey+depth+y", "data.sampling=coverage"),
)


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    return train(tmp_path_factory.mktemp("varied") / "run", VARIED)


def test_every_part_of_the_varied_training_was_there(varied):
    history = pd.read_csv(varied.fold(0) / "history.csv")
    epochs = history.groupby("stage")["epoch"].agg(["count", "max"])
    assert 3 <= epochs["count"][1] < 6  # the early end, and numbers that go on behind what was left out
    assert list(history["epoch"][history["stage"] == 2]) == [8, 9, 10, 11]
    assert {path.name for path in varied.weights(0, "snapshots")} == {"0009.safetensors", "0011.safetensors"}
    assert read_json(varied / "scores.json")["folds"]["0"]["candidates"].keys() == {
        "averaged",
        "snapshots",
        "last",
        "best",
    }


# 6 steps, then 12 or more, then the last 12: before and after the early end, within and at the end of a cycle
@pytest.mark.parametrize(("step", "event"), [(3, "after_step"), (25, "before_batch")])
def test_killed_in_averages_and_snapshots_it_ends_where_it_would_have(varied, tmp_path, step, event):
    assert_equal(killed_and_resumed(tmp_path / "run", VARIED, step, event), varied)


def test_asked_to_stop_in_averages_and_snapshots_it_goes_on(varied, tmp_path):
    assert_equal(stopped_and_resumed(tmp_path / "run", VARIED, 27), varied)


# a mean teacher; two nets; these go on with their optimiser, an average and snapshots; dropout and random padding
ON_UNLABELLED = tiny_recipe(
    *("stages.0.consistency=mean-teacher", "stages.0.ema=0.9", "stages.0.epochs=2"),
    *("stages.1.consistency=co-training", "stages.1.optimiser=adamw", "stages.1.epochs=2"),
    *("stages.2.consistency=co-training", "stages.2.average=false", "stages.2.ema=0.8", "stages.2.schedule=cosine"),
    *("stages.2.cycles=2", "stages.2.snapshots=2", "stages.2.loss=0.3*bce + 0.7*lovasz_elu"),
    *("data.channels=grey+depth+y", "data.fit=pad-random", "data.size=112", "data.augment=heng"),
    *("salt.dropout=0.3", "salt.deep=0.1", "salt.empty=0.05", "salt.gating=true"),
)


@pytest.fixture(scope="module")
def on_unlabelled(tmp_path_factory):
    return train(tmp_path_factory.mktemp("unlabelled") / "run", ON_UNLABELLED)


# 8 steps in batches of 5, then 8 and 8 in batches of 6
@pytest.mark.parametrize(("step", "event"), [(8, "before_batch"), (21, "after_step")])
def test_killed_while_unlabelled_tiles_teach_it_ends_where_it_would_have(on_unlabelled, tmp_path, step, event):
    assert_equal(killed_and_resumed(tmp_path / "run", ON_UNLABELLED, step, event), on_unlabelled)


def test_asked_to_stop_while_unlabelled_tiles_teach_it_goes_on(on_unlabelled, tmp_path):
    run = stopped_and_resumed(tmp_path / "run", ON_UNLABELLED, 18)
    assert_equal(run, on_unlabelled)
    assert pd.read_csv(run.fold(0) / "history.csv")["consistency"].notna().all()


# mirror, affine map, contrast and blur of whole batches
IN_BATCHES = tiny_recipe(
    *("data.augment=default", "data.sampling=coverage", "data.channels=grey+depth"),
    *("stages.0.epochs=1", "stages.1.epochs=0.5", "stages.2.epochs=0.5"),
)


def test_with_the_tiles_on_the_device_a_cut_training_ends_where_it_would_have(tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "make_loaders", partial(make_loaders, resident=True))
    assert learner.make_learner(IN_BATCHES, TILES, 0).dls.train.dataset.resident
    whole = train(tmp_path / "whole", IN_BATCHES)
    assert_equal(stopped_and_resumed(tmp_path / "run", IN_BATCHES, 3), whole)  # of 4, 2 and 2 steps


def test_asked_to_stop_while_validating_it_validates_again(reference, tmp_path):
    class AskInValidation(Callback):
        order, seen = 60, 0

        def after_batch(self) -> None:
            AskInValidation.seen += not self.training
            if not self.training and AskInValidation.seen == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    run = train(tmp_path / "run", tiny_recipe(), AskInValidation())
    state, _ = checkpoint.load_resume(run.fold(0) / "resume.pt", "cpu")
    assert state.step == plan(tiny_recipe(), 24)[state.epoch].steps
    assert_equal(train(run.path, tiny_recipe()), reference)


@pytest.mark.parametrize("step", [1, 16])
def test_asked_to_stop_it_saves_in_mid_epoch_and_goes_on(reference, tmp_path, step):
    run = train(tmp_path / "run", tiny_recipe(), ask_at(step))
    assert not (run / "scores.json").exists()
    state, _ = checkpoint.load_resume(run.fold(0) / "resume.pt", "cpu")
    before = [epoch for epoch in plan(tiny_recipe(), 24) if epoch.number < state.epoch]
    assert sum(epoch.steps for epoch in before) + state.step == step
    assert_equal(train(run.path, tiny_recipe()), reference)


def test_a_resume_file_from_before_the_running_score_is_gone_on_with(reference, tmp_path):
    run = train(tmp_path / "run", tiny_recipe(), ask_at(5))
    path = run.fold(0) / "resume.pt"
    content = torch.load(path, weights_only=True)
    assert content.pop("counts").tolist()[0] == 5  # one batch of the epoch under way
    for row in content["rows"]:
        for key in ("train_score", "train_accuracy", "valid_accuracy"):
            del row[key]
    torch.save(content, path)
    runs = (train(run.path, tiny_recipe()), reference)
    own, others = (pd.read_csv(each.fold(0) / "history.csv").drop(columns="seconds") for each in runs)
    assert own["train_score"].isna().tolist() == [True] + [False] * (len(own) - 1)
    pd.testing.assert_frame_equal(own[own.columns[:8]], others[own.columns[:8]], check_exact=True)
    assert others.notna().all(axis=None)


def test_killed_while_finishing_it_finishes(reference, tmp_path, monkeypatch):
    def killed(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fold, "_record", killed)
        with pytest.raises(Killed):
            train(tmp_path / "run", tiny_recipe())
    run = train(tmp_path / "run", tiny_recipe())
    assert_equal(run, reference)
    assert not (run.fold(0) / "resume.pt").exists()


def test_a_loss_that_is_no_number_keeps_the_last_good_state(tmp_path):
    class Poison(Callback):
        seen = 0

        def before_batch(self) -> None:
            Poison.seen += self.training
            if Poison.seen == 9:
                with torch.no_grad():
                    next(self.learn.model.parameters()).fill_(torch.nan)

    with pytest.raises(InputError, match=r"^the loss is no longer a number.*last good state"):
        train(tmp_path / "run", tiny_recipe(), Poison())
    state, saved = checkpoint.load_resume(tmp_path / "run" / "fold_0" / "resume.pt", "cpu")
    assert state.rows
    assert all(torch.isfinite(tensor).all() for tensor in saved["net"].values())


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    """The last step of an epoch spoils the weights: its own loss, taken before the step, is still a number."""

    class Spoil(Callback):
        order, seen = 100, 0

        def after_step(self) -> None:
            Spoil.seen += 1
            if Spoil.seen == 6:
                with torch.no_grad():
                    next(self.learn.model.parameters()).fill_(torch.nan)

    with pytest.raises(InputError, match=r"^weights are no longer numbers"):
        train(tmp_path / "run", tiny_recipe(), Spoil())
    state, saved = checkpoint.load_resume(tmp_path / "run" / "fold_0" / "resume.pt", "cpu")
    assert len(state.rows) == 1
    assert all(torch.isfinite(tensor).all() for tensor in saved["net"].values())


def test_a_damaged_resume_file_is_one_line(tmp_path, reference):
    folder = tmp_path / "run" / "fold_0"
    shutil.copytree(reference.path, tmp_path / "run")
    for content in (b"", b"not a checkpoint", b"PK\x03\x04 cut"):
        (folder / "resume.pt").write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            checkpoint.load_resume(folder / "resume.pt", "cpu")
