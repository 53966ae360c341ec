"""What is published has the same bytes for the same content, and a name that changes with it."""

import io
import subprocess
import sys
import zipfile

import pandas as pd
import pytest

from kit import runs
from kit.errors import InputError
from kit.leaderboard import package
from kit.runs import Run


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A small package in the place of the kit's own."""
    folder = tmp_path / "source" / "kit"
    (folder / "recipes").mkdir(parents=True)
    (folder / "__init__.py").write_text("VALUE = 7\n")
    (folder / "recipes" / "a.toml").write_text("seed = 1\n")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"\0")
    monkeypatch.setattr(package, "PACKAGE", folder)
    return folder


def test_a_wheel_is_named_by_its_content(source):
    name, content = package.wheel()
    assert package.wheel() == (name, content)
    (source / "recipes" / "a.toml").write_text("seed = 2\n")
    other, _ = package.wheel()
    assert other != name
    (source / "recipes" / "a.toml").write_text("seed = 1\n")
    assert package.wheel() == (name, content)
    (source / "recipes" / "a.toml").rename(source / "recipes" / "b.toml")
    assert package.wheel()[0] not in (name, other)


def test_pip_installs_the_wheel_without_a_network(source, tmp_path):
    name, content = package.wheel()
    (tmp_path / name).write_bytes(content)
    flags = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "install", *flags, "--target", tmp_path / "to", tmp_path / name]
    subprocess.run(pip, check=True)
    found = sorted(str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to" / "kit").rglob("*.*"))
    assert found == ["kit/__init__.py", "kit/recipes/a.toml"]
    assert (tmp_path / "to" / "kit" / "__init__.py").read_text() == "VALUE = 7\n"


def test_the_kits_wheel_has_what_is_in_the_clone():
    _, content = package.wheel()
    tracked = subprocess.run(["git", "-C", package.PACKAGE, "ls-files", "--full-name", "--others", "--cached",
                              "--exclude-standard", "."], capture_output=True, text=True)  # fmt: skip
    if tracked.returncode:
        pytest.skip("no git, or no clone")
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert {name for name in names if name.startswith("kit/")} == set(tracked.stdout.split())


def a_run(path):
    """A run directory with two finished folds, as far as packing looks at it."""
    run = Run(path / "a.b")
    for fold, name in enumerate(("best", "averaged")):
        runs.write_bytes(run.fold(fold) / f"{name}.safetensors", bytes([fold]) * 100)
        runs.write_bytes(run.fold(fold) / "last.safetensors", b"unused")
    runs.write_text(run / "recipe.toml", "seed = 1\n")
    runs.write_json(run / "scores.json", {"folds": {"0": {"weights": "best"}, "1": {"weights": "averaged"}}})
    runs.write_json(run / "environment.json", {"data": "/home/somebody/data"})
    return run


def test_a_packed_run_holds_what_predicting_needs_and_no_more(tmp_path):
    run = a_run(tmp_path)
    places = pd.DataFrame({"id": ["x"], "mosaic": [0], "row": [1], "col": [2]})
    path = package.pack_run(run, places, tmp_path / "out")
    assert path.name.startswith("a.b-")
    assert path.suffix == ".run"  # Kaggle would unpack a .zip
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    assert content.pop("mosaic.csv") == b"id,mosaic,row,col\nx,0,1,2\n"
    names = ["fold_0/best.safetensors", "fold_1/averaged.safetensors", "recipe.toml", "scores.json"]
    assert sorted(content) == names
    assert all(content[name] == (run / name).read_bytes() for name in names)
    first = path.read_bytes()
    assert package.pack_run(run, places, tmp_path / "out") == path
    assert path.read_bytes() == first
    runs.write_bytes(run.fold(1) / "averaged.safetensors", b"other")
    assert package.pack_run(run, None, tmp_path / "out") != path


def test_a_run_that_cannot_predict_is_refused(tmp_path):
    run = a_run(tmp_path)
    runs.write_json(run / "ensemble.json", {})
    with pytest.raises(InputError, match="is an ensemble"):
        package.pack_run(run, None, tmp_path)
    (run / "ensemble.json").unlink()
    for fold in range(2):
        for path in run.fold(fold).iterdir():
            path.unlink()
    with pytest.raises(InputError, match="no finished fold"):
        package.pack_run(run, None, tmp_path)


def test_encoder_weights_are_named_by_net_and_content(tmp_path):
    one, two = tmp_path / "w.safetensors", tmp_path / "w.pth"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    names = [package.encoder_name("resnet34", path) for path in (one, two)]
    assert names[0].startswith("encoder-resnet34-")
    assert [name.rpartition(".")[2] for name in names] == ["safetensors", "pth"]
    assert names[0].split("-")[2].split(".")[0] != names[1].split("-")[2].split(".")[0]
