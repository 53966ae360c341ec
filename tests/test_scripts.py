"""What a user sees: the scripts as processes, from data to a validated submission, and their one-line refusals."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from kit import recipe
from kit.data import demo
from tests.processes import ROOT, Started, run, start, succeed
from tests.small import TINY

SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("[a-z]*.py"))
TRAIN = ["train.py", "--recipe", str(TINY), "--run", "a"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data"
    demo.write(path, n_train=40, n_test=12, seed=3)
    return path


@pytest.fixture
def home(tmp_path, data):
    """A user's folder with data/ in it."""
    shutil.copytree(data, tmp_path / "data")
    return tmp_path


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_comes_without_loading_torch(script, tmp_path):
    process = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "scripts" / script), "--help"],
        capture_output=True, text=True, cwd=tmp_path, timeout=60, check=True,
    )  # fmt: skip
    assert "usage:" in process.stdout
    loaded = set(re.findall(r"\|\s+([\w.]+)$", process.stderr, re.M))
    assert not loaded & {"torch", "fastai", "pandas", "kaggle"}


def test_the_list_of_recipes_names_their_sources(tmp_path):
    out = succeed("train.py", "--list", cwd=tmp_path)
    assert re.search(r"^baseline +\S+", out, re.M)


@pytest.mark.slow  # processes
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["train.py"], ["data is no folder"]),
        (["train.py", "--data", "nowhere"], ["nowhere is no folder"]),
        (["train.py", "--recipe", "basline"], ["near: baseline"]),
        (["train.py", "--set", "net.stm=own"], ["net.stem"]),
        (["train.py", "--fold", "9"], ["--fold", "0 to 4"]),
        (["train.py", "--fold", "x"], ["--fold"]),
        (["train.py", "--epochs", "0"], ["--epochs", "above 0"]),
        (["train.py", "--lr", "-1"], ["--lr"]),
        (["train.py", "--epochs", "inf"], ["--epochs", "finite"]),
        (["train.py", "--seed", "-1"], ["seed must be 0 to"]),
        (["train.py", "--time-budget", "soon"], ["no duration"]),
        (["train.py", "--resume"], ["no run under runs/"]),
        (["predict.py", "absent"], ["no run 'absent'"]),
        (["tune_threshold.py", "latest"], ["no run under runs/"]),
        (["pseudo_label.py", "absent"], ["no run 'absent'"]),
        (["train.py", "--set", "pseudo_run=absent", "--set", "stages.0.pseudo=mix"], ["no run 'absent'"]),
        (["train.py", "--set", "iterate=2"], ["no stage", "stages.3.pseudo=mix"]),
        (["submit.py", "absent", "--dry-run"], ["no run 'absent'"]),
        (["train.py", "--pretext", "--fold", "0"], ["--pretext", "leave out --fold"]),
        (["train.py", "--pretext", "--resume"], ["no pretext run under runs/"]),
        (["train.py", "--lr-find", "--pretext"], ["--lr-find", "leave out --pretext"]),
        (["train.py", "--lr-find", "--time-budget", "1h"], ["--lr-find", "leave out --time-budget"]),
        (["train.py", "--lr-find", "--data", "nowhere"], ["nowhere is no folder"]),
        (["train.py", "--bs", "-3"], ["--bs must be above 0"]),
        (["mosaic.py", "absent"], ["no run 'absent'"]),
        (["mosaic.py", "--data", "nowhere"], ["nowhere is no folder"]),
        (["report.py", "absent"], ["no run 'absent'"]),
        (["report.py"], ["data is no folder"]),
        (["submit.py"], ["name runs or files"]),
        (["prepare.py"], ["data is no folder"]),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(command, words, tmp_path):
    code, out, err = run(*command, cwd=tmp_path)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_the_jigsaw_is_written_beside_the_cache_and_folds_by_mosaic_find_it(home):
    code, _, err = run(*TRAIN, "--set", "data.folds_by=mosaic", cwd=home)
    assert (code, "make it with scripts/mosaic.py" in err) == (2, True)
    out = succeed("mosaic.py", "--data", "data", cwd=home)
    table = pd.read_csv(home / "data/.kit/mosaic.csv", dtype={"id": str})
    truth = pd.read_csv(home / "data/demo_mosaic.csv", dtype={"id": str}).set_index("id")
    truth = truth[truth.groupby("mosaic")["mosaic"].transform("size") > 1]
    assert set(table["id"]) == set(truth.index)
    for _, own in table.groupby("mosaic"):  # as the truth but for the numbers and where each begins
        true = truth.loc[own["id"]]
        shifts = {(row, col) for row, col in true[["row", "col"]].to_numpy() - own[["row", "col"]].to_numpy()}
        assert (true["mosaic"].nunique(), len(shifts)) == (1, 1)
    written = re.findall(r"written: (\S+)", out)
    assert {Path(path).name for path in written} == {"mosaic.csv", "mosaic_folds.csv", "mosaics"}
    assert all((home / path).exists() for path in written)


