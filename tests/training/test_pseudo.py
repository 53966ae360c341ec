"""Pseudo-labels in a training: which tiles are drawn how often, what is refused, and that a resume is bit for bit."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from safetensors.torch import load_file

from kit import recipe as recipes
from kit.errors import InputError
from kit.recipe import Stage
from kit.runs import Run, read_json, write_json, write_text
from kit.training import learner, pseudo
from kit.training.fold import train_folds
from kit.training.loaders import by_weight, make_loaders
from kit.training.pseudo import Labels
from kit.training.schedules import plan
from tests.small import easy_tiles, tiny_recipe

TILES = easy_tiles(32, 10)
ONLY, MIX = Stage(bs=8, pseudo="only"), Stage(bs=8, pseudo="mix")


def numbered(first: int, n: int) -> np.ndarray:
    """Images whose first pixel is their number."""
    images = np.random.default_rng(first).integers(0, 256, (n, 101, 101), dtype=np.uint8)
    images[:, 0, 0] = np.arange(first, first + n)
    return images


def some_labels(n: int = 20, soft: bool = False, weights: np.ndarray | None = None) -> Labels:
    images = numbered(100, n)
    masks = (images / np.float16(255)).astype(np.float16) if soft else images > 150
    return Labels(images, masks, np.ones(n) if weights is None else weights, np.linspace(0, 1, n, dtype="f4"), {})


def loaders(labels: Labels | None, n: int = 50, workers: int = 0, augment: str = "none", **kwargs):
    """Every fifth of n tiles validates, so 40 of 50 train."""
    images = numbered(0, n)
    kwargs = {"seed": 3, "bs": 8, "device": "cpu", "labels": labels, **kwargs}
    return make_loaders(
        images, images > 128, np.arange(n) % 5 == 0, augment=augment, num_workers=workers, **kwargs
    ).train


def drawn(loader, stage: Stage, epoch: int = 0) -> np.ndarray:
    """The numbers of the tiles of an epoch, in order."""
    loader.serve(stage)
    loader.window(epoch, 0, loader.steps_per_epoch)
    return np.concatenate([batch[0][:, 0, 0, 0].numpy() for batch in loader])


@pytest.mark.parametrize("count", [0, 1, 7, 20, 57])
def test_draws_by_weight_are_the_expected_number_to_within_one(count):
    weights = np.array([1, 1, 3, 0.2, 5.5, 1])
    expected, total = count * weights / weights.sum(), np.zeros(6)
    for seed in range(200):
        draws = by_weight(weights, count, np.random.default_rng(seed))
        times = np.bincount(draws % 6, minlength=6)
        assert len(set(draws)) == len(draws) == count  # each further draw of a tile is augmented in its own way
        assert set(draws // 6) <= set(range(times.max(initial=0)))
        assert (np.abs(times - expected) < 1 + 1e-9).all()
        total += times
    assert np.abs(total / 200 - expected).max() < 4 * 0.5 / math.sqrt(200)


def test_equal_weights_are_a_pass_over_the_tiles_in_random_order():
    orders = [by_weight(np.full(9, 0.97), 9, np.random.default_rng(seed)) for seed in range(3)]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_labels_alone_are_drawn_where_the_stage_says_so():
    labels = some_labels()
    loader = loaders(labels)
    seen = drawn(loader, ONLY)
    assert len(seen) == 16  # whole batches of 20
    assert len(set(seen)) == 16
    assert set(seen) <= set(range(100, 120))
    assert set(drawn(loader, Stage(bs=8))) == set(range(50)) - set(range(0, 50, 5))


@pytest.mark.parametrize(("weight", "batches"), [(1.0, 10), (0.25, 6), (3.0, 20)])
def test_a_mix_has_each_training_tile_once_and_labelled_ones_as_often_as_it_says(weight, batches):
    loader = loaders(some_labels())
    seen = drawn(loader, replace(MIX, pseudo_weight=weight))
    assert len(seen) == batches * 8  # 40 * (1 + weight), in whole batches
    own, labelled = seen[seen < 100], seen[seen >= 100]
    assert len(set(own)) == len(own)
    times = np.bincount(labelled - 100, minlength=20)
    assert np.abs(times - 40 * weight / 20).max() <= 1 + (len(own) < 40)
    assert len(own) >= 40 - 7
    assert len(set((seen[:40] >= 100).tolist())) == 2  # mixed, not one after the other


def test_heavier_labels_are_drawn_more_often():
    weights = np.ones(20)
    weights[3] = 10
    seen = np.concatenate([drawn(loaders(some_labels(weights=weights)), MIX, epoch) for epoch in range(30)])
    times = np.bincount(seen[seen >= 100] - 100, minlength=20)
    assert times[3] / np.delete(times, 3).mean() == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("sampling", ["uniform", "coverage"])
def test_without_them_a_stage_draws_what_it_always_drew(sampling):
    plain, with_labels = (loaders(labels, augment="default", sampling=sampling) for labels in (None, some_labels()))
    for loader in (plain, with_labels):
        loader.serve(Stage(bs=8))
        loader.window(1, 0, loader.steps_per_epoch)
    if sampling == "coverage":  # further draws of a tile count on from the number of all tiles, so only order agrees
        orders = [[draw % loader.n for _, draw in loader.get_idxs()] for loader in (plain, with_labels)]
        assert orders[0] == orders[1]
        return
    for (x, y), (other_x, other_y) in zip(plain, with_labels, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


def test_a_planted_label_is_what_is_trained_on():
    labels = some_labels()
    planted = labels.masks.copy()
    planted[4] = ~planted[4]
    found = {}
    for name, each in (("own", labels), ("planted", replace(labels, masks=planted))):
        loader = loaders(each, n=10, bs=28)
        loader.serve(Stage(bs=28, pseudo="mix", pseudo_weight=2.5))  # 8 tiles and every label
        loader.window(0, 0, 1)
        x, y = next(iter(loader))
        found[name] = dict(zip(x[:, 0, 0, 0].tolist(), y.numpy(), strict=True))
    assert len(found["own"]) == 28
    for number, mask in found["planted"].items():
        expected = planted[number - 100] if number >= 100 else numbered(0, 10)[number] > 128
        np.testing.assert_array_equal(mask, expected)
        assert np.array_equal(found["own"][number], mask) == (number != 104)


def test_soft_labels_are_probabilities_beside_masks():
    labels = some_labels(soft=True)
    loader = loaders(labels)
    loader.serve(MIX)
    x, y = loader.one_batch()
    assert y.dtype == torch.float32
    for number, mask in zip(x[:, 0, 0, 0].tolist(), y.numpy(), strict=True):
        expected = labels.masks[number - 100].astype(float) if number >= 100 else numbered(0, 50)[number] > 128
        np.testing.assert_allclose(mask, expected, atol=0.5 / 255 + 1e-3)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("stage", [ONLY, MIX, Stage(bs=8)])
def test_labels_that_lie_on_the_device_give_the_same_batches(soft, stage):
    labels = some_labels(soft=soft, weights=np.linspace(0.5, 2, 20))
    depth = np.linspace(0, 1, 50, dtype=np.float32)
    host, device = (loaders(labels, depth=depth, resident=resident) for resident in (False, True))
    for loader in (host, device):
        loader.serve(stage)
        loader.window(1, 1, loader.steps_per_epoch)
    for batch, again in zip(host, device, strict=True):
        assert [part.dtype for part in batch] == [part.dtype for part in again]
        assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))


@pytest.mark.filterwarnings("ignore")
def test_a_mix_is_the_same_from_any_number_of_workers_and_from_the_middle():
    labels = some_labels()
    depth = np.linspace(0, 1, 50, dtype=np.float32)
    whole = []
    for workers in (0, 2):
        loader = loaders(labels, workers=workers, augment="default", depth=depth)
        loader.serve(replace(MIX, pseudo_weight=1.5))
        loader.window(2, 0, 12)
        whole.append(list(loader))
    loader.window(2, 5, 12)
    for one, other in ((whole[0], whole[1]), (whole[0][5:], list(loader))):
        for batch, again in zip(one, other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))


def test_the_plan_counts_what_each_stage_draws():
    stages = (
        Stage(bs=8, epochs=3, pseudo="only", schedule="cosine", cycles=3),
        Stage(bs=8, epochs=2, pseudo="mix", pseudo_weight=0.5),
        Stage(bs=8, epochs=1),
    )
    recipe = replace(tiny_recipe(), stages=stages, pseudo_run="a")
    steps = [(epoch.stage, epoch.steps) for epoch in plan(recipe, 40, 20)]
    assert steps == [(0, 2)] * 3 + [(1, 7)] * 2 + [(2, 5)]  # 20, 40 + 20 and 40 tiles in whole batches of 8
    alone = [(epoch.number, epoch.stage, epoch.steps) for epoch in plan(replace(recipe, pseudo_run=""), 40)]
    assert alone == [(0, 1, 5), (1, 1, 5), (2, 2, 5)]


def test_epochs_asked_for_are_those_that_are_trained():
    recipe = recipes.load("resnet34-1st")
    assert recipe.epochs == 200
    assert replace(recipe, pseudo_run="a").epochs == 350
    assert recipe.scaled(20).stages[1].epochs == pytest.approx(20)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["pseudo_run=a"], "no stage of recipe tiny uses pseudo-labels: add --set stages.2.pseudo=mix"),
        (["iterate=1"], "no stage of recipe"),
        (["iterate=-1", "stages.0.pseudo=mix"], "iterate must be 0"),
        (["pseudo_half=left", "stages.0.pseudo=mix"], "both, first, second"),
        (["iterate=1", "pseudo_half=first", "stages.0.pseudo=mix"], "pseudo_half=both"),
        (["pseudo_half=first", "stages.0.pseudo=mix"], "pseudo_half means nothing without labels: name their run"),
        ([f"stages.{i}.pseudo=only" for i in range(3)], "on pseudo-labels only: name their run"),
    ],
)
def test_recipes_whose_pseudo_keys_do_not_fit_together(settings, words):
    with pytest.raises(InputError, match=words):
        tiny_recipe(*settings)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (Stage(pseudo="some"), "none, only, mix"),
        (Stage(pseudo="mix", pseudo_weight=0), "above 0"),
        (Stage(pseudo="mix", pseudo_weight=math.inf), "above 0"),
        (Stage(pseudo_weight=0.5), "means nothing"),
    ],
)
def test_stages_with_bad_values(stage, words):
    with pytest.raises(InputError, match=f"stages.3.pseudo.*{words}"):
        pseudo.check(stage, "stages.3")


@pytest.fixture
def labelled(tmp_path):
    """A run that has labelled eight test tiles for fold 0 and saw none of its validation tiles."""
    return write_labels(tmp_path / "teacher")


def write_labels(path, masks: np.ndarray | None = None) -> Run:
    run = Run(path)
    folds = learner.make_folds(tiny_recipe(), TILES)
    write_text(run / "recipe.toml", recipes.dumps(tiny_recipe()))
    write_json(run / "environment.json", {"data": ".", "fingerprint": TILES.fingerprint, "folds": [0]})
    table = pd.DataFrame({"id": TILES.test_ids[:8], "confidence": 0.95, "weight": 0.95, "models": "teacher/fold_0"})
    masks = TILES.test_images[:8] > 125 if masks is None else masks
    source = {"models": ["teacher/fold_0"], "seen": folds["id"][folds["fold"] != 0].tolist()}
    pseudo.write(pseudo.folder(run, 0), table, masks, source)
    return run


def recipe_with(run: Run, *settings: str):
    return tiny_recipe("stages.0.pseudo=only", "stages.1.pseudo=mix", f"pseudo_run={run.path}", *settings)


def valid_ids(recipe) -> list[str]:
    folds = learner.make_folds(recipe, TILES)
    return folds["id"][folds["fold"] == 0].tolist()


def test_labels_belong_to_their_tiles(labelled):
    recipe = recipe_with(labelled)
    found = pseudo.load(recipe, TILES, 0, valid_ids(recipe))
    np.testing.assert_array_equal(found.images, TILES.test_images[:8])
    np.testing.assert_array_equal(found.masks, TILES.test_images[:8] > 125)
    np.testing.assert_allclose(found.depth, TILES.relative_depth("test")[:8])
    halves = [
        pseudo.load(replace(recipe, pseudo_half=half), TILES, 0, valid_ids(recipe)).record["tiles"]
        for half in ("first", "second")
    ]
    assert sorted(halves[0] + halves[1]) == found.record["tiles"] == list(TILES.test_ids[:8])
    assert halves[0]
    assert halves[1]


def test_the_halves_are_halves():
    ids = [f"{i:010x}" for i in np.random.default_rng(0).integers(0, 1 << 40, 4000)]
    assert pseudo.in_first_half(ids).mean() == pytest.approx(0.5, abs=0.03)


def test_a_training_whose_folds_the_labels_know_is_refused(labelled):
    other = recipe_with(labelled, "seed=1")
    seen = set(read_json(labelled / "pseudo/fold_0/source.json")["seen"])
    leaked = len(seen & set(valid_ids(other)))
    assert 0 < leaked < 8
    with pytest.raises(InputError, match=rf"^leak: .* saw {leaked} of this fold's 8 validation tiles"):
        learner.make_learner(other, TILES, 0)


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def other_masks(path):
    np.save(path, np.zeros((7, 101, 101), bool))


def too_high(path):
    np.save(path, np.full((8, 101, 101), 1.5, np.float16))


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("rows.csv", lambda path: path.unlink(), "has no labels: make them with"),
        ("rows.csv", lambda path: path.write_text("id,weight\nx,1\n"), "is damaged"),
        ("rows.csv", lambda path: path.write_text(path.read_text().replace("0.95,teacher", "-1,teacher")), "weights"),
        (
            "rows.csv",
            lambda path: path.write_text(path.read_text().replace(TILES.test_ids[1], "stranger")),
            "each test",
        ),
        ("masks.npy", cut, "is damaged"),
        ("masks.npy", other_masks, "masks that fit"),
        ("masks.npy", too_high, "masks of 0 to 1"),
        ("source.json", lambda path: path.write_text("{}"), "tiles they saw"),
        ("source.json", lambda path: write_json(path, {"models": ["a/fold_0"], "seen": 3}), "tiles they saw"),
        ("source.json", lambda path: write_json(path, {"models": ["a/fold_0"], "seen": []}), "tiles they saw"),
        ("source.json", lambda path: write_json(path, read_json(path) | {"models": []}), "models and the tiles"),
        ("source.json", lambda path: path.write_text("{"), "not valid JSON"),
        ("source.json", lambda path: path.unlink(), "source.json is missing"),
        ("../../environment.json", lambda path: write_json(path, {"fingerprint": "x"}), "labelled other tiles"),
    ],
)
def test_labels_that_are_missing_or_damaged_are_one_line(labelled, name, spoil, words):
    spoil(labelled / "pseudo/fold_0" / name)
    recipe = recipe_with(labelled)
    with pytest.raises(InputError, match=words) as caught:
        pseudo.load(recipe, TILES, 0, valid_ids(recipe))
    assert "\n" not in str(caught.value)


def test_soft_labels_need_a_loss_that_reads_them(tmp_path):
    soft = write_labels(tmp_path / "soft", (TILES.test_images[:8] / 255).astype(np.float16))
    with pytest.raises(InputError, match=r"stages.0.loss lovasz_elu reads masks only: label without --soft"):
        learner.make_learner(recipe_with(soft, "stages.0.loss=lovasz_elu"), TILES, 0)
    learn = learner.make_learner(recipe_with(soft), TILES, 0)  # BCE alone, and BCE in a mix
    assert learn.dls.train.one_batch()[1].unique().numel() > 50


class Killed(BaseException):
    pass


class KillAt(Callback):
    order = 100

    def __init__(self, step: int):
        self.left = step

    def after_step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


def train(path, recipe, callback=None) -> Run:
    run = Run(path)
    run.path.mkdir(exist_ok=True)
    folds = learner.make_folds(recipe, TILES)
    learn = learner.make_learner(recipe, TILES, 0, folds)
    learn.add_cbs([callback] if callback else [])
    train_folds(run, recipe, TILES, folds, [0], learner=learn)
    return run


def weights(run: Run) -> dict[str, torch.Tensor]:
    files = sorted(run.path.rglob("*.safetensors"))
    return {f"{path.name}: {key}": tensor for path in files for key, tensor in load_file(path).items()}


def equal(run: Run, other: Run) -> bool:
    own, others = weights(run), weights(other)
    return own.keys() == others.keys() and all(torch.equal(tensor, others[key]) for key, tensor in own.items())


@pytest.mark.slow
def test_cut_on_labels_or_in_a_mix_it_ends_where_it_would_have(labelled, tmp_path, capsys):
    """8 labels in batches of 5 for 5 epochs; then 24 tiles and 24 labels in batches of 6; then SWA on tiles."""
    recipe = recipe_with(labelled, "stages.0.epochs=5", "data.augment=heng")
    reference = train(tmp_path / "reference", recipe)
    assert "24 tiles and 8 pseudo-labelled ones to train on" in capsys.readouterr().out
    history = pd.read_csv(reference.fold(0) / "history.csv")
    assert list(history["tiles"]) == [5] * 5 + [48] + [24] * 2
    for step in (3, 9):
        with pytest.raises(Killed):
            train(tmp_path / f"cut{step}", recipe, KillAt(step))
        assert equal(train(tmp_path / f"cut{step}", recipe), reference)
    record = read_json(reference / "fold_0/pseudo.json")
    assert record["labels"] == str(labelled / "pseudo/fold_0")
    assert record["tiles"] == list(TILES.test_ids[:8])

    # one planted label makes other weights, and labels that change under way are refused
    with pytest.raises(Killed):
        train(tmp_path / "changed", recipe, KillAt(9))
    masks = TILES.test_images[:8] > 125
    masks[2] = ~masks[2]
    write_labels(labelled.path, masks)
    with pytest.raises(InputError, match="has changed since"):
        train(tmp_path / "changed", recipe)
    shutil.rmtree(tmp_path / "changed")
    assert not equal(train(tmp_path / "changed", recipe), reference)


@pytest.mark.slow
def test_without_a_run_the_stage_is_skipped_with_a_line(tmp_path, capsys):
    run = train(tmp_path / "run", tiny_recipe("stages.0.pseudo=only", "stages.1.pseudo=mix"))
    lines = capsys.readouterr().out.splitlines()
    assert "stage 1 is skipped: no run is named for pseudo-labels (--set pseudo_run=RUN)" in lines
    assert (
        "stage 2 trains on the training tiles alone: no run is named for pseudo-labels (--set pseudo_run=RUN)" in lines
    )
    assert list(pd.read_csv(run.fold(0) / "history.csv")["stage"]) == [1, 2, 2]
    assert not (run.fold(0) / "pseudo.json").exists()
