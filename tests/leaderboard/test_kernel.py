"""A kernel on Kaggle: one version of one content, followed by its own number, and its output brought home whole."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from slugify import slugify

from kit.errors import InputError, RefusedError, UnreachableError
from kit.leaderboard import kernel
from kit.leaderboard.client import Client
from kit.leaderboard.kernel import Kernel

pytestmark = pytest.mark.slow  # processes that talk to a server

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "scripts" / "kernel.py"
REF = "tester/salt-kit-kernel"
MINE = Kernel("tester", "print('a kernel')\n", ())
FAULTS = [{"cut": True}, {"status": 502}, {"body": b"<html>"}]


def texts(kaggle):
    return [body["text"] for body in kaggle.kernels.versions.get(REF, [])]


def test_the_metadata_says_every_boolean_and_its_id_is_the_slug_of_its_title():
    told = MINE.metadata("kernel.py")
    assert told["id"] == f"tester/{slugify(told['title'])}"
    flags = {key: value for key, value in told.items() if key.startswith(("is_", "enable_"))}
    assert flags == {"is_private": True, "enable_gpu": True, "enable_tpu": False, "enable_internet": False}
    assert replace(MINE, gpu=False, internet=True).metadata("x")["enable_internet"] is True


def test_the_committed_metadata_is_that_of_a_kernel_without_an_owner():
    committed = json.loads((ROOT / "kernel-metadata.json").read_text())
    assert committed | {"dataset_sources": []} == Kernel("INSERT_OWNER_HERE", "", ()).metadata("scripts/kernel.py")


def test_the_script_gets_its_settings_and_nothing_else(tmp_path):
    text = kernel.script(TEMPLATE, ["--set", 'a="b\\'], "salt_kit-1.whl", "QUJD")
    scope: dict = {}
    exec(compile(text, "kernel.py", "exec"), scope)
    assert (scope["ARGUMENTS"], scope["WHEEL"], scope["EMBEDDED"]) == (["--set", 'a="b\\'], "salt_kit-1.whl", "QUJD")
    changed = [one for one, two in zip(text.splitlines(), TEMPLATE.read_text().splitlines(), strict=True) if one != two]
    assert len(changed) == 3
    (tmp_path / "kernel.py").write_text("WHEEL = 1\n")
    with pytest.raises(InputError, match="does not set ARGUMENTS"):
        kernel.script(tmp_path / "kernel.py", [], "")


def test_a_script_that_kaggle_would_refuse_is_not_sent():
    room = kernel.LIMIT - 1 - len(kernel.script(TEMPLATE, [], "", "").encode())
    kernel.script(TEMPLATE, [], "", "A" * room)
    with pytest.raises(InputError, match=r"1,000,000 bytes, Kaggle takes less than 1,000,000: leave out --embed"):
        kernel.script(TEMPLATE, [], "", "A" * (room + 1))


def test_a_kernel_is_pushed_once(kaggle):
    assert kernel.push(Client(), MINE) == 1
    body = kaggle.bodies("SaveKernel")[0]
    assert (body["slug"], body["isPrivate"], body["enableGpu"]) == (REF, True, True)
    assert not body.get("enableInternet")
    assert body["competitionDataSources"] == ["tgs-salt-identification-challenge"]
    assert kernel.push(Client(), MINE) == 1
    assert kernel.push(Client(), replace(MINE, gpu=False)) == 2
    assert kernel.push(Client(), replace(MINE, text="print(2)")) == 3
    assert kaggle.count("SaveKernel") == 3


@pytest.mark.parametrize("state", ["ERROR", "CANCEL_ACKNOWLEDGED"])
def test_a_version_that_failed_is_pushed_again(kaggle, state):
    kernel.push(Client(), MINE)
    kaggle.kernels.states = [state]
    assert kernel.push(Client(), MINE) == 2


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("earlier", [0, 1])
def test_a_lost_answer_leaves_one_version(kaggle, fault, committed, earlier):
    for _ in range(earlier):
        kernel.push(Client(), MINE)
        kaggle.kernels.states = ["ERROR"]  # the same text, but another version is wanted
    kaggle.plant("SaveKernel", committed=committed, **fault)
    assert kernel.push(Client(), MINE) == 1 + earlier
    assert len(texts(kaggle)) == 1 + earlier


@pytest.mark.usefixtures("impatient")
def test_a_server_that_does_not_answer_leaves_one_version(kaggle):
    kaggle.plant("SaveKernel", hang=3, committed=True)
    assert kernel.push(Client(), MINE) == 1
    assert len(texts(kaggle)) == 1


def test_a_kernel_without_one_of_its_inputs_is_told(kaggle):
    with pytest.raises(RefusedError, match="made version 1 without tester/absent"):
        kernel.push(Client(), replace(MINE, datasets=("tester/absent",)))


def test_a_no_is_told_in_kaggles_words(kaggle):
    kaggle.kernels.error = "Maximum batch GPU session count of 2 reached."
    with pytest.raises(RefusedError, match="Maximum batch GPU session count of 2 reached"):
        kernel.push(Client(), MINE)
    kaggle.plant("SaveKernel", status=409, message="The requested title is in use")
    with pytest.raises(RefusedError, match="409, The requested title is in use"):
        kernel.push(Client(), MINE)
    assert kaggle.count("SaveKernel") == 2


def test_a_version_is_followed_to_its_end(kaggle, capsys):
    kaggle.kernels.states = ["QUEUED", "QUEUED", "RUNNING", "RUNNING", "COMPLETE"]
    kernel.follow(Client(), MINE, kernel.push(Client(), MINE))
    said = capsys.readouterr().out.splitlines()
    assert said == [f"version 1: {state}" for state in ("queued", "running", "complete")]
    assert kaggle.slept == [5.0, 7.5, 11.25, 16.875]


def test_the_state_of_the_version_before_is_not_taken_for_this_ones(kaggle):
    """Without its number Kaggle answers COMPLETE about the one before."""
    kernel.push(Client(), MINE)
    later = replace(MINE, text="print(2)")
    version = kernel.push(Client(), later)
    kaggle.kernels.states = ["QUEUED", "ERROR"]
    with pytest.raises(RefusedError, match="version 2"):
        kernel.follow(Client(), later, version)


def test_a_failure_is_told_with_the_end_of_its_log(kaggle, capsys):
    version = kernel.push(Client(), MINE)
    kaggle.kernels.states = ["RUNNING", "ERROR"]
    kaggle.kernels.logs[REF, 1] = ("line 1\nline 2\n", "error: no data ", "here\n")
    with pytest.raises(RefusedError, match="version 1 did not end well: error: no data here: see https://"):
        kernel.follow(Client(), MINE, version)
    assert capsys.readouterr().out.splitlines()[-3:] == ["line 1", "line 2", "error: no data here"]
    kaggle.kernels.failure = "Your notebook tried to allocate more memory than is available."
    with pytest.raises(RefusedError, match="more memory than is available"):
        kernel.follow(Client(), MINE, version)


def test_the_output_comes_home_as_a_run(kaggle, tmp_path):
    written = {"submission.csv": b"id,rle_mask\n", "runs/kernel/recipe.toml": b"seed = 1\n",
               "runs/kernel/fold_0/last.safetensors": bytes(5000), "other.txt": b""}  # fmt: skip
    kaggle.kernels.writes = written
    version = kernel.push(Client(), MINE)
    assert kernel.fetch(Client(), MINE, version, tmp_path / "out") == tmp_path / "out" / "submission.csv"
    found = {str(path.relative_to(tmp_path / "out")): path.read_bytes()
             for path in (tmp_path / "out").rglob("*") if path.is_file()}  # fmt: skip
    assert found.pop("kernel.log") == b"a\nbc\n"
    assert found.pop("kernel.py") == MINE.text.encode()
    assert found == {name.removeprefix("runs/kernel/"): content for name, content in written.items()}
    asked = kaggle.count("GET")
    kernel.fetch(Client(), MINE, version, tmp_path / "out")
    assert kaggle.count("GET") == asked  # what is there is not asked for again


def test_a_page_in_place_of_a_file_is_not_kept(kaggle, tmp_path):
    version, home = kernel.push(Client(), MINE), tmp_path / "out"
    kaggle.plant("GET", body=b"<!DOCTYPE html><title>502</title>")
    assert kernel.fetch(Client(), MINE, version, home).read_bytes() == kaggle.kernels.writes["submission.csv"]
    (home / "submission.csv").unlink()
    kaggle.plant("GET", body=b"<html>", times=100)
    with pytest.raises(UnreachableError, match=r"submission.csv: a web page came in its place"):
        kernel.fetch(Client(), MINE, version, home)
    assert not (home / "submission.csv").exists()


def test_a_refused_file_is_not_kept(kaggle, tmp_path):
    version = kernel.push(Client(), MINE)
    kaggle.plant("GET", status=403, message="expired")
    with pytest.raises(RefusedError, match=r"submission.csv of version 1 is not to be had .*403.*same command again"):
        kernel.fetch(Client(), MINE, version, tmp_path / "out")
    assert not (tmp_path / "out" / "submission.csv").exists()


def test_what_another_kernel_wrote_is_not_mixed_in(kaggle, tmp_path):
    """A kernel that was deleted on Kaggle begins again at version 1."""
    kernel.fetch(Client(), MINE, kernel.push(Client(), MINE), tmp_path / "out")
    with pytest.raises(InputError, match="out is there already, and not from this kernel: rename it"):
        kernel.fetch(Client(), replace(MINE, text="print(2)"), 1, tmp_path / "out")


def test_a_version_without_a_submission_is_told(kaggle, tmp_path):
    kaggle.kernels.writes = {"x.txt": b"1"}
    with pytest.raises(RefusedError, match=r"wrote no submission.csv: see .*kernel.log"):
        kernel.fetch(Client(), MINE, kernel.push(Client(), MINE), tmp_path / "out")


def test_no_output_is_written_outside_its_folder(kaggle, tmp_path):
    kaggle.kernels.writes = {"../escaped": b"1"}
    with pytest.raises(RefusedError, match="outside"):
        kernel.fetch(Client(), MINE, kernel.push(Client(), MINE), tmp_path / "out")
    assert not (tmp_path / "escaped").exists()