@pytest.mark.slow
def test_from_data_to_a_submission(home):
    usual = ["--set", "net.decoder=dynamic", "--set", "data.fit=pad-reflect", "--set", "data.size=112"]
    out = succeed(*TRAIN, *usual, "--epochs", "2", "--fold", "0,1", "--bs", "auto", cwd=home)
    assert "next: python scripts/predict.py a" in out
    assert out.count("tiles through the net at once: 5 of a batch of 5 in stage 1, 6 of a batch of 6 in stage 2") == 1
    assert [stage.micro_bs for stage in recipe.load(str(home / "runs/a/recipe.toml")).stages] == [5, 6, 6]
    succeed("predict.py", "a", cwd=home)
    again = succeed("predict.py", "latest", cwd=home)
    assert again.count("predicted already") == 2
    assert "nested score" in succeed("tune_threshold.py", "a", cwd=home)
    out = succeed("submit.py", "a", "--dry-run", cwd=home)
    path = home / re.search(r"valid: (\S+)", out)[1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_a_[0-9a-f]{8}\.csv", path.name)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert list(table["id"]) == list(pd.read_csv(home / "data" / "sample_submission.csv", dtype=str)["id"])
    assert 0 <= float(re.search(r"score against \S+: ([\d.]+)", out)[1]) <= 1
    mean = (np.load(home / "runs/a/fold_0/test.npy").astype(float) + np.load(home / "runs/a/fold_1/test.npy")) / 2
    np.testing.assert_allclose(np.load(home / "runs/a/test.npy"), mean, atol=1e-3)
    assert (home / "runs/a/decision.png").stat().st_size > 10_000
    assert not [path for path in (home / "runs").rglob("*") if ".tmp" in path.name]

    page = home / re.fullmatch(r"written: (\S+)\n", succeed("report.py", "a", cwd=home))[1]
    sections = re.findall(r'<section id="([\w-]+)">', page.read_text())
    assert sections == ["summary", "result", "gallery", "training", "net", "data"]
    assert (page.parent / "figures" / "metric.svg").exists()
    assert "written: reports/data/index.html" in succeed("report.py", "--data", cwd=home)

    # the run is there: a second start must not touch it; resume says that it is done
    code, _, err = run(*TRAIN, cwd=home)
    assert (code, "exists already" in err) == (2, True)
    assert "fold 1 is done already" in succeed("train.py", "--run", "a", "--resume", cwd=home)
    code, _, err = run("train.py", "--run", "a", "--resume", "--lr", "1", cwd=home)
    assert (code, "leave out --lr" in err) == (2, True)

    # a file of the user's own is validated too
    path.write_text(path.read_text().replace("\n", "\nextra,\n", 1))
    code, _, err = run("submit.py", str(path), "--dry-run", cwd=home)
    assert code == 2
    assert "line 2" in err
    assert "'extra'" in err


def wait_for(path: Path, process: Started) -> None:
    while not path.exists():
        assert process.returncode is None, process.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def reference(data):
    """A training that nothing cut."""
    succeed(*TRAIN, cwd=data.parent)
    return data.parent / "runs" / "a"


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_training_is_resumed_to_the_same_weights(home, reference, sent):
    process = start(*TRAIN, cwd=home)
    wait_for(home / "runs/a/fold_0/resume.pt", process)
    process.send_signal(signal.SIGSTOP)  # so that it is still there when the second one asks
    code, _, err = run("train.py", "--run", "a", "--resume", cwd=home)
    assert (code, f"process {process.pid}" in err) == (2, True)  # one process at a time
    process.send_signal(sent)
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate()
    if sent != signal.SIGKILL:
        assert process.returncode == 130
        assert "--run a --resume" in out
    succeed("train.py", "--run", "a", "--resume", cwd=home)
    for name in ("best", "last", "averaged"):
        own, whole = (load_file(run / f"fold_0/{name}.safetensors") for run in (home / "runs/a", reference))
        assert own.keys() == whole.keys()
        for key in own:
            np.testing.assert_array_equal(own[key], whole[key])


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_keeps_the_last_good_state(home):
    """A limit on the size of files stands in for the full disk: one checkpoint of 0.7 M parameters is larger."""
    script = "import resource, signal, sys, runpy; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    script += "resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20)); "
    script += f"sys.path.insert(0, {str(ROOT / 'scripts')!r}); sys.argv = {TRAIN!r}; "
    script += f"runpy.run_path({str(ROOT / 'scripts' / 'train.py')!r}, run_name='__main__')"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=home, timeout=600)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("error: no room to write")
    assert "Traceback" not in process.stderr
    succeed("train.py", "--run", "a", "--resume", cwd=home)


