"""Folds in processes of their own, two at a time, leave what one process leaves that trains them one after another."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pandas as pd
import pytest
import torch

from kit.data import demo
from kit.data import tiles as tile_files
from kit.errors import InputError
from kit.machine import cpus
from kit.runs import Run, read_json
from kit.training import checkpoint, command, parallel
from kit.training.callbacks import StopRequest
from kit.training.learner import make_folds
from tests import processes
from tests.processes import ROOT
from tests.small import TINY, tiny_recipe

FOLDS = [0, 1, 2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data"
    demo.write(path, n_train=40, n_test=12, seed=3)
    return path


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """The folds trained one after another in this process."""
    with one_thread():
        return begin(tmp_path_factory.mktemp("reference") / "a", data)


@contextmanager
def one_thread():
    """Sums of another number of threads are other sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_devices(monkeypatch):
    monkeypatch.setattr(parallel, "devices", lambda: ["", ""])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the folds' processes
    with one_thread():
        yield


def begin(path, data) -> Run:
    run, recipe, tiles = Run(path), tiny_recipe(), tile_files.load(data)
    command.start(run, recipe, tiles, data, make_folds(recipe, tiles), FOLDS)
    return run


def files(run: Run, *folders: str) -> dict[str, object]:
    """What a training leaves in a run, or in some of its folders, without times."""
    found = {}
    for path in sorted(path for folder in folders or ["."] for path in (run / folder).rglob("*")):
        name = str(path.relative_to(run.path))
        if path.suffix in (".safetensors", ".npy") or path.name.endswith("ids.csv") or path.name == "resume.pt":
            found[name] = path.read_bytes()
        elif path.name == "history.csv":
            found[name] = pd.read_csv(path).drop(columns="seconds").to_csv()
        elif path.name == "scores.json":
            found[name] = read_json(path)
            for entry in found[name]["folds"].values():
                del entry["seconds"], entry["tiles_per_second"]
    return found


@contextmanager
def sigterm_when(condition):
    """SIGTERM for this process as soon as the condition holds."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # should nobody listen any more
    over = threading.Event()

    def wait():
        while not over.wait(0.02):
            if condition():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def exit_code(train, *args) -> int:
    with pytest.raises(SystemExit) as ended:
        train(*args)
    return ended.value.code


@pytest.mark.slow
def test_stopped_then_failing_then_whole_it_ends_where_one_process_does(
    reference, data, tmp_path, two_devices, capfd, monkeypatch
):
    run, recipe, tiles = Run(tmp_path / "a"), tiny_recipe(), tile_files.load(data)
    resume = [run.fold(fold) / "resume.pt" for fold in FOLDS]
    with sigterm_when(lambda: all(path.exists() for path in resume[:2])), monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Terminal())
        assert exit_code(begin, run.path, data) == 130
        bars = sys.stderr.getvalue()
    assert {"fold 0", "fold 1"} == set(re.findall(r"(fold \d): +\d+%\|[^\r\n]*\| \d+/24 ", bars))
    out = capfd.readouterr().out
    assert f"go on with: python scripts/train.py --run {run.path} --resume" in out
    assert run.finished_folds() == []
    for path in resume[:2]:
        assert checkpoint.load_resume(path, "cpu")[0].rows
    assert not run.fold(2).exists()
    assert sum("saving after this batch" in line for line in out.splitlines()) == 2
    assert {"fold 0: epoch", "fold 1: epoch"} <= {line[:13] for line in out.splitlines()}

    resume[1].write_bytes(b"")  # one fold cannot go on
    monkeypatch.setattr(parallel, "devices", lambda: [])  # and there are no GPUs now, but two are to share the CPU
    two = command.Manner(per_device=2)
    assert exit_code(lambda: command.go_on(run, recipe, tiles, data, manner=two)) == 2
    out, err = capfd.readouterr()
    assert "3 folds, 2 at a time\n" in out
    assert "fold 0: " in out
    assert f"error: fold 1 failed: {resume[1]} cannot be read" in err
    assert "2 of 3 folds were trained" in err
    assert err.rstrip().endswith(f"python scripts/train.py --run {run.path} --per-device 2 --resume")
    assert run.finished_folds() == [0, 2]
    for folder in ("fold_0", "fold_2"):
        assert files(run, folder) == files(reference, folder)

    shutil.rmtree(run.fold(1))
    command.go_on(run, recipe, tiles, data)
    assert files(run) == files(reference)
    assert {"oof.npy", "oof_ids.csv", "scores.json", "fold_1/averaged.safetensors"} <= files(run).keys()


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        if parent == pid:
            found.append(int(path.parent.name))
    return found


def runs_on(pid: int) -> bool:
    """False for a process that has ended, also where nobody has asked for its exit code yet."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def wait_until(condition, seconds=300.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def pretend_two_devices():
    parallel.devices = lambda: ["", ""]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_fold_trains_on_when_the_process_that_deals_them_out_is_killed(data, tmp_path):
    flags = ["--recipe", str(TINY), "--fold", "0,1", "--epochs", "500", "--run", "a", "--data", str(data)]
    parent = processes.start("train.py", *flags, cwd=tmp_path, before=pretend_two_devices)
    folds = []
    try:
        saved = [tmp_path / f"runs/a/fold_{fold}/resume.pt" for fold in (0, 1)]
        assert wait_until(lambda: all(path.exists() for path in saved))
        folds = children(parent.pid)
        assert len(folds) == 2
        parent.kill()
        parent.communicate()
        assert wait_until(lambda: not any(map(runs_on, folds)), seconds=30)
    finally:
        for pid in [parent.pid, *folds]:
            if runs_on(pid):
                os.kill(pid, signal.SIGKILL)
    with Run(tmp_path / "runs/a").lock():
        for path in saved:
            assert checkpoint.load_resume(path, "cpu")[0].rows


