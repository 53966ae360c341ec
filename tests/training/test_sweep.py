"""A sweep on a real Ray cluster of two nodes on this machine, one of them killed while it trains; room on a device."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from kit.data import demo
from kit.training import sweep
from tests import processes
from tests.small import TINY

pytest.importorskip("ray")
# in a process of its own: what Ray starts must not outlive it, nor its warnings become errors here
CLUSTER = """
import subprocess, sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
cluster.wait_for_nodes()
sweep = subprocess.Popen([sys.executable, *sys.argv[1:], "--address", cluster.address, "--", "--epochs", "5"])
def busy(name):
    return (Path("runs") / name / "fold_0" / "resume.pt").exists()
while sweep.poll() is None and not any(busy(f"a-tiny-s{seed}-f0") for seed in (0, 1)):
    time.sleep(0.1)
cluster.remove_node(nodes[0], allow_graceful=False)
print("killed a node", sweep.poll(), flush=True)
code = sweep.wait()
cluster.shutdown()
sys.exit(code)
"""


def with_a_killed_node(*order, cwd):
    # it is missed within seconds, and workers do not stand back behind other tests
    soon = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "2", "RAY_worker_niceness": "0"}
    command = [sys.executable, "-c", CLUSTER, str(processes.ROOT / "scripts" / order[0]), *map(str, order[1:])]
    done = subprocess.run(command, cwd=cwd, env=os.environ | soon, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_node_that_is_killed_costs_no_training_and_changes_no_result(tmp_path):
    demo.write(tmp_path / "data", n_train=40, n_test=12, seed=3)
    order = ("sweep.py", "--name", "a", "--recipe", TINY, "--seed", "0,1")
    code, out, err = with_a_killed_node(*order, cwd=tmp_path)
    assert code == 0, out + err
    assert "killed a node None" in out  # while the sweep went on
    table = pd.read_csv(tmp_path / "runs" / "a.sweep.csv")
    assert list(table["run"]) == ["a-tiny-s0-f0", "a-tiny-s1-f0"]
    assert table["error"].isna().all()
    alone = ("--recipe", TINY, "--seed", "1", "--fold", "0", "--epochs", "5", "--run", "alone")
    processes.succeed("train.py", *alone, cwd=tmp_path)
    for name in ("valid.npy", "best.safetensors"):
        files = [(tmp_path / "runs" / run / "fold_0" / name).read_bytes() for run in ("a-tiny-s1-f0", "alone")]
        assert files[0] == files[1]
    assert not list((tmp_path / "runs").rglob("resume.pt"))
    assert np.isfinite(table["score"]).all()
    assert "0 of 2 trainings to do" in processes.succeed(*order, "--", "--epochs", "5", cwd=tmp_path)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--seed", "one"), "--seed 'one' is not understood"),
        (("--fold", "none"), "--fold none has no score to compare"),
        (("--fold", "7"), "--fold '7' must name different folds"),
        (("--recipe", "nobody"), "nobody"),
        (("--per-device", "0"), "--per-device must be 1 or more, not 0"),
        (("--per-device", "2", "--", "--time-budget", "60m"), "leave them out, or --per-device"),
        (("--per-device", "2", "--", "--bs", "auto"), "leave them out, or --per-device"),
        (("--per-device", "2", "--", "--bs=auto"), "leave them out, or --per-device"),
        (("--name", "a/b"), "is no usable name"),
    ],
)
def test_refusals_come_before_ray_is_started(tmp_path, flags, words):
    code, _, err = processes.run("sweep.py", "--name", "a", *flags, cwd=tmp_path)
    assert (code, words in err, err.count("\n")) == (2, True, 1), err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("per_device", [1, 2, 3, 6])
@pytest.mark.parametrize(
    ("machine", "devices", "binding"),
    [
        ({"CPU": 2.0, "memory": 8e9}, 1, "memory"),
        ({"CPU": 16.0, "memory": 64e9, "GPU": 1.0}, 1, "num_gpus"),
        ({"CPU": 8.0, "memory": 64e9, "GPU": 2.0}, 2, "num_gpus"),
        ({"CPU": 4.0, "memory": 64e9, "GPU": 4.0}, 4, "num_gpus"),
    ],
)
def test_a_machine_has_room_for_as_many_trainings_on_a_device_as_asked(
    monkeypatch, machine, devices, binding, per_device
):
    """Beside larger and dead ones. Where there is no GPU, memory alone must keep one more away: Ray lends cores."""
    larger, dead = {name: 2 * amount for name, amount in machine.items()}, {"CPU": 1.0, "memory": 1e9}
    nodes = [{"Alive": node is not dead, "Resources": node} for node in (larger, machine, dead)]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    share = sweep._share(per_device)
    have = {"num_cpus": machine["CPU"], "num_gpus": machine.get("GPU"), "memory": machine["memory"]}
    room = {name: int(have[name] / part + 1e-6) for name, part in share.items()}
    assert room[binding] == min(room.values()) == per_device * devices
