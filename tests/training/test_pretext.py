"""Pretraining without labels: what the net sees and is asked, and that a cut run ends where it would have."""

import argparse
import tomllib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock, Bottleneck

from kit import recipe as recipes
from kit.errors import InputError
from kit.nets import encoders
from kit.runs import Run, read_json
from kit.training import checkpoint, command, pretext, pretext_command
from kit.training.augment import Augmenter
from kit.training.learner import make_learner
from kit.training.pretext_command import recipe_for
from tests.small import easy_tiles, tiny_recipe
from tests.training.test_resume import KillAt, Killed, ask_at

TILES = easy_tiles(30, 18)


def masked(seed=0, augment="none", tiles=TILES.train_images) -> pretext.MaskedTiles:
    return pretext.MaskedTiles(tiles, None, seed, Augmenter(augment, seed))


class TestTiles:
    def test_what_is_shown_and_what_is_asked_add_up_to_the_tile(self):
        for item in (3, (0, 3), (5, 3)):
            shown, asked = masked()[item]
            hidden = ~np.isnan(asked)
            assert 0.6 <= hidden.mean() < 0.63
            truth = TILES.train_images[3]
            np.testing.assert_array_equal(shown[~hidden], truth[~hidden])
            np.testing.assert_allclose(shown[hidden] + 255 * asked[hidden], truth[hidden], atol=1e-3)
            assert len(set(shown[hidden])) == 1

    @pytest.mark.parametrize("augment", ["none", "default"])
    def test_they_follow_from_seed_epoch_and_tile(self, augment):
        def hidden(seed, item):
            return ~np.isnan(masked(seed, augment)[item][1])

        first = hidden(0, (2, 7))
        np.testing.assert_array_equal(hidden(0, (2, 7)), first)
        for other in ((1, (2, 7)), (0, (3, 7)), (0, (2, 8))):
            assert (hidden(*other) != first).any()
        np.testing.assert_array_equal(hidden(0, 7), hidden(0, 7))

    def test_the_target_is_of_the_augmented_tile(self):
        shown, asked = masked(augment="hflip", tiles=TILES.train_images[:1])[(4, 0)]
        hidden = ~np.isnan(asked)
        restored = np.where(hidden, shown + 255 * np.nan_to_num(asked), shown)
        tile = TILES.train_images[0]
        assert any(np.allclose(restored, view, atol=1e-3) for view in (tile, tile[:, ::-1]))


class TestLoss:
    def test_is_the_mean_error_of_hidden_pixels_and_has_no_gradient_elsewhere(self):
        rng = np.random.default_rng(0)
        answer, truth = rng.normal(size=(2, 2, 9, 9))
        hidden = rng.random((2, 9, 9)) < 0.6
        logits = torch.tensor(answer, requires_grad=True)
        losses = pretext.restoration(logits, torch.tensor(np.where(hidden, truth, np.nan)), reduction="none")
        expected = [np.abs(answer[i] - truth[i])[hidden[i]].mean() for i in range(2)]
        np.testing.assert_allclose(losses.detach(), expected)
        losses.sum().backward()
        share = hidden / hidden.sum((1, 2), keepdims=True)
        np.testing.assert_allclose(logits.grad, np.sign(answer - truth) * share)

    def test_the_skill_is_the_share_of_the_best_trivial_error_that_is_gone(self):
        metric = pretext.Skill({"mean": 0.5, "inpainting": 0.4})
        metric.reset()
        for size, error in ((4, 0.1), (1, 0.6)):  # 0.2 over tiles
            metric.accumulate(SimpleNamespace(pred=torch.full((size, 5, 5), error), yb=[torch.zeros(size, 5, 5)]))
        assert metric.value == pytest.approx(0.5)

    def test_the_trivial_errors_are_those_of_the_hidden_pixels(self):
        data = masked(tiles=TILES.train_images[:3])
        asked = [data[i][1] for i in range(3)]
        assert pretext.trivial_errors(data)["mean"] == pytest.approx(np.mean([np.nanmean(abs(x)) for x in asked]))