class Scripts(parallel.Crew):
    """Processes that run some lines of Python instead of training a fold."""

    def __init__(self, lines: dict[str, str], devices: int):
        super().__init__(Run("a"), [], ["x"] * devices)
        self.lines, self.most, self.used = lines, 0, []

    def _start(self, name: str, device: int):
        self.most = max(self.most, len(self.processes) + 1)
        self.used.append(device)
        code = [sys.executable, "-u", "-c", self.lines[name]]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(code, text=True, process_group=0, **pipes)


def test_each_fold_is_trained_once_and_no_more_at_a_time_than_there_are_devices(tmp_path):
    names = [str(number) for number in range(5)]
    crew = Scripts({name: f"open({str(tmp_path / name)!r}, 'x'); import time; time.sleep(0.1)" for name in names}, 2)
    assert crew.train(names) == []
    assert sorted(os.listdir(tmp_path)) == names
    assert crew.most <= 2
    assert set(crew.used) == {0, 1}
    assert sorted(crew.free) == [0, 1]


def test_the_reasons_of_failures_are_told_and_the_other_folds_go_on(capsys):
    crew = Scripts(
        {
            "0": "import sys; print('error: no room', file=sys.stderr); sys.exit(2)",
            "1": "import os, signal; print('fold 1: begins'); os.kill(os.getpid(), signal.SIGKILL)",
            "2": "print('epoch 1/5')",
            "3": "1 / 0",
        },
        2,
    )
    assert crew.train(["0", "1", "2", "3"]) == [
        ("0", 2, "no room"),
        ("1", 1, "killed by SIGKILL"),
        ("3", 1, "ZeroDivisionError: division by zero"),
    ]
    lines = capsys.readouterr().out.splitlines()
    assert {"fold 0: error: no room", "fold 1: begins", "fold 2: epoch 1/5"} <= set(lines)


def test_asked_once_they_may_save_and_the_rest_are_not_begun_asked_twice_they_are_killed(tmp_path):
    obeys = f"""
import signal, sys, time
def stop(number, frame):
    open({str(tmp_path / "saved")!r}, "x")
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
open({str(tmp_path / "0")!r}, "x")
time.sleep(600)
"""
    deaf = f"""
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open({str(tmp_path / "1")!r}, "x")
time.sleep(600)
"""
    crew = Scripts({"0": obeys, "1": deaf, "2": f"open({str(tmp_path / '2')!r}, 'x')"}, 2)
    started = time.monotonic()
    with sigterm_when(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists()):
        again = threading.Thread(target=lambda: wait_until((tmp_path / "saved").exists) and os.kill(os.getpid(), 15))
        again.start()
        assert crew.train(["0", "1", "2"]) == []
        again.join()
    assert crew.asked
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "saved"]
    assert time.monotonic() - started < 120


def state(pid: int) -> str:
    """The letter that Linux has for what a process does: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_z_stops_the_folds_with_the_process_that_shows_them_and_both_go_on(tmp_path):
    """That process is another one here, as the tests may not be stopped."""
    script = f"""
