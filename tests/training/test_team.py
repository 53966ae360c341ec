"""One fold trained by two processes, beside one process with the same batches."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from timm.layers import convert_sync_batchnorm
from torch import nn

from kit.data import demo
from kit.nets import model
from kit.runs import Run
from kit.training import consistency, learner, team
from tests import processes
from tests.processes import ROOT
from tests.small import TINY, easy_tiles, tiny_recipe

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--"]
# no batch-norm; batches that two processes cannot halve, in parts that cannot be equal
PLAIN = """
source = "the tests: a net without batch-norm"
precision = "float32"
[data]
size = 64
fit = "resize"
folds = 4
[net]
encoder = ""
decoder = "capstone-tiny"
pretrained = false
[salt]
width = 3
[[stages]]
epochs = 12
loss = "bce"
lr = 5e-2
bs = 7
optimiser = "sgd"
[[stages]]
epochs = 4
loss = "0.3*bce + 0.7*lovasz_elu"
lr = 5e-3
bs = 5
micro_bs = 2
optimiser = "sgd"
schedule = "plateau"
average = true
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A user's folder with data/ and a recipe."""
    path = tmp_path_factory.mktemp("home")
    demo.write(path / "data", n_train=40, n_test=12, seed=3)
    (path / "plain.toml").write_text(PLAIN)
    return path


