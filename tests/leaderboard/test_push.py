"""What a user of scripts/push_kernel.py sees, with the real client against the server of the tests."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kit import runs
from kit.data import demo
from kit.errors import InputError, RefusedError
from kit.leaderboard import client, package, push
from kit.runs import Run
from tests.data import small
from tests.leaderboard import kaggle_folder, quick

pytestmark = pytest.mark.slow  # processes that talk to a server

ROOT = Path(__file__).parents[2]
WHEEL = package.wheel()[0]


@pytest.fixture
def user(kaggle, tmp_path, monkeypatch):
    """push_kernel.py as a function of its flags, in an empty folder; nets are not tried, which takes seconds."""
    home = tmp_path / "user"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(push, "_try", lambda recipe: None)
    monkeypatch.delenv("KIT_DATA", raising=False)
    script = importlib.import_module("push_kernel")

    def start(*flags):
        monkeypatch.setattr(sys, "argv", ["push_kernel.py", *flags])
        script.main()

    return start


def put_run(name="first"):
    run = Run(Path("runs") / name)
    runs.write_bytes(run.fold(0) / "best.safetensors", b"weights")
    runs.write_text(run / "recipe.toml", "seed = 1\n")
    runs.write_json(run / "environment.json", {"data": ".", "fingerprint": "x", "folds": [0]})
    runs.write_json(run / "scores.json", {"folds": {"0": {"weights": "best"}}})
    return run


def test_a_dry_run_writes_all_and_sends_nothing(user, kaggle, capsys, monkeypatch):
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    user("--dry-run", "--recipe", "cpu", "--no-gpu")
    assert kaggle.calls == []
    told = json.loads(Path("build/kernel/kernel-metadata.json").read_text())
    assert (told["id"], told["enable_gpu"]) == ("INSERT_OWNER_HERE/salt-kit-kernel", False)
    assert f'WHEEL = "{WHEEL}"' in Path("build/kernel/kernel.py").read_text()
    assert Path("build/kernel", WHEEL).read_bytes() == package.wheel()[1]
    out = capsys.readouterr().out
    assert "bytes of at most 1,000,000, the kit in a dataset, CPU, internet off" in out
    assert "arguments: --time-limit 8h --recipe cpu\n" in out
    assert not Path("kernel-metadata.json").exists()


def test_the_kit_is_published_before_the_kernel_that_needs_it(user, kaggle):
    kaggle.datasets.slow = 2
    user("--recipe", "cpu")
    assert kaggle.datasets.versions["tester/salt-kit"] == [dict([package.wheel()])]
    body = kaggle.kernels.versions["tester/salt-kit-kernel"][0]
    assert body["datasetDataSources"] == ["tester/salt-kit"]
    names = [name for name, _ in kaggle.calls]
    assert names.index("SaveKernel") > max(k for k, name in enumerate(names) if name == "GetDatasetStatus")


def test_the_same_command_again_makes_nothing_new(user, kaggle, capsys):
    user("--recipe", "cpu")
    user("--recipe", "cpu")
    assert [kaggle.count(name) for name in ("CreateDataset", "CreateDatasetVersion", "SaveKernel")] == [1, 0, 1]
    assert "version 1 is this one already" in capsys.readouterr().out


def test_a_run_is_published_to_predict_with(user, kaggle):
    run = put_run()
    user("first", "--no-gpu")
    name = package.pack_run(run, None, Path("x")).name
    assert list(kaggle.datasets.versions["tester/salt-kit-run"][0]) == [name]
    body = kaggle.kernels.versions["tester/salt-kit-kernel"][0]
    assert f'"--trained", "{name}"' in body["text"]
    assert body["datasetDataSources"] == ["tester/salt-kit", "tester/salt-kit-run"]


def test_encoder_weights_are_published_under_the_encoders_name(user, kaggle):
    Path("w.safetensors").write_bytes(b"weights")
    user("--arch", "resnet18", "--weights", "w.safetensors")
    (name,) = kaggle.datasets.versions["tester/salt-kit-encoder"][0]
    assert name.startswith("encoder-resnet18-")
    assert f'"--weights", "{name}"' in kaggle.kernels.versions["tester/salt-kit-kernel"][0]["text"]


def test_an_embedded_kit_needs_no_dataset(user, kaggle, capsys):
    user("--recipe", "cpu", "--embed")
    assert kaggle.datasets.versions == {}
    size = len(kaggle.kernels.versions["tester/salt-kit-kernel"][0]["text"].encode())
    assert f"{size:,} bytes of at most 1,000,000, the kit in the script" in capsys.readouterr().out


def test_the_output_comes_home_and_is_validated(user, kaggle, capsys):
    kaggle.kernels.states = ["QUEUED", "RUNNING", "COMPLETE"]
    kaggle.kernels.writes = {"submission.csv": b"id,rle_mask\nffff,1 2\n0007,\nnull,\n", "runs/kernel/recipe.toml": b""}
    small.write(Path("data"), small.files())
    user("--recipe", "cpu", "--wait", "--data", "data")
    assert "valid: runs/salt-kit-kernel-v1/submission.csv\n" in capsys.readouterr().out
    assert runs.find_run("salt-kit-kernel-v1").path == Path("runs/salt-kit-kernel-v1")
    kaggle.kernels.outputs["tester/salt-kit-kernel", 1]["submission.csv"] = b"id,rle_mask\nffff,1 2\n"
    shutil.rmtree("runs")
    with pytest.raises(RefusedError, match=r"version 1 wrote is no submission: .*'0007' is missing"):
        user("--recipe", "cpu", "--wait", "--data", "data")


def test_without_data_the_ids_are_not_checked_and_that_is_said(user, capsys):
    user("--recipe", "cpu", "--wait")
    assert "submission.csv (without data, its ids are not checked)" in capsys.readouterr().out


def test_after_ctrl_c_the_same_command_goes_on(user, kaggle, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    kaggle.kernels.states = ["QUEUED", "RUNNING", "COMPLETE"]
    with monkeypatch.context() as patch:
        patch.setattr(client, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            user("--recipe", "cpu", "--wait")
    user("--recipe", "cpu", "--wait")
    assert Path("runs/salt-kit-kernel-v1/submission.csv").exists()
    assert [kaggle.count(name) for name in ("CreateDataset", "SaveKernel")] == [1, 1]


def kaggle_client(*arguments, cwd):
    """The real client as a process."""
    command = [sys.executable, "-m", "kaggle", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


def test_a_bare_push_works_after_init(user, kaggle):
    user("--init", "tester")
    assert kaggle.count("SaveKernel") == 0
    told = json.loads(Path("kernel-metadata.json").read_text())
    assert (told["id"], told["dataset_sources"]) == ("tester/salt-kit-kernel", ["tester/salt-kit"])
    done = kaggle_client("kernels", "push", cwd=Path.cwd())
    assert "Kernel version 1 successfully pushed" in done.stdout, done
    body = kaggle.kernels.versions["tester/salt-kit-kernel"][0]
    assert body["text"] == (ROOT / "scripts" / "kernel.py").read_text()
    assert (body["enableGpu"], body.get("enableInternet", False), body["isPrivate"]) == (True, False, True)


def test_init_publishes_encoder_weights_for_the_bare_push_too(user, kaggle):
    Path("w.pth").write_bytes(b"weights")
    user("--init", "tester", "--weights", "w.pth", "--no-gpu")
    told = json.loads(Path("kernel-metadata.json").read_text())
    assert told["dataset_sources"] == ["tester/salt-kit", "tester/salt-kit-encoder"]
    assert told["enable_gpu"] is False
    (name,) = kaggle.datasets.versions["tester/salt-kit-encoder"][0]
    assert name.startswith("encoder-resnet34-")


def test_a_bare_push_before_init_says_what_to_do(kaggle, tmp_path):
    shutil.copy(ROOT / "kernel-metadata.json", tmp_path)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "kernel.py", tmp_path / "scripts")
    done = kaggle_client("kernels", "push", cwd=tmp_path)
    assert "python scripts/push_kernel.py --init OWNER" in done.stdout + done.stderr
    assert kaggle.calls == []


def test_the_owner_is_never_guessed(user, kaggle, monkeypatch):
    with pytest.raises(InputError, match="--init names somebody, but the credentials are those of tester"):
        user("--init", "somebody")
    with pytest.raises(InputError, match=r"'a/b' is no user of Kaggle"):
        user("--init", "a/b")
    assert not Path("kernel-metadata.json").exists()
    user("--init", "Tester")
    user("--recipe", "cpu", "--embed")
    assert list(kaggle.kernels.versions) == ["tester/salt-kit-kernel"]
    Path("kernel-metadata.json").write_text("{}")
    with pytest.raises(InputError, match=r"kernel-metadata.json is damaged"):
        user("--recipe", "cpu")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--time-limit", "soon"], "no duration"),
        (["--recipe", "cp"], "no recipe 'cp'"),
        (["--recipe", "mine.toml"], "not on Kaggle"),
        (["--set", "net.stm=own"], "net.stem"),
        (["first", "--recipe", "cpu"], "leave out --recipe"),
        (["absent"], "no run 'absent'"),
        (["--weights", "absent.pth"], "there is no such file"),
        (["--init", "tester", "--recipe", "cpu"], "--init is for"),
        (["--data", "nowhere"], "nowhere is no folder"),
        (["--fold", "9"], "--fold"),
        (["--set", "iterate=2", "--set", "stages.3.pseudo=mix"], "without pseudo-labels"),
    ],
)
def test_refusals_come_before_the_first_call(user, kaggle, flags, words):
    put_run()
    with pytest.raises(InputError, match=words):
        user(*flags)
    assert kaggle.calls == []
    assert not Path("build").exists()


@pytest.mark.slow
def test_the_whole_story(kaggle, tmp_path):
    """The kernel really runs, without a network; what it wrote comes home, is scored, and predicts again as a run."""
    if reason := kaggle_folder.why_no_namespace():
        pytest.skip(f"no namespace without a network: {reason}")
    data, home = tmp_path / "data", tmp_path / "user"
    home.mkdir()
    demo.write(data, n_train=40, n_test=12, seed=3)
    kaggle.kernels.runs_in, kaggle.kernels.place = data, tmp_path / "machine"
    tiny = ["--recipe", "demo", "--arch", "test_resnet.r160_in1k", "--set", "limit=30"]
    story = [*tiny, "--no-gpu", "--time-limit", "5m", "--data", data, "--wait", "--submit", "-m", "from a kernel"]
    code, out, err = quick.run("push_kernel.py", *story, cwd=home)
    assert code == 0, out + err
    assert "valid: runs/salt-kit-kernel-v1/submission.csv\n" in out
    assert "public 0.81234" in out
    (row,) = kaggle.competition.submissions
    assert row["description"].startswith("from a kernel ")
    oof = json.loads((home / "runs/salt-kit-kernel-v1/scores.json").read_text())["mean"]
    (line, *_) = (home / "submissions" / "ledger.jsonl").read_text().splitlines()
    assert (json.loads(line)["run"], json.loads(line)["kernel"]) == (
        "salt-kit-kernel-v1", "tester/salt-kit-kernel/1")  # fmt: skip
    assert 0 <= json.loads(line)["oof"] <= 1
    assert 0 <= oof <= 1
    code, _, err = quick.run("push_kernel.py", *story, cwd=home)
    assert code == 2
    assert "was submitted as" in err
    assert (len(kaggle.competition.submissions), kaggle.count("SaveKernel")) == (1, 1)
    predict = ["salt-kit-kernel-v1", "--no-gpu", "--time-limit", "5m", "--data", data, "--wait"]
    code, out, err = quick.run("push_kernel.py", *predict, cwd=home)
    assert code == 0, out + err
    one, two = ((home / f"runs/salt-kit-kernel-v{k}/submission.csv").read_bytes() for k in (1, 2))
    assert one == two
