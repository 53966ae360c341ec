"""make_learner gives a real fastai Learner; fit trains it as the recipe says."""

import math
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import SaveModelCallback
from safetensors.torch import load_file, save_file

from kit.errors import InputError
from kit.runs import Run, read_json
from kit.scoring.metric import average_precision, mean_average_precision
from kit.training import command, learner
from kit.training.fold import load_nets, train_folds
from tests.small import easy_tiles, tiny_recipe

pytestmark = pytest.mark.slow
mpl.use("agg")

TILES = easy_tiles(32, 4)


def train(path, recipe, folds=(0,), callback=None):
    run = Run(path)
    run.path.mkdir(exist_ok=True)
    table = learner.make_folds(recipe, TILES)
    learn = learner.make_learner(recipe, TILES, folds[0], table)
    if callback:
        learn.add_cb(callback)
    assert train_folds(run, recipe, TILES, table, folds, learner=learn)
    return run


def test_constant_tiles_can_be_left_out_of_training_but_not_of_validation():
    images = TILES.train_images.copy()
    for i in range(0, 32, 3):
        images[i] = i
    tiles, recipe = replace(TILES, train_images=images), tiny_recipe("data.drop_constant=true")
    fold = learner.make_folds(recipe, tiles)["fold"].to_numpy()
    constant = np.arange(32) % 3 == 0
    data = learner.make_learner(recipe, tiles, 1).dls
    np.testing.assert_array_equal(data.valid.dataset.images, images[fold == 1])
    np.testing.assert_array_equal(data.train.dataset.images, images[(fold != 1) & ~constant])
    np.testing.assert_array_equal(data.train.dataset.masks, TILES.masks[(fold != 1) & ~constant])


@pytest.mark.filterwarnings("ignore")
def test_fastais_own_methods_work_on_it(tmp_path):
    learn = learner.make_learner(tiny_recipe(), TILES, 0)
    learn.path = tmp_path
    assert 1e-7 < learn.lr_find(num_it=12, show_plot=False).valley < 10
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 1e-3, cbs=SaveModelCallback(monitor="score"))
    prob, masks = learn.get_preds(ds_idx=1)
    assert prob.shape == masks.shape == (8, 101, 101)
    assert 0 <= prob.min() < prob.max() <= 1
    learn.show_results(max_n=2)
    learn.dls.show_batch(max_n=2)
    score = learn.validate()[-1]
    expected = average_precision((prob > 0.5).numpy(), (masks > 0).numpy()).mean()
    assert score == pytest.approx(expected, abs=1e-9)


def test_a_run_has_what_the_next_steps_need(tmp_path):
    recipe = tiny_recipe()
    run = train(tmp_path / "run", recipe, folds=(0, 2))
    table = learner.make_folds(recipe, TILES)
    scores = read_json(run / "scores.json")
    oof = np.load(run / "oof.npy")
    ids = (run / "oof_ids.csv").read_text().split()[1:]
    assert ids == [*table["id"][table["fold"] == 0], *table["id"][table["fold"] == 2]]
    rows = [list(TILES.train_ids).index(name) for name in ids]
    each = average_precision(oof > 0.5, TILES.masks[rows])
    values = [scores["folds"]["0"]["score"], scores["folds"]["2"]["score"]]
    assert values == pytest.approx([each[:8].mean(), each[8:].mean()], abs=1e-5)
    assert scores["mean"] == pytest.approx(np.mean(values), abs=1e-5)
    assert scores["std"] == pytest.approx(np.std(values), abs=1e-5)
    kinds = scores["folds"]["0"]["kinds"].values()
    assert sum(kind["tiles"] * kind["score"] for kind in kinds) / 8 == pytest.approx(values[0], abs=1e-4)
    used = scores["folds"]["0"]["weights"]
    assert scores["folds"]["0"]["candidates"][used] == max(scores["folds"]["0"]["candidates"].values())
    assert not list(run.path.rglob("resume.pt"))
    assert not list(run.path.rglob("*.tmp*"))
    assert oof.dtype == np.float16


def test_trained_on_every_tile_there_is_nothing_to_validate(tmp_path):
    recipe = tiny_recipe("stages.1.monitor=train_loss")
    run = train(tmp_path / "run", recipe, folds=(None,))
    scores = read_json(run / "scores.json")
    assert "mean" not in scores
    assert scores["folds"]["none"]["weights"] == "averaged"
    assert run.finished_folds() == [None]
    assert not (run / "oof.npy").exists()
    ((weight, _),) = load_nets(run, recipe, None)()
    assert weight == 1


