"""A dataset for kernels has the files that it should, in one version, whatever happens on the way."""

import pytest

from kit.errors import RefusedError, UnreachableError
from kit.leaderboard import dataset
from kit.leaderboard.client import Client

pytestmark = pytest.mark.slow  # processes that talk to a server

REF = "tester/salt-kit"


@pytest.fixture
def files(tmp_path):
    """Five files, more than a page of the server's."""
    paths = {f"part-{k}.whl": tmp_path / f"{k}.bin" for k in range(5)}
    for k, path in enumerate(paths.values()):
        path.write_bytes(bytes([k]) * (1000 + k))
    return paths


def publish(files):
    return dataset.publish(Client(), "tester", "Salt kit", files)


def content(files):
    return {name: path.read_bytes() for name, path in files.items()}


def test_a_dataset_is_made_privately_with_all_files(kaggle, files):
    assert publish(files).startswith(f"dataset {REF}: created")
    assert kaggle.datasets.versions == {REF: [content(files)]}
    assert kaggle.bodies("CreateDataset")[0]["isPrivate"] is True


def test_the_same_content_is_not_sent_again(kaggle, files):
    publish(files)
    sent = kaggle.count("PUT")
    assert publish(files) == f"dataset {REF}: unchanged"
    assert kaggle.count("PUT") == sent
    assert len(kaggle.datasets.versions[REF]) == 1


def test_other_content_becomes_a_version_with_only_that(kaggle, files, tmp_path):
    publish(files)
    other = {"new-1a2b.whl": tmp_path / "0.bin"}
    assert "a new version" in publish(other)
    assert kaggle.datasets.versions[REF] == [content(files), content(other)]


def test_it_is_ready_when_publish_returns(kaggle, files):
    kaggle.datasets.slow = 4
    publish(files)
    assert kaggle.datasets.left[REF] < 0
    publish({"new.whl": files["part-0.whl"]})  # Kaggle refuses a version while the last is being processed
    assert kaggle.datasets.left[REF] < 0


@pytest.mark.parametrize("fault", [{"cut": True}, {"status": 500}, {"body": b"<html>"}])
@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("endpoint", ["CreateDataset", "CreateDatasetVersion"])
def test_a_lost_answer_leaves_one_version(kaggle, files, endpoint, committed, fault):
    before = endpoint == "CreateDatasetVersion"
    if before:
        publish({"old.whl": files["part-0.whl"]})
    kaggle.plant(endpoint, committed=committed, **fault)
    publish(files)
    assert kaggle.datasets.versions[REF][before:] == [content(files)]


@pytest.mark.usefixtures("impatient")
def test_a_server_that_does_not_answer_leaves_one_version(kaggle, files):
    kaggle.plant("CreateDataset", hang=3, committed=True)
    publish(files)
    assert kaggle.datasets.versions[REF] == [content(files)]


def test_a_cut_upload_goes_on(kaggle, files):
    kaggle.plant("PUT", cut=True, keep=300)
    publish(files)
    assert kaggle.datasets.versions[REF] == [content(files)]


def test_old_bytes_are_never_taken_for_new_ones(kaggle, files, tmp_path, monkeypatch):
    """Size and date of the file are as at the attempt that failed: the client's own upload would send the old bytes."""
    import os

    path = files["part-0.whl"]
    kaggle.plant("CreateDataset", status=400, message="no")
    with pytest.raises(RefusedError):
        publish({"a.whl": path})
    stat = path.stat()
    path.write_bytes(b"x" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    publish({"a.whl": path})
    assert kaggle.datasets.versions[REF] == [{"a.whl": b"x" * stat.st_size}]


def test_a_no_is_told_in_kaggles_words(kaggle, files):
    kaggle.datasets.refuses = "You have reached your private storage quota"
    with pytest.raises(RefusedError, match=r"salt-kit: You have reached your private storage quota"):
        publish(files)


def test_a_dataset_that_cannot_be_processed_is_told(kaggle, files):
    kaggle.datasets.fails = True
    with pytest.raises(RefusedError, match="could not process it: https://"):
        publish(files)


def test_a_dataset_that_is_never_ready_is_given_up(kaggle, files, monkeypatch):
    kaggle.datasets.slow = 10**6
    monkeypatch.setattr(dataset, "LONGEST", 60)
    with pytest.raises(UnreachableError, match="not ready after 1 minutes: give the same command later"):
        publish(files)
    kaggle.datasets.left[REF] = 0
    assert publish(files) == f"dataset {REF}: unchanged"