def torchrun(home: Path, *flags: str) -> subprocess.Popen:
    """Two processes as a user has them started."""
    command = [sys.executable, *TORCHRUN, str(ROOT / "scripts/train.py"), *flags]
    return subprocess.Popen(command, cwd=home, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def train(home: Path, *flags: str, count: int = 2) -> tuple[int, str, str]:
    """Processes that are told what torchrun tells them; the first one's exit code, and all that they print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1]}
    ranks = [{**told, "RANK": rank, "LOCAL_RANK": rank} for rank in range(count)]
    started = [
        processes.start("train.py", *flags, cwd=home, **{key: str(value) for key, value in rank.items()})
        for rank in ranks
    ]
    texts = [process.communicate() for process in started]
    return started[0].returncode, *("".join(parts) for parts in zip(*texts, strict=True))


def trained(home: Path, name: str, *flags: str, count: int = 2) -> Run:
    code, out, err = train(home, "--run", name, *flags, count=count)
    assert code == 0, err
    assert out.count("fold 0: score") == 1  # the leader's alone
    return Run(home / "runs" / name)


@pytest.fixture(scope="module")
def together(home):
    process = torchrun(home, "--run", "together", "--recipe", "plain.toml")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert out.count("fold 0: score") == 1  # the leader's alone
    return Run(home / "runs/together")


def differences(one: Run, other: Run, but: tuple[str, ...] = ()) -> dict[str, float]:
    """The largest difference of any number in the weights of fold 0 of two runs, and in its history.

    Tensors whose names end in one of `but` are left out.
    """
    found = {}
    for path in sorted((one.fold(0)).glob("*.safetensors")):
        own, others = load_file(path), load_file(other.fold(0) / path.name)
        assert own.keys() == others.keys()
        kept = [key for key in own if not key.endswith(but)]
        found[path.name] = max(float(np.abs(own[key] - others[key].astype(float)).max()) for key in kept)
    own, others = (pd.read_csv(run.fold(0) / "history.csv").drop(columns="seconds") for run in (one, other))
    assert own["loss"].tolist() == others["loss"].tolist()
    numbers = [history.drop(columns="loss") for history in (own, others)]
    found["history.csv"] = float((numbers[0] - numbers[1]).abs().max(axis=None))
    return found


@pytest.mark.slow
def test_without_batch_norm_two_processes_train_as_one_does(home, together):
    alone = trained(home, "alone", "--recipe", "plain.toml", count=1)
    found = differences(alone, together)
    assert {"best.safetensors", "last.safetensors", "averaged.safetensors"} <= found.keys()
    assert max(found.values()) < 1e-5, found
    own, others = (np.load(run / "oof.npy").astype(float) for run in (alone, together))
    assert np.abs(own - others).max() < 1e-3  # float16


@pytest.mark.slow
def test_stopped_and_resumed_together_it_ends_where_it_would_have(home, together):
    process = torchrun(home, "--run", "cut", "--recipe", "plain.toml")
    saved = home / "runs/cut/fold_0/resume.pt"
    while not saved.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=600)
    assert "go on with: python scripts/train.py --run cut --resume" in out
    assert not (home / "runs/cut/scores.json").exists()
    cut = trained(home, "cut", "--resume")
    assert set(differences(cut, together).values()) == {0.0}
    np.testing.assert_array_equal(np.load(cut / "oof.npy"), np.load(together / "oof.npy"))


# a process's part of each batch, for one process that takes them one after the other
NORMED = ["--recipe", str(TINY), "--epochs", "4", "--bs", "6", "--set", "precision=float32"]
HALVES = [flag for stage in range(3) for flag in ("--set", f"stages.{stage}.micro_bs=3")]


@pytest.mark.slow
def test_with_batch_norm_two_processes_train_as_one_does_with_micro_batches(home):
    one, two = trained(home, "halves", *NORMED, *HALVES, count=1), trained(home, "normed", *NORMED)
    found = differences(one, two, but=("running_mean", "running_var", "num_batches_tracked"))
    assert found["last.safetensors"] < 1e-5
    # the average's statistics are computed anew from it; those that a net gathers on the way are others
    assert differences(one, two)["averaged.safetensors"] < 1e-5
    histories = [pd.read_csv(run.fold(0) / "history.csv") for run in (one, two)]
    np.testing.assert_allclose(histories[0]["train_loss"], histories[1]["train_loss"], atol=1e-5)


@pytest.mark.slow
def test_a_teacher_who_looks_with_remembered_statistics_teaches_two_processes_alike(home):
    flags = [*NORMED, "--set", "stages.0.ema=0.9", "--set", "stages.0.consistency=mean-teacher"]
    runs = trained(home, "one", *flags, *HALVES, count=1), trained(home, "two", *flags)
    one, two = (pd.read_csv(run.fold(0) / "history.csv") for run in runs)
    np.testing.assert_allclose(one["train_loss"][:2], two["train_loss"][:2], rtol=0.05)
    np.testing.assert_allclose(one["consistency"][:2], two["consistency"][:2], rtol=0.4)  # a wrong share is 2 or 1/2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--recipe", "absent"], "absent"),
        (["--recipe", "plain.toml", "--bs", "1"], "a batch of 1 tiles is too small for 2 processes"),
        (["--recipe", "plain.toml", "--time-budget", "60m"], "leave out --time-budget"),
        (["--pretext"], "--pretext is for one process"),
        (["--per-device", "2"], "--per-device is for one process"),
    ],
)
def test_refusals_come_once_and_leave_nothing(home, flags, words):
    before = sorted((home / "runs").glob("*"))
    code, _, err = train(home, "--run", "refused", *flags)
    assert code != 0
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert words in lines[0]
    assert sorted((home / "runs").glob("*")) == before


@pytest.mark.slow
def test_a_refusal_is_heard_though_torchrun_ends_all_processes_with_the_first(home):
    process = torchrun(home, "--pretext", "--run", "refused")
    _, err = process.communicate(timeout=600)
    assert process.returncode != 0
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert lines == ["error: --pretext is for one process: start it without the launcher"]
    assert not (home / "runs/refused").exists()


# activations in timm's own batch-norms, and behind torch's
@pytest.mark.parametrize("encoder", ["mobilenetv3_small_050", "test_resnet.r160_in1k"])
def test_a_net_whose_batch_norms_are_synchronised_is_the_same_net(monkeypatch, encoder):
    torch.manual_seed(0)
    net = model.build(encoder=encoder, decoder="salt", pretrained=False, size=64, fit="resize", precision="float32")
    before = net.eval()(torch.from_numpy(easy_tiles(2, 1).train_images))
    with monkeypatch.context() as patch:
        patch.setattr(team, "size", lambda: 2)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        synchronised = team.synchronised(net)
    norms = [module for module in synchronised.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    torch.testing.assert_close(synchronised.eval()(torch.from_numpy(easy_tiles(2, 1).train_images)), before)


def test_synchronised_batch_norms_learn_in_a_frozen_encoder_as_usual_ones_do():
    learn = learner.make_learner(tiny_recipe(), easy_tiles(), 0)
    learn.model = convert_sync_batchnorm(learn.model)
    consistency.create_optimiser(learn, None)
    learn.opt.freeze_to(-1)
    frozen = [p for group in learn.model.parameter_groups()[:-1] for p in group if not p.requires_grad]
    norms = [module for module in learn.model.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert frozen
    assert norms
    assert all(p.requires_grad for norm in norms for p in norm.parameters())