def test_the_averaged_weights_are_the_mean_over_the_ends_of_the_epochs(tmp_path):
    class Collect(Callback):
        order = 65

        def __init__(self):
            self.seen = []

        def after_epoch(self) -> None:
            weight = next(self.learn.model.parameters())
            self.seen.append(weight.detach().clone())

    collect = Collect()
    run = train(tmp_path / "run", tiny_recipe(), callback=collect)
    ((_, net),) = load_nets(run, tiny_recipe(), 0, "averaged")()
    expected = torch.stack(collect.seen[-2:]).mean(0)  # the last stage has two epochs
    torch.testing.assert_close(next(net.parameters()).detach(), expected)


def test_batch_norm_is_recomputed_for_the_averaged_weights(tmp_path):
    run = train(tmp_path / "run", tiny_recipe())
    averaged, last = (load_file(run.fold(0) / f"{name}.safetensors") for name in ("averaged", "last"))
    counter = next(key for key in averaged if key.endswith("num_batches_tracked"))
    assert averaged[counter] == 24 // 6  # one pass over the training tiles, and only that
    assert last[counter] > averaged[counter]


class Rates(Callback):
    """The learning rates, the momentum and what was trained at each step."""

    order = 100

    def __init__(self):
        self.rates, self.momentum, self.frozen = [], [], []

    def after_step(self) -> None:
        self.rates.append([hyper["lr"] for hyper in self.learn.opt.hypers])
        self.momentum.append(self.learn.opt.hypers[-1]["mom"])
        self.frozen.append(not self.learn.model.parameter_groups()[0][0].requires_grad)


def with_encoder_file(tmp_path):
    net = timm.create_model("test_resnet.r160_in1k", pretrained=False)
    save_file(net.state_dict(), tmp_path / "encoder.safetensors")
    return f"net.weights={tmp_path / 'encoder.safetensors'}"


def test_with_pretrained_weights_the_encoder_is_frozen_first_and_slower_after(tmp_path):
    recipe = tiny_recipe(with_encoder_file(tmp_path), "stages.0.freeze=true")
    rates = Rates()
    train(tmp_path / "run", recipe, callback=rates)
    assert rates.frozen == [True] * 6 + [False] * 12
    for early, late, decoder in rates.rates:
        assert early == pytest.approx(0.1 * decoder)
        assert late == pytest.approx(math.sqrt(0.1) * decoder)


def test_from_scratch_neither(tmp_path):
    rates = Rates()
    train(tmp_path / "run", tiny_recipe("stages.0.freeze=true"), callback=rates)
    assert not any(rates.frozen)
    assert all(early == late == decoder for early, late, decoder in rates.rates)


@pytest.mark.parametrize(
    ("optimiser", "schedule", "expected"),
    [
        ("sgd", "one-cycle", [0.95, 0.85, 0.875, 0.925]),
        ("sgd", "poly", [0.9] * 4),
        ("rmsprop", "one-cycle", [0.0] * 4),
    ],
)
def test_only_one_cycle_moves_the_momentum_and_rmsprop_has_none(tmp_path, optimiser, schedule, expected):
    """At steps 0, 2, 4 and 6 of 8; one-cycle goes from 0.95 to 0.85 in the first quarter, then back on a cosine."""
    recipe = tiny_recipe(f"stages.0.optimiser={optimiser}", f"stages.0.schedule={schedule}", "stages.0.epochs=2")
    recipe, rates = replace(recipe, stages=recipe.stages[:1]), Rates()
    train(tmp_path / "run", recipe, callback=rates)
    assert rates.momentum[::2] == pytest.approx(expected)


def test_a_plateau_stage_lowers_its_rate_and_ends_early(tmp_path):
    class NeverBetter(Callback):
        """Validation sees nothing but an untrained net: every epoch scores the same."""

        order = 55

        def after_epoch(self) -> None:
            self.learn.final_record[2] = 0.5

    recipe = tiny_recipe("stages.1.epochs=30", "stages.1.patience=2", "stages.1.stop=6", "stages.1.factor=0.1")
    rates = Rates()
    recipe = replace(recipe, stages=recipe.stages[1:2])
    learn = learner.make_learner(recipe, TILES, 0)
    learn.add_cbs([NeverBetter(), rates])
    state = learner.fit(learn, recipe, tmp_path, resume=False)
    assert len(state.rows) == 7
    lr = recipe.stages[0].lr
    assert [rate[-1] / lr for rate in rates.rates[::4]] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01])


