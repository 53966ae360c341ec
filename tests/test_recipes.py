"""Each packaged recipe against its source: the keys, the parameters, one step of the real net, one shortened training.

The expected values were written from the sources (repositories, papers, write-ups), not from the TOML files.
"""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from kit import recipe
from kit.nets import heads, losses, model
from kit.runs import Run, read_json
from kit.training import learner, optimisers, schedules
from kit.training.fold import train_folds
from tests.small import easy_tiles

TINY = "test_resnet.r160_in1k"
OURS = {"baseline", "demo", "cpu", "strong"}
SINGLE = set(recipe.names()) - OURS

# name -> side in pixels, resized first to, how it fits, channels, folds, dealt by
DATA = {
    "plain-unet": (128, 0, "resize", "grey3", 10, "random"),
    "benchmark-cnn": (128, 0, "resize", "grey", 5, "coverage"),
    "capstone-tiny": (128, 0, "resize", "grey", 5, "coverage"),
    "capstone-unet": (128, 0, "resize", "grey", 5, "coverage"),
    "capstone-resunet": (101, 0, "pad-reflect", "grey", 5, "coverage"),
    "liu-resunet": (128, 0, "resize", "grey", 5, "random"),
    "liu-xception": (160, 0, "resize", "grey3", 5, "random"),
    "liu-resnet34-pad512": (512, 0, "pad-edge", "grey3", 5, "random"),
    "liu-resnet34-resize512": (512, 0, "resize", "grey3", 5, "random"),
    "seresnext50-28th": (128, 0, "pad-reflect", "grey+depth+grey*y", 5, "coverage"),
    "resnet34-1st": (128, 0, "pad-edge", "grey+y+grey*y", 5, "depth"),
    "resnext50-1st": (224, 192, "pad-reflect", "grey3", 5, "depth"),
    "seresnext50-4th": (128, 0, "pad-random", "grey3", 10, "random"),
    "senet-9th": (128, 0, "pad-reflect", "grey3", 10, "random"),
    "small-15th": (129, 0, "pad-reflect", "grey", 10, "random"),
    "deep-supervision-21st": (224, 0, "resize", "grey3", 10, "random"),
}

# name -> for each stage: epochs, loss, optimiser, batch, weight decay, schedule, lr, lowest lr, cycles, early stop
STAGES = {
    "plain-unet": [(100, "bce", "adam", 32, 0, "plateau", 1e-3, 1e-5, 1, 10)],
    "benchmark-cnn": [(200, "bce", "adam", 32, 0, "constant", 1e-3, 0, 1, 0)],
    "capstone-tiny": [(200, "bce", "adam", 32, 0, "constant", 1e-3, 0, 1, 0)],
    "capstone-unet": [(200, "bce", "adam", 32, 0, "constant", 1e-3, 0, 1, 0)],
    "capstone-resunet": [
        (80, "bce", "adam", 64, 0, "plateau", 0.01, 1e-4, 1, 20),
        (200, "lovasz", "adam", 32, 0, "plateau", 0.01, 1e-4, 1, 20),
    ],
    "liu-resunet": [(300, "bce", "adam", 8, 0, "plateau", 1e-3, 1e-12, 1, 30)],
    "liu-xception": [(40, "bce", "adam", 32, 0, "cosine", 1e-3, 0, 1, 0)],
    "liu-resnet34-pad512": [(40, "bce", "adam", 8, 0, "cosine", 1e-3, 0, 1, 0)],
    "liu-resnet34-resize512": [(40, "bce", "adam", 8, 0, "cosine", 1e-3, 0, 1, 0)],
    "seresnext50-28th": [
        (80, "bce", "adam", 20, 0, "triangular2", 3e-4, 1e-4, 1, 0),
        (420, "0.1*bce + 0.9*lovasz_elu", "adam", 20, 0, "triangular2", 3e-4, 1e-4, 1, 50),
    ],
    "resnet34-1st": [
        (3 * 50, "lovasz_elu", "sgd", 32, 1e-4, "cosine", 0.01, 0.001, 3, 0),
        (4 * 50, "lovasz_elu", "sgd", 32, 1e-4, "cosine", 0.01, 0.001, 4, 0),
    ],
    "resnext50-1st": [
        (2 * 125, "bce_dice", "rmsprop", 24, 0, "plateau", 1e-4, 6.25e-6, 1, 2 * 20),
        (2 * 125, "lovasz_elu", "rmsprop", 24, 0, "plateau", 5e-5, 6.25e-6, 1, 2 * 15),
        (4 * 80, "lovasz_elu", "rmsprop", 24, 0, "cosine", 1e-4, 0, 4, 0),
    ],
    "seresnext50-4th": [
        (10, "0.9*bce + 0.5*dice", "sgd", 16, 2e-4, "constant", 0.01, 0, 1, 0),
        (7 * 50, "lovasz", "sgd", 16, 2e-4, "cosine", 0.01, 0.001, 7, 0),
    ],
    "senet-9th": [(250, "symmetric_lovasz_elu", "adamw", 32, 1e-4, "noam", 5e-4, 0, 1, 0)],
    "small-15th": [(1400, "bce + symmetric_lovasz", "adam", 40, 1e-4, "cosine", 1e-3, 1e-4, 14, 0)],
    "deep-supervision-21st": [(100, "lovasz_elu", "sgd", 16, 1e-4, "one-cycle", 0.01, 0, 1, 0)],
}

