"""Run directories: files whole or not at all, one process at a time, names found."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kit import runs
from kit.errors import InputError
from kit.runs import Run, write_json

ROOT = Path(__file__).parent.parent


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    runs.write_text(path, "old")
    with pytest.raises(RuntimeError), runs.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("recipe", ["my recipe", ".hidden", "a/b", "größe"])
def test_a_name_by_default_is_one_that_may_be_given(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = runs.default_name(recipe, "hf_hub:timm/resnet18.a1_in1k")
    assert runs.new_run(name).path == Path("runs") / name
    (tmp_path / "runs" / name).mkdir(parents=True)
    assert runs.default_name(recipe, "hf_hub:timm/resnet18.a1_in1k") != name


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """The file-size limit of the process stands in for a full disk: the write fails half way with an OSError."""
    path = tmp_path / "a.bin"
    runs.write_bytes(path, b"old")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        with pytest.raises(OSError, match="too large"):
            runs.write_bytes(path, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_the_lock_keeps_out_a_second_process_and_dies_with_the_first(tmp_path):
    code = (
        "import sys, time; from kit.runs import Run\n"
        f"with Run({str(tmp_path / 'r')!r}).lock():\n    print('held', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {holder.pid}"), runs.Run(tmp_path / "r").lock():
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with runs.Run(tmp_path / "r").lock():
        pass


def test_names_are_found_and_mistakes_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no run under"):
        runs.find_run("latest")
    for number, name in enumerate(["old", "new"]):
        runs.write_text(Path("runs") / name / "recipe.toml", "")
        os.utime(Path("runs") / name / "recipe.toml", (time.time() + number,) * 2)
    assert runs.find_run("latest").name == "new"
    assert runs.find_run("old").path == Path("runs/old")
    assert runs.find_run(str(tmp_path / "runs" / "old")).name == "old"
    with pytest.raises(InputError, match="new, old"):
        runs.find_run("absent")
    with pytest.raises(InputError, match="exists already"):
        runs.new_run("old")
    for name in ("", "a/b", "..", "latest"):
        with pytest.raises(InputError, match="no usable name"):
            runs.new_run(name)


def test_the_environment_names_versions_and_no_secrets(monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "secret-value")
    record = runs.environment()
    assert record["versions"]["numpy"]
    assert "secret-value" not in str(record)


def test_a_pretext_run_is_taken_for_no_other_run_and_no_other_for_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no pretext run under runs/.*--pretext"):
        runs.find_run("latest", runs.PRETEXT)
    runs.write_text(Path("runs") / "a" / "recipe.toml", "")
    runs.write_text(Path("runs") / "p" / "pretext.toml", "")
    os.utime(Path("runs/a/recipe.toml"), (time.time() - 9,) * 2)
    assert runs.find_run("latest").name == "a"
    assert runs.find_run("latest", runs.PRETEXT).name == "p"
    for name in ("p", str(tmp_path / "runs" / "p")):
        with pytest.raises(InputError, match=r"is a pretext run, .*--weights \S*runs/p/encoder.safetensors"):
            runs.find_run(name)
    with pytest.raises(InputError, match="is no pretext run: leave out --pretext"):
        runs.find_run("a", runs.PRETEXT)
    with pytest.raises(InputError, match="pretext runs here: p"):
        runs.find_run("absent", runs.PRETEXT)
    with pytest.raises(InputError, match="exists already"):
        runs.new_run("p")


GOOD = {"weights": "best", "score": 0.9, "tiles_per_second": 40.0}


@pytest.mark.parametrize("folds", [{}, {"0": GOOD, "none": {"weights": "last"}}])
def test_scores_are_read_as_they_were_written(tmp_path, folds):
    run = Run(tmp_path / "a")
    assert run.scores() == {"folds": {}}
    write_json(run / "scores.json", {"folds": folds, "mean": 0.5})
    assert run.scores() == {"folds": folds, "mean": 0.5}


@pytest.mark.parametrize(
    "scores",
    [
        {},
        {"folds": [1]},
        {"folds": {"0": 0.9}},
        {"folds": {"first": GOOD}},
        {"folds": {"0": {"score": 0.9}}},
        {"folds": {"0": GOOD | {"tiles_per_second": "fast"}}},
        {"folds": {}, "mean": "high"},
    ],
)
def test_damaged_scores_are_named(tmp_path, scores):
    run = Run(tmp_path / "a")
    write_json(run / "scores.json", scores)
    for read in (run.scores, run.finished_folds):
        with pytest.raises(InputError, match=rf"^{run / 'scores.json'} is not what train.py wrote: restore it"):
            read()


def test_a_run_has_its_folders_name_however_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "a" / "fold_0").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "fold_0")
    assert [Run(path).name for path in ("..", "../../a", tmp_path / "a", ".")] == ["a", "a", "a", "fold_0"]


def test_a_command_line_names_a_run_so_that_it_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("runs/a", "elsewhere/runs/b"):
        write_json(Path(path) / runs.RECIPE, {})
        given = Run(path).given
        assert runs.find_run(given).path == Path(path)
    assert (Run("runs/a").given, Run(tmp_path / "runs" / "a").given, given) == ("a", "a", "elsewhere/runs/b")
