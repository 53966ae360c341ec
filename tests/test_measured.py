"""What recipes cost: the file as it was written, shown by --list and in the documentation."""

import re
from pathlib import Path

import pytest

from kit import measured, recipe
from tests.test_recipes import WHOLE

DOC = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text()


def columns_of(name: str) -> list[str]:
    """The row of a recipe in the documentation's table of what was measured."""
    row = re.search(rf"^\| `{name}` \|(.*)\|$", DOC.split("\n## Measured here")[1], re.M)
    return [column.strip() for column in row[1].split("|")]


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["recipe,parameters,tiles_per_second,epoch_seconds,hardware,versions", *rows]) + "\n")
    return path


def test_the_list_shows_what_was_measured_and_a_dash_for_what_was_not(tmp_path, monkeypatch):
    rows = ('resnet34-1st,23060506,8,400,"Some CPU, 2 cores",torch 9', "senet-9th,115034422,0.4,8000,Other CPU,torch 9")
    monkeypatch.setattr(measured, "TABLE", write(tmp_path / "measured.csv", *rows))
    lines = {line.split()[0]: line for line in measured.listing().splitlines()}
    assert lines.keys() >= set(recipe.names())
    source = recipe.load("resnet34-1st").source
    assert re.fullmatch(rf"resnet34-1st +0.874 / 0.895 +23.06 M +6.7 min +{re.escape(source)}", lines["resnet34-1st"])
    assert re.fullmatch(r"senet-9th +- / 0.882 +115.03 M +2.2 h +9th place.*", lines["senet-9th"])
    assert re.fullmatch(r"baseline +- +- +- +ours.*", lines["baseline"])
    last = measured.listing().splitlines()[-1]
    assert all(words in last for words in ("3,200 tiles", "Some CPU, 2 cores", "Other CPU"))


def test_the_list_does_without_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "TABLE", tmp_path / "measured.csv")
    assert re.search(r"^cpu +- +- +- +ours", measured.listing(), re.M)


@pytest.mark.parametrize("name", sorted(measured.costs()))
def test_the_packaged_table_is_whole_and_so_is_the_documentation(name):
    cost = measured.costs()[name]
    assert name in recipe.names()
    assert cost.epoch_seconds == pytest.approx(3200 / cost.tiles_per_second, rel=0.01)
    assert cost.parameters == WHOLE.get(name, cost.parameters)  # printed by the source, or counted by hand
    assert cost.hardware
    assert "torch " in cost.versions
    if name != "demo":
        assert columns_of(name)[:2] == [f"{cost.parameters:,}", f"{cost.tiles_per_second:g}"]


def test_the_table_is_in_the_package():
    """An installed kit has no checkout to read it from."""
    lines = (Path(__file__).parents[1] / "setup.cfg").read_text().splitlines()
    patterns = next(line for line in lines if line.startswith("kit = ")).removeprefix("kit = ").split(", ")
    assert any(measured.TABLE.relative_to(Path(measured.__file__).parent).match(pattern) for pattern in patterns)
