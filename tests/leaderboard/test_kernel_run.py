"""The kernel finds its inputs however they are mounted, needs no network, writes nothing but its output."""

import argparse
import base64
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kit.data import demo
from kit.data.competition import TGS
from kit.errors import InputError
from kit.leaderboard import kernel, kernel_run, package, submission
from kit.runs import Run
from tests.leaderboard import kaggle_folder

SCRIPT = Path(__file__).parents[2] / "scripts" / "kernel.py"
TINY = ["--recipe", "demo", "--arch", "test_resnet.r160_in1k", "--set", "limit=20", "--set", "net.pretrained=true"]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "kaggle" / "working").mkdir(parents=True)
    return tmp_path / "kaggle"


def put(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("at", [TGS.slug, f"competitions/{TGS.slug}", "my-copy/deep/er"])
@pytest.mark.parametrize("split", ["train.zip", "test.zip"])
def test_the_data_is_found_where_it_is_mounted(root, at, split):
    put(root / "input" / at / "train.csv")
    put(root / "input" / at / "test.zip")
    put(root / "input" / "other" / "train.csv")  # without tiles it is another's table
    assert kernel_run.find_data(root / "input") == root / "input" / at


def test_unpacked_data_is_found_too(root):
    put(root / "input" / "x" / "train.csv")
    put(root / "input" / "x" / "test" / "images" / "a.png")
    assert kernel_run.find_data(root / "input") == root / "input" / "x"


def test_of_two_the_competitions_own_is_taken(root):
    for at in ("a-copy", TGS.slug):
        put(root / "input" / at / "train.csv")
        put(root / "input" / at / "test.zip")
    assert kernel_run.find_data(root / "input").name == TGS.slug
    shutil.rmtree(root / "input" / TGS.slug)
    put(root / "input" / "b-copy" / "train.csv")
    put(root / "input" / "b-copy" / "test.zip")
    with pytest.raises(InputError, match=r"a-copy and in .*b-copy: attach one"):
        kernel_run.find_data(root / "input")


def test_what_is_not_attached_is_named(root):
    with pytest.raises(InputError, match=f"attach the competition {TGS.slug}"):
        kernel_run.find_data(root / "input")
    with pytest.raises(InputError, match=r"no mine-1a.run under .*input: attach the dataset"):
        kernel_run.find(root / "input", "mine-1a.run")
    put(root / "input" / "datasets" / "me" / "salt-kit-run" / "mine-1a.run")
    assert kernel_run.find(root / "input", "mine-1a.run").name == "mine-1a.run"


@pytest.mark.parametrize("asked", [None, "encoder-resnet18-0a.safetensors"])
def test_encoder_weights_are_found_by_the_encoders_name(root, asked):
    for name in ("encoder-resnet18-0a.safetensors", "encoder-resnet18d-0b.safetensors", "encoder-resnet34-0c.pth"):
        put(root / "input" / "datasets" / "me" / "salt-kit-encoder" / name)
    args = argparse.Namespace(recipe=None, arch="resnet18", set=[], weights=asked)
    found = kernel_run._recipe(args, root / "input").net.weights
    assert Path(found).name == "encoder-resnet18-0a.safetensors"
    args.weights = "encoder-resnet18-ff.safetensors"
    with pytest.raises(InputError, match=r"no encoder-resnet18-ff.safetensors under"):
        kernel_run._recipe(args, root / "input")


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A wheel whose kit only says what it was called with."""
    folder = tmp_path / "planted" / "kit"
    (folder / "leaderboard").mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "cli.py", "machine.py", "runs.py", "leaderboard/__init__.py"):
        shutil.copy(package.PACKAGE / name, folder / name)
    said = "def run(root, args):\n    print('planted', root, args.recipe, args.set)\n"
    (folder / "leaderboard" / "kernel_run.py").write_text(said)
    monkeypatch.setattr(package, "PACKAGE", folder)
    return package.wheel()


def start(script, root, *arguments, **env):
    command = [sys.executable, str(script), *arguments]
    env = {"KIT_KAGGLE_ROOT": str(root), "PATH": "", "TMPDIR": str(root / "working"), **env}
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=root / "working", timeout=60)


def test_the_script_uses_the_wheel_that_it_was_pushed_with(root, planted, tmp_path):
    name, content = planted
    put(root / "input" / "datasets" / "me" / "salt-kit" / name, content)
    script = tmp_path / "script.py"
    script.write_text(kernel.script(SCRIPT, ["--recipe", "cpu"], name))
    done = start(script, root, "-f", "of-kaggles-own", KAGGLE_KERNEL_RUN_TYPE="Batch")
    assert done.stdout.splitlines() == [f"planted {root} cpu []"], done.stderr
    done = start(SCRIPT, root, "--set", "a=1")  # before the clone's own
    assert done.stdout.splitlines() == [f"planted {root} None ['a=1']"]
    script.write_text(kernel.script(SCRIPT, [], "salt_kit-0.1.0-0xffffffff-py3-none-any.whl"))
    done = start(script, root)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no salt_kit-0.1.0-0xffffffff-py3-none-any.whl under")
    assert done.stderr.count("\n") == 1


def test_the_script_carries_an_embedded_wheel(root, planted, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(kernel.script(SCRIPT, [], planted[0], base64.b64encode(planted[1]).decode()))
    assert start(script, root, "--recipe", "x").stdout == f"planted {root} x []\n"


def state(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_offline_it_trains_and_then_only_predicts(tmp_path):
    if reason := kaggle_folder.why_no_namespace():
        pytest.skip(f"no namespace without a network: {reason}")
    data = tmp_path / "data"
    demo.write(data, n_train=40, n_test=12, seed=3)
    name, content = package.wheel()
    script = tmp_path / "kernel.py"
    script.write_text(kernel.script(SCRIPT, [*TINY, "--fold", "0,1", "--time-limit", "180s"], name))
    root = kaggle_folder.build(tmp_path / "one", data, {"me/salt-kit": {name: content}}, "nested")
    before = state(root / "input")
    done = kaggle_folder.run(script, root, on_kaggle=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "begins with random weights" in done.stdout  # the recipe's are neither attached nor to be had
    assert state(root / "input") == before
    submission.validate(root / "working" / "submission.csv", data / "sample_submission.csv")
    run = Run(root / "working" / "runs" / "kernel")
    assert run.finished_folds() == [0, 1]
    assert not list(run.path.rglob("fold_*/test.npy"))  # only what is wanted at home

    # what came home predicts hidden tiles, in the other layout, within a limit that leaves time for one fold
    hidden = tmp_path / "hidden"
    demo.write(hidden, n_train=40, n_test=8, seed=9)
    path = package.pack_run(run, None, tmp_path / "out")
    script.write_text(kernel.script(SCRIPT, ["--trained", path.name, "--time-limit", "1s"], name))
    datasets = {"me/salt-kit": {name: content}, "me/salt-kit-run": {path.name: path.read_bytes()}}
    root = kaggle_folder.build(tmp_path / "two", hidden, datasets, "flat")
    done = kaggle_folder.run(script, root, on_kaggle=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "time is up: 1 of 2 folds count" in done.stdout
    submission.validate(root / "working" / "submission.csv", hidden / "sample_submission.csv")
    assert [path.name for path in (root / "working").iterdir()] == ["submission.csv"]


@pytest.mark.slow
def test_a_limit_that_leaves_no_time_is_refused_in_words(monkeypatch):
    """Predicting alone would take longer than there is."""
    from kit import recipe
    from tests.small import easy_tiles

    monkeypatch.setattr(kernel_run, "_seconds_to_predict", lambda *_: 1e6)
    with pytest.raises(InputError, match="1000000 s a fold, which leaves no time to train: give a longer --time-limit"):
        kernel_run._train(recipe.load("cpu"), "0", Path(), easy_tiles(), None, 0.0)