class Masks(Callback):
    """Keeps an epoch's predicted and true masks, those of training (True) and of validation by themselves."""

    order = 5

    def before_epoch(self) -> None:
        self.seen: dict[bool, list] = {True: [], False: []}

    def after_pred(self) -> None:
        self.seen[self.training].append((self.learn.pred.detach().numpy() > 0, self.learn.yb[0].numpy() > 0))


def test_the_history_has_the_scores_and_accuracies_of_the_epochs_own_batches(tmp_path):
    rows = []

    class Expected(Masks):
        def after_epoch(self) -> None:
            row = {}
            for training, name in ((True, "train"), (False, "valid")):
                pred, true = (np.concatenate(part) for part in zip(*self.seen[training], strict=True))
                row |= {f"{name}_score": mean_average_precision(pred, true), f"{name}_accuracy": (pred == true).mean()}
            rows.append(row)

    learn = learner.make_learner(tiny_recipe(), TILES, 0)
    learn.add_cb(Expected())
    learner.fit(learn, tiny_recipe(), tmp_path, resume=False)
    history = pd.read_csv(tmp_path / "history.csv").rename(columns={"score": "valid_score"})
    expected = pd.DataFrame(rows)
    np.testing.assert_allclose(history[expected.columns], expected, atol=1e-12)


def test_tensorboard_gets_the_history(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    learn = learner.make_learner(tiny_recipe(), TILES, 0)
    state = learner.fit(learn, tiny_recipe(), tmp_path, resume=False, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for key in ("score", "train_loss", "valid_loss", "lr", "train_score", "train_accuracy", "valid_accuracy"):
        assert [event.value for event in events.Scalars(key)] == pytest.approx([row[key] for row in state.rows])


def test_float16_scales_its_loss_for_every_way_of_training():
    learn = learner.make_learner(tiny_recipe("precision=float16"), TILES, 0)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-3)
    scale = learn.loss_scaling.scaler.get_scale()
    assert scale > 1
    assert all(tensor.isfinite().all() for tensor in learn.model.state_dict().values())


def test_mistakes_are_refused_before_anything_is_trained():
    for settings, words in [
        (["stages.0.loss=lovas"], "lovasz"),
        (["stages.2.optimiser=adamx"], "optimiser"),
        (["data.augment=defalt"], "default"),
        (["data.folds_by=cover"], "coverage"),
        (["limit=3"], "limit 3 is too small"),
        (["stages.1.schedule=cosin"], "schedule"),
        (["stages.2.ema=0.9"], "stages.2.ema and stages.2.average"),
        (["snapshot_weights=median"], "snapshot_weights"),
        (["data.sampling=even"], "sampling"),
        (["stages.1.encoder_lr=-1"], "encoder_lr must be 0 or more"),
        (["data.size=-5", "data.fit=resize"], "size -5 is too small"),
    ]:
        with pytest.raises(InputError, match=words):
            learner.make_learner(tiny_recipe(*settings), TILES, 0)
    with pytest.raises(InputError, match="no fold 7"):
        learner.make_learner(tiny_recipe(), TILES, 7)
    # a training on every tile has no score that a plateau could follow
    with pytest.raises(InputError, match=r"add --set stages\.1\.monitor=train_loss"):
        learner.make_learner(tiny_recipe(), TILES, None)


def test_threads_are_no_more_than_the_cores_that_a_process_may_use(monkeypatch):
    monkeypatch.setattr(learner, "cpus", lambda: 2)
    before = torch.get_num_threads()
    try:
        for asked, threads, expected in ((None, 3, 2), (None, 1, 1), ("3", 3, 3)):
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
            if asked:
                monkeypatch.setenv("OMP_NUM_THREADS", asked)
            torch.set_num_threads(threads)
            learner.settle()
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("device", "seen", "lines"), [("cpu", "others run", 1), ("cpu", "", 0), ("cuda", "others run", 0)]
)
def test_a_training_on_a_cpu_beside_others_says_so_first(monkeypatch, capsys, device, seen, lines):
    monkeypatch.setattr(learner, "device", lambda: device)
    monkeypatch.setattr(command.machine, "crowding", lambda: seen)
    assert command.or_exit(lambda: "trained", "")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == err.count("warning: others run") == lines


def test_limit_keeps_so_many_tiles_of_all_folds():
    table = learner.make_folds(tiny_recipe("limit=16"), TILES)
    assert len(table) == 16
    assert table["fold"].value_counts().to_dict() == {0: 4, 1: 4, 2: 4, 3: 4}
    for seed in range(10):  # as few as may be: no fold is left without a tile
        few = learner.make_folds(tiny_recipe("limit=9", f"seed={seed}"), TILES)
        assert sorted(few["fold"].value_counts()) == [2, 2, 2, 3]