import sys
from tests.training.test_parallel import Scripts
waits = "import os, time; open({str(tmp_path / "pid")!r}, 'w').write(str(os.getpid())); time.sleep(2)"
print(Scripts({{"0": waits}}, 1).train(["0"]))
"""
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    try:
        assert wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
        pids = parent.pid, int((tmp_path / "pid").read_text())
        parent.send_signal(signal.SIGTSTP)
        assert wait_until(lambda: [state(pid) for pid in pids] == ["T", "T"], seconds=30)
        parent.send_signal(signal.SIGCONT)
        assert parent.communicate(timeout=60)[0] == "[]\n"
    finally:
        parent.kill()


@pytest.mark.parametrize("hasty", [True, False])
def test_a_second_request_stops_at_once_but_not_what_another_process_ends(monkeypatch, capfd, hasty):
    monkeypatch.setattr(StopRequest, "hasty", hasty)
    stop = StopRequest()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt) if hasty else nullcontext():
            os.kill(os.getpid(), signal.SIGTERM)
    assert capfd.readouterr().err.count("saving after this batch") == 1


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [
        (None, 3, ["0", "1", "2"]),
        ("", 0, []),
        ("5,GPU-8f2a,7", 3, ["5", "GPU-8f2a", "7"]),
        ("1,-1,2", 1, ["1"]),  # CUDA sees none behind one that is not there
    ],
)
def test_a_process_on_one_gpu_is_given_its_name_among_those_that_are_visible(monkeypatch, visible, count, expected):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert parallel.devices() == expected


@pytest.mark.parametrize(
    ("gpus", "per_device", "expected"),
    [
        ([], 1, [""]),
        ([], 2, ["", ""]),
        (["5"], 3, ["5", "5", "5"]),
        (["0", "7"], 1, ["0", "7"]),
        (["0", "7"], 2, ["0", "7", "0", "7"]),
        (["0", "7", "8"], 2, ["0", "7", "8", "0", "7"]),  # of six places five folds take
    ],
)
def test_gpus_are_shared_as_evenly_as_can_be(monkeypatch, gpus, per_device, expected):
    monkeypatch.setattr(parallel, "devices", lambda: gpus)
    assert parallel.places(parallel.at_once(5, per_device)) == expected


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"per_device": 0}, "--per-device must be 1 or more, not 0"),
        ({"per_device": 2, "time_budget": "60m"}, "leave them out, or --per-device"),
        ({"per_device": 2, "bs": "auto"}, "leave them out, or --per-device"),
        ({"per_device": 2, "set": ["stages.0.micro_bs=-1"]}, "leave them out, or --per-device"),
    ],
)
def test_what_cannot_share_a_device_is_refused_before_a_file_is_made(data, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    none = dict.fromkeys((*command.RECIPE_FLAGS, "tensorboard", "run", "resume", "fold"))
    with pytest.raises(InputError, match=re.escape(words)):
        command.train(Namespace(**none | {"set": [], "recipe": str(TINY), "data": str(data)} | flags))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8])
@pytest.mark.parametrize("folds", [1, 2, 5, 6])
def test_folds_of_an_equal_share_end_within_the_time_budget(monkeypatch, folds, count):
    monkeypatch.setattr(parallel, "devices", lambda: ["x"] * count)
    free = [0.0] * max(1, count)  # when each device is free
    for _ in range(folds):
        free[free.index(min(free))] += 1.0 / parallel.turns(folds)
    assert max(free) == pytest.approx(1.0)


def test_a_time_budget_is_divided_by_the_turns(data, monkeypatch):
    monkeypatch.setattr(parallel, "devices", lambda: ["", ""])
    asked = {}
    monkeypatch.setattr(
        command, "start", lambda *args: asked.update(which=args[5], seconds=args[6], at=args[7].per_device)
    )
    flags = dict.fromkeys((*command.RECIPE_FLAGS, "tensorboard", "run", "resume"))
    given = {"recipe": str(TINY), "set": ["data.folds=5"], "fold": "all", "time_budget": "60m", "data": str(data)}
    command.train(Namespace(per_device=3, **flags | given))
    assert asked == {"which": [0, 1, 2, 3, 4], "seconds": 1200, "at": 3}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no affinity here")
def test_shares_of_cores_are_apart_and_given_back():
    before = os.sched_getaffinity(0)
    shares = []
    for number in range(len(before)):
        with parallel.share_of_cores(number, len(before)):
            shares.append(os.sched_getaffinity(0))
    assert sorted(core for share in shares for core in share) == sorted(before)
    with parallel.share_of_cores(0, 10 * len(before)), parallel.share_of_cores(0, 1):
        assert cpus() == 1
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(("stream", "shown"), [(Terminal(), True), (io.StringIO(), False)])
def test_steps_are_a_bar_on_a_terminal_and_nothing_elsewhere(monkeypatch, capsys, stream, shown):
    monkeypatch.setattr(sys, "stderr", stream)
    marks = [f"{parallel.MARK}{done} 40\n" for done in (10, 20)]
    assert parallel._show("3", 0, [marks[0], "epoch 1/2\n", "\n", marks[1], "fold 3: ends\n"]) == "fold 3: ends"
    assert capsys.readouterr().out.splitlines() == ["fold 3: epoch 1/2", "fold 3: ends"]
    assert (" 10/40 " in stream.getvalue()) == shown
    assert ("fold 3:" in stream.getvalue()) == shown
