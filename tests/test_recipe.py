"""Recipes: parents, settings, refusals, and the way to TOML and back."""

from dataclasses import replace

import pytest

from kit import recipe
from kit.errors import InputError


@pytest.mark.parametrize("name", recipe.names())
def test_packaged_recipes_survive_the_way_to_toml_and_back(name, tmp_path):
    loaded = recipe.load(name)
    assert loaded.source, "a recipe names its source"
    (tmp_path / "copy.toml").write_text(recipe.dumps(loaded))
    assert recipe.load(str(tmp_path / "copy.toml")) == replace(loaded, parent="")  # resolved, it stands alone


def test_strings_that_need_quoting_survive(tmp_path):
    loaded = recipe.load("baseline", ['source=a "quoted" \\ slash, ü, 🧂 and \x7f'])
    (tmp_path / "copy.toml").write_text(recipe.dumps(loaded))
    assert recipe.load(str(tmp_path / "copy.toml")).source == 'a "quoted" \\ slash, ü, 🧂 and \x7f'


def test_a_child_changes_only_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "child.toml").write_text('parent = "baseline"\n[net]\nstem = "no-pool"\n')
    (tmp_path / "grandchild.toml").write_text('parent = "child.toml"\nseed = 3\n[net]\nencoder = "resnet18"\n')
    base, loaded = recipe.load("baseline"), recipe.load("grandchild.toml")
    assert (loaded.name, loaded.seed, loaded.net.stem, loaded.net.encoder) == ("grandchild", 3, "no-pool", "resnet18")
    assert (loaded.stages, loaded.data, loaded.net.decoder) == (base.stages, base.data, base.net.decoder)


def test_settings_override_one_key_each():
    loaded = recipe.load("baseline", ["net.stem=no-pool", "stages.1.lr=1", "data.size=160", "net.pretrained=false"])
    assert (loaded.net.stem, loaded.stages[1].lr, loaded.data.size, loaded.net.pretrained) == (
        "no-pool",
        1.0,
        160,
        False,
    )
    assert loaded.stages[0] == recipe.load("baseline").stages[0]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("net.stm=own", ["net.stm", "net.stem"]),
        ("stages.9.lr=1", ["stages.9.lr", "stages.3.lr"]),
        ("size=160", ["'size'", "data.size"]),
        ("seed=1.5", ["seed", "int"]),
        ("net.pretrained=1", ["net.pretrained", "bool"]),
        ("net=resnet34", ["'net'"]),
        ("stages.0.epochs=0", ["stages.0.epochs", "above 0"]),
        ("stages.0.lr=nan", ["stages.0.lr", "finite"]),
        ("stages.0.epochs=inf", ["stages.0.epochs", "finite"]),
        ("limit=-3", ["limit", "0 (all tiles)"]),
        ("stages.1.micro_bs=-2", ["stages.1.micro_bs", "0 (the whole batch at once)", "-1 (as many tiles as fit)"]),
        ("stages.1.micro_bs=auto", ["stages.1.micro_bs", "int"]),
        ("net.stem", ["no '='"]),
    ],
)
def test_bad_settings_are_refused_in_one_line(setting, words):
    with pytest.raises(InputError) as caught:
        recipe.load("baseline", [setting])
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_bad_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.toml").write_text("seed = = 1")
    (tmp_path / "circle.toml").write_text('parent = "circle.toml"')
    (tmp_path / "foreign.toml").write_text('parent = "baseline"\n[net]\nencodr = "x"\n')
    (tmp_path / "empty.toml").write_text("stages = []")
    for name, word in [
        ("baselin", "near: baseline"),
        ("absent.toml", "no recipe"),
        ("broken.toml", "not valid TOML"),
        ("circle.toml", "ancestor"),
        ("foreign.toml", "net.encodr"),
        ("empty.toml", "no [[stages]]"),
    ]:
        with pytest.raises(InputError, match=word.replace("[", r"\[")):
            recipe.load(name)


def test_epochs_and_rates_keep_the_proportions_of_the_stages():
    base = recipe.load("baseline")
    scaled = base.scaled(10).with_lr(0.5).with_bs(7)
    assert scaled.epochs == pytest.approx(10)
    for old, new in zip(base.stages, scaled.stages, strict=True):
        assert new.epochs / scaled.epochs == pytest.approx(old.epochs / base.epochs)
        assert new.lr / 0.5 == pytest.approx(old.lr / base.stages[0].lr)
        assert new.bs == 7
