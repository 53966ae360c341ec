"""A private home and a server of our own in place of Kaggle, for this process and for scripts that it starts."""

import random
import time

import pytest

from kit.leaderboard import client
from tests.leaderboard.competition import Competition
from tests.leaderboard.kernels import Datasets, Kernels
from tests.leaderboard.server import Server


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """A running server; this process and those it starts talk to it, with a key, and hardly wait.

    A test that lets the server hang marks itself impatient: @pytest.mark.usefixtures("impatient").
    """
    home = tmp_path / "home"
    (home / ".kaggle").mkdir(parents=True)
    with Server(competition=Competition, datasets=Datasets, kernels=Kernels) as server:
        for name, value in server.environment(home).items():
            monkeypatch.setenv(name, value)
        for name in ("KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN", "XDG_CONFIG_HOME"):
            monkeypatch.delenv(name, raising=False)
        server.slept = []
        monkeypatch.setattr(client, "TIMEOUT", (30, 30))
        monkeypatch.setattr(
            client, "sleep", lambda seconds: (server.slept.append(seconds), time.sleep(seconds / 10**4))
        )
        monkeypatch.setattr(random, "uniform", lambda low, high: low)
        yield server


@pytest.fixture
def impatient(kaggle, monkeypatch):
    """A call is given up after a second, here and in scripts."""
    monkeypatch.setattr(client, "TIMEOUT", (30, 1))
    monkeypatch.setenv("QUICK_TIMEOUT", "1")