# parameters without the classifier, as torchvision, Cadene's pretrained-models and the papers' tables have them
RESNET34, RESNEXT50, SERESNEXT50 = 21_797_672 - 513_000, 25_028_904 - 2_049_000, 27_559_896 - 2_049_000
SENET154, XCEPTION = 115_088_984 - 2_049_000, 22_855_952 - 2_049_000
ENCODER = {
    "liu-xception": XCEPTION,
    "liu-resnet34-pad512": RESNET34,
    "liu-resnet34-resize512": RESNET34,
    "seresnext50-28th": SERESNEXT50,
    "resnet34-1st": RESNET34 - 64 * 3 * (7 * 7 - 3 * 3),  # its stem
    "resnext50-1st": RESNEXT50,
    "seresnext50-4th": SERESNEXT50,
    "senet-9th": SENET154,
    "deep-supervision-21st": RESNET34,
}

# whole nets: printed by the source, or counted by hand in tests/nets/test_classic.py
WHOLE = {"capstone-resunet": 5_112_497, "liu-resunet": 5_112_497, "plain-unet": 2_161_649, "capstone-tiny": 76_168}


def build(loaded: recipe.Recipe) -> model.TileNet:
    torch.manual_seed(0)
    return learner.make_net(loaded.from_scratch()).cpu()


def shortened(loaded: recipe.Recipe) -> recipe.Recipe:
    """The same system for two steps of two tiles a stage, on the smallest encoder where it has one."""
    net = replace(loaded.net, encoder=TINY if loaded.net.encoder else "", pretrained=False)
    stages = tuple(
        replace(stage, epochs=1, bs=2, cycles=1, steps=min(stage.steps, 2), snapshots=min(stage.snapshots, 1))
        for stage in loaded.stages
    )
    return replace(loaded, net=net, stages=stages, precision="float32")


def test_every_recipe_that_is_not_ours_is_checked_here():
    assert DATA.keys() == STAGES.keys() == SINGLE
    assert WHOLE.keys().isdisjoint(ENCODER)


def test_every_recipe_is_in_the_documentation():
    text = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text()
    missing = [name for name in recipe.names() if name != "demo" and text.count(f"\n| `{name}`") < 2]
    assert not missing, f"give them a row in docs/recipes.md, among the sources and among the measured: {missing}"


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_the_input_is_that_of_the_source(name):
    data = recipe.load(name).data
    assert (data.size, data.resize, data.fit, data.channels, data.folds, data.folds_by) == DATA[name]


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_the_training_is_that_of_the_source(name):
    def keys(stage):
        rate = (stage.schedule, stage.lr, stage.lr_min, stage.cycles)
        return stage.epochs, stage.loss, stage.optimiser, stage.bs, stage.weight_decay, *rate, stage.stop

    loaded = recipe.load(name)
    assert [keys(stage) for stage in loaded.stages] == STAGES[name]
    # no published system trains its encoder more slowly, freezes it, or averages weights
    assert not any(stage.freeze or stage.average or stage.ema for stage in loaded.stages)
    assert all(factor == 1 for stage in loaded.stages for factor in optimisers.lr_factors(loaded, stage))


