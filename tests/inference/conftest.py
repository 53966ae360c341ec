"""A folder to work in and demo data, for tests that need such."""

import pytest

from kit.data import demo


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data"
    demo.write(path, n_train=40, n_test=20, seed=3)
    return path