@pytest.mark.slow
def test_an_encoder_pretrained_without_labels_is_trained_on(home):
    pretext = ["train.py", "--pretext", "--recipe", str(TINY), "--epochs", "4", "--run", "p"]
    process = start(*pretext, cwd=home)
    wait_for(home / "runs/p/resume.pt", process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    if process.returncode == 130:  # else it was done already
        assert "python scripts/train.py --pretext --run p --resume" in out
    succeed("train.py", "--pretext", "--run", "p", "--resume", cwd=home)
    assert "is done already" in succeed("train.py", "--pretext", "--resume", cwd=home)
    left = {"command.txt", "environment.json", "pretext.toml", "pretext.json", "history.csv", "encoder.safetensors"}
    assert {path.name for path in (home / "runs/p").iterdir()} == left | {".lock", "pretext.png"}

    for command in (
        ["predict.py", "p"],
        ["predict.py", "p", "p", "--run", "both"],
        ["tune_threshold.py", "p"],
        ["pseudo_label.py", "p"],
        ["mosaic.py", "p"],
        ["submit.py", "p", "--dry-run"],
        ["train.py", "--run", "p", "--resume"],
        [*TRAIN, "--set", "pseudo_run=p", "--set", "stages.0.pseudo=mix"],
    ):
        code, _, err = run(*command, cwd=home)
        assert (code, err.count("\n"), "runs/p is a pretext run, which predicts no masks" in err) == (2, 1, True), err
    code, _, err = run(*pretext, cwd=home)
    assert (code, "exists already" in err) == (2, True)

    weights = ["--weights", "runs/p/encoder.safetensors"]
    code, _, err = run(*TRAIN, *weights, "--set", "data.channels=grey", cwd=home)
    assert (code, "data.channels=grey3" in err) == (2, True)
    succeed(*TRAIN, *weights, "--epochs", "0.1", cwd=home)
    code, _, err = run("train.py", "--pretext", "--run", "a", "--resume", cwd=home)
    assert (code, "is no pretext run" in err) == (2, True)