@pytest.mark.parametrize(
    ("name", "stage", "expected"),
    [
        ("plain-unet", 0, {"monitor": "valid_loss", "factor": 0.1, "patience": 5}),
        ("capstone-resunet", 1, {"monitor": "score", "mode": "max", "factor": 0.5, "patience": 5}),
        ("liu-resunet", 0, {"monitor": "valid_loss", "factor": 0.1, "patience": 5}),
        ("seresnext50-28th", 0, {"steps": 1500}),
        ("seresnext50-28th", 1, {"steps": 1500, "snapshots": 10}),
        ("resnet34-1st", 0, {"snapshots": 0, "pseudo": "only"}),
        ("resnet34-1st", 1, {"snapshots": 4, "pseudo": "none"}),
        ("resnext50-1st", 0, {"factor": 0.25, "patience": 2 * 10}),
        ("resnext50-1st", 1, {"factor": 0.5, "patience": 2 * 7}),
        ("resnext50-1st", 2, {"snapshots": 4}),
        ("seresnext50-4th", 1, {"snapshots": 7}),
        ("senet-9th", 0, {"steps": 10 * (3600 // 32)}),
    ],
)
def test_the_keys_of_its_schedule_are_those_of_the_source(name, stage, expected):
    found = recipe.load(name).stages[stage]
    assert {key: getattr(found, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain-unet", {"width": 16}),
        ("capstone-tiny", {"width": 3}),
        ("capstone-unet", {"dropout": 0.5}),
        ("capstone-resunet", {"dropout": 0.5}),
        ("liu-resunet", {"width": 16, "dropout": 0.5}),
        ("liu-xception", {"residual": True, "width": 256, "narrow": True, "upsample": "transposed", "dropout": 0.1}),
        ("liu-resnet34-pad512", {"scse": "decoder", "upsample": "bilinear", "residual": False}),
        ("seresnext50-28th", {"width": 8 * 32, "scse": "both", "hypercolumn": True, "dropout": 0.0, "centre": "none"}),
        ("resnet34-1st", {"centre": "fpa", "scse": "both", "hypercolumn": True, "dropout": 0.4}),
        ("resnext50-1st", {"width": 128, "narrow": True, "scse": "decoder", "dropout": 0.2}),
        ("seresnext50-4th", {"width": 64, "scse": "decoder", "hypercolumn": True, "dropout": 0.5}),
        ("seresnext50-4th", {"empty": 0.05, "nonempty": 0.5, "centre": "conv"}),
        ("senet-9th", {"deep": 5 * 0.1, "deep_nonempty": True, "empty": 0.05, "hypercolumn": True, "dropout": 0.5}),
        ("senet-9th", {"width": 128, "narrow": True}),
        ("small-15th", {"width": 32, "dropout": 0.1, "deep": 0.4}),
        ("deep-supervision-21st", {"width": 16, "bam": True, "scse": "decoder", "empty": 0.05}),
        ("deep-supervision-21st", {"deep": 4 * 0.6, "deep_nonempty": True}),
    ],
)
def test_the_switches_of_its_net_are_those_of_the_source(name, expected):
    salt = recipe.load(name).salt
    assert {key: getattr(salt, key) for key in expected} == expected


def test_stems_and_dropped_tiles_are_those_of_the_sources():
    loaded = {name: recipe.load(name) for name in SINGLE}
    assert {name: each.net.stem for name, each in loaded.items() if each.net.stem != "own"} == {
        "seresnext50-28th": "stride1",
        "resnet34-1st": "3x3",
        "seresnext50-4th": "no-pool",
        "senet-9th": "stride1",
        "deep-supervision-21st": "stride1",
    }
    assert {name for name, each in loaded.items() if each.data.drop_constant} == {"seresnext50-28th", "resnext50-1st"}


@pytest.mark.parametrize("name", recipe.names())
def test_its_losses_and_schedules_exist(name):
    loaded = recipe.load(name)
    for number, stage in enumerate(loaded.stages):
        losses.mix(stage.loss)
        schedules.check(stage, f"stages.{number}")
    assert len(schedules.plan(loaded, n_tiles=3200)) >= sum(map(loaded.trains, loaded.stages))


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe.names())
def test_the_real_net_takes_a_step(name):
    loaded = recipe.load(name)
    net = build(loaded)
    generator = torch.Generator().manual_seed(1)
    tiles = torch.randint(256, (2, 101, 101), generator=generator, dtype=torch.uint8)
    masks = torch.rand(2, 101, 101, generator=generator) > 0.5
    depth = (torch.tensor([0.2, 0.7]),) if net.needs_depth else ()
    loss = heads.HeadLoss(losses.mix(loaded.stages[-1].loss), loaded.salt)(net(tiles, *depth), masks)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    with torch.no_grad():
        assert net.eval()(tiles, *depth).shape == (2, 101, 101)

    early, late, rest = net.parameter_groups()
    encoder = sum(p.numel() for p in [*early, *late])
    if name in SINGLE:
        assert encoder == ENCODER.get(name, 0)
    if name in WHOLE:
        assert sum(p.numel() for p in rest) == WHOLE[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe.names())
def test_it_trains_a_shortened_run(name, tmp_path):
    loaded = shortened(recipe.load(name))
    tiles = easy_tiles(8, 2)
    folds = pd.DataFrame({"id": tiles.train_ids, "fold": [0, 1] * 4})
    run = Run(tmp_path / "run")
    run.path.mkdir()
    assert train_folds(run, loaded, tiles, folds, [0])
    scores = read_json(run / "scores.json")
    assert 0 <= scores["folds"]["0"]["score"] <= 1
    history = pd.read_csv(run.fold(0) / "history.csv")
    assert list(history["stage"]) == [i for i, stage in enumerate(loaded.stages) if loaded.trains(stage)]
    assert history["train_loss"].notna().all()


@pytest.mark.slow
def test_strong_is_a_resnet34_from_scratch_without_a_max_pool():
    net = build(recipe.load("strong"))
    assert not recipe.load("strong").net.pretrained
    early, late, _ = net.parameter_groups()
    encoder = sum(p.numel() for p in [*early, *late])
    assert encoder == RESNET34 - 64 * 7 * 7  # two channels for three
    maps = net.eval().decoder.encoder.features(torch.zeros(1, 2, 128, 128))
    assert [x.shape[-1] for x in maps] == [64, 32, 16, 8]
    assert not net.outputs(torch.zeros(1, 101, 101)).further