class TestRecipe:
    def test_masks_leave_no_trace(self):
        recipe = recipes.load("senet-9th")
        assert recipe.salt.empty or recipe.salt.deep
        own = recipe_for(recipe)
        assert own.net == recipe.net
        assert (own.salt.empty, own.salt.deep, own.salt.nonempty, own.salt.gating) == (0, 0, 0, False)
        (stage,) = own.stages
        assert (stage.schedule, stage.freeze, stage.pseudo) == ("one-cycle", False, "none")
        assert stage.epochs == pytest.approx(recipe.epochs)
        assert (stage.optimiser, stage.bs) == (recipe.stages[0].optimiser, recipe.stages[0].bs)
        assert recipes.from_dict(tomllib.loads(recipes.dumps(own))) == own

    @pytest.mark.parametrize("name", recipes.names())
    def test_every_recipe_has_one_or_says_why_not(self, name):
        recipe = recipes.load(name)
        if recipe.net.encoder:
            assert recipes.check(recipe_for(recipe)).stages[0].loss == "restore"
        else:
            with pytest.raises(InputError, match=f"decoder {recipe.net.decoder} is a net without an encoder"):
                recipe_for(recipe)


def arguments(**given) -> argparse.Namespace:
    flags = dict.fromkeys((*command.RECIPE_FLAGS, "fold", "data", "run", "resume", "tensorboard"))
    return argparse.Namespace(**{**flags, "set": [], "per_device": 1, **given})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"fold": "0"}, "knows no folds: leave out --fold"),
        ({"per_device": 2}, "knows no folds: leave out --per-device"),
        ({"recipe": "plain-unet"}, "without an encoder"),
        ({"set": ["stages.1.loss=bce"]}, "--set stages.1.loss has no meaning"),
        ({"set": ["stages.0.schedule=cosine"]}, "--set stages.0.schedule has no meaning"),
        ({"set": ["data.sampling=coverage"]}, "--set data.sampling has no meaning"),
        ({"set": ["net.decoder=salt", "salt.empty=0.1"]}, "--set salt.empty has no meaning"),
        ({"resume": True}, "no pretext run under runs/"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(given, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        pretext_command.train(arguments(**given))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


slow = pytest.mark.slow
RECIPE = recipe_for(tiny_recipe("stages.0.lr=4e-3").scaled(4))


def train(path, recipe=RECIPE, callback=None) -> Run:
    run = Run(path)
    learn = pretext.make_learner(recipe, TILES)
    if callback:
        learn.add_cb(callback)
    pretext.train(run, recipe, learn)
    return run


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Run:
    return train(tmp_path_factory.mktemp("reference") / "run")


@slow
def test_held_out_tiles_are_not_trained_on_and_constant_ones_are_left_out():
    images = TILES.test_images.copy()
    images[4:8] = 9
    tiles = replace(TILES, test_images=images)
    learn = pretext.make_learner(RECIPE, tiles)
    parts = [[image.tobytes() for image in data.dataset.images] for data in learn.dls]
    assert [len(part) for part in parts] == [42, 2]
    kept = {image.tobytes() for image in [*TILES.train_images, *images[:4], *images[8:]]}
    assert set(parts[0]) | set(parts[1]) == kept
    assert len(kept) == 44


@slow
def test_depths_go_with_their_tiles():
    learn = pretext.make_learner(recipe_for(tiny_recipe("data.channels=grey+depth")), TILES)
    depth_of = {
        image.tobytes(): depth
        for split in ("train", "test")
        for image, depth in zip(TILES.images(split), TILES.relative_depth(split), strict=True)
    }
    for data in learn.dls:
        for image, depth in zip(data.dataset.images, data.dataset.depth, strict=True):
            assert depth_of[image.tobytes()] == depth


@slow
def test_a_short_run_beats_the_mean_and_says_what_it_made(reference):
    made = read_json(reference / "pretext.json")
    assert made["error"] < 0.95 * made["error_mean"]
    history = pd.read_csv(reference / "history.csv")
    assert history["valid_loss"].min() == pytest.approx(made["error"], abs=1e-5)
    trivial = min(made["error_mean"], made["error_inpainting"])
    np.testing.assert_allclose(history["score"], 1 - history["valid_loss"] / trivial, atol=1e-3)
    assert made["steps"] * 5 == history["tiles"].sum()
    said = encoders.metadata(reference / "encoder.safetensors")
    assert said == {key: str(value) for key, value in made.items() if key not in ("epoch", "seconds")}
    assert {path.name for path in reference.path.iterdir()} == {"history.csv", "pretext.json", "encoder.safetensors"}


@slow
@pytest.mark.parametrize("decoder", ["dynamic", "salt"])
def test_either_decoder_starts_from_the_encoder_that_was_trained(decoder, tmp_path):
    recipe = replace(RECIPE, precision="float32", stages=(replace(RECIPE.stages[0], epochs=1),))
    learn = pretext.make_learner(recipe, TILES)
    run = Run(tmp_path / "run")
    pretext.train(run, recipe, learn)
    settings = (f"net.weights={run / 'encoder.safetensors'}", f"net.decoder={decoder}", "precision=float32")
    plain = timm.create_model(RECIPE.net.encoder)
    lacking = plain.load_state_dict(load_file(run / "encoder.safetensors"), strict=False)
    assert not lacking.unexpected_keys
    assert all(key.startswith("fc.") for key in lacking.missing_keys)
    outputs = [outputs_of_blocks(net) for net in (learn.model, make_learner(tiny_recipe(*settings), TILES, 0).model)]
    shown, _ = learn.model.inputs(torch.from_numpy(TILES.test_images[:2]))
    with torch.no_grad():
        timms_own = plain.eval().forward_features(shown)
    assert len(outputs[0]) >= 4
    for ours, theirs in zip(*outputs, strict=True):
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(outputs[0][-1], timms_own)


def outputs_of_blocks(net: torch.nn.Module) -> list[torch.Tensor]:
    """What each of timm's residual blocks gives out within the net, in order."""
    seen: list[torch.Tensor] = []
    blocks = [part for part in net.modules() if isinstance(part, BasicBlock | Bottleneck)]
    hooks = [part.register_forward_hook(lambda _, __, output: seen.append(output.clone())) for part in blocks]
    with torch.no_grad():
        net.eval()(torch.from_numpy(TILES.test_images[:2]))
    for hook in hooks:
        hook.remove()
    return seen


def assert_equal(run: Run, other: Run) -> None:
    own, others = (load_file(each / "encoder.safetensors") for each in (run, other))
    assert own.keys() == others.keys()
    assert [key for key in own if not torch.equal(own[key], others[key])] == []
    made = [{**read_json(each / "pretext.json"), "seconds": 0} for each in (run, other)]
    assert made[0] == made[1]
    histories = [pd.read_csv(each / "history.csv").drop(columns="seconds") for each in (run, other)]
    pd.testing.assert_frame_equal(*histories)


@slow
@pytest.mark.parametrize(("step", "event"), [(0, "before_batch"), (12, "after_step"), (31, "before_batch")])
def test_killed_anywhere_it_ends_where_it_would_have(reference, tmp_path, step, event):
    with pytest.raises(Killed):
        train(tmp_path / "run", callback=KillAt(step, event))
    assert not (tmp_path / "run" / "encoder.safetensors").exists()
    assert_equal(train(tmp_path / "run"), reference)


@slow
def test_asked_to_stop_it_saves_in_mid_epoch_and_goes_on(reference, tmp_path):
    run = train(tmp_path / "run", callback=ask_at(14))
    assert not (run / "encoder.safetensors").exists()
    assert_equal(train(run.path), reference)


@slow
def test_killed_while_finishing_it_finishes(reference, tmp_path, monkeypatch):
    save = checkpoint.save_weights

    def die_at_the_encoder(path, *args):
        if path.name == "encoder.safetensors":
            raise Killed
        save(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_weights", die_at_the_encoder)
        with pytest.raises(Killed):
            train(tmp_path / "run")
    assert_equal(train(tmp_path / "run"), reference)


@slow
def test_a_training_on_masks_refuses_the_recipe_of_a_pretext_run():
    with pytest.raises(InputError, match='no loss is called "restore"'):
        make_learner(RECIPE, TILES, 0)
