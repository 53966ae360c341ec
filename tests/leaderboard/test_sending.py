"""Waiting for a score: how often Kaggle is asked, and for how long."""

import pytest

from kit.errors import UnreachableError
from kit.leaderboard import client, sending
from kit.leaderboard.client import Client
from kit.leaderboard.ledger import Ledger

pytestmark = pytest.mark.slow  # processes that talk to a server


@pytest.fixture
def sent(kaggle, tmp_path):
    """A client, a ledger, and a submission that was just sent."""
    (tmp_path / "mine.csv").write_text("id,rle_mask\na,\n")
    user, ledger = Client(), Ledger(tmp_path / "ledger.jsonl")
    record = sending.send(user, ledger, sending.of_file(tmp_path / "mine.csv"))
    kaggle.slept.clear()
    return user, ledger, record


def test_the_looks_are_soon_a_minute_apart(kaggle, sent):
    kaggle.competition.pending = 9
    assert sending.wait(*sent).state == "complete"
    assert kaggle.slept[:3] == [5, 7.5, 11.25]
    assert kaggle.slept[-2:] == [60, 60]
    assert len(kaggle.slept) == 9


def test_kaggle_may_be_away_for_a_while(kaggle, sent):
    kaggle.plant("GetSubmission", status=503, times=5 * (client.MISSES - 1))
    assert sending.wait(*sent).public == 0.81234


def test_kaggle_away_for_good(kaggle, sent):
    kaggle.plant("GetSubmission", status=503, times=999)
    with pytest.raises(UnreachableError, match="GetSubmission: Kaggle answers 503"):
        sending.wait(*sent)
    assert kaggle.count("GetSubmission") == 5 * client.MISSES


def test_a_wait_that_kaggle_asks_for_is_kept(kaggle, sent):
    kaggle.plant("GetSubmission", status=429, headers={"Retry-After": "3600"})
    assert sending.wait(*sent).state == "complete"
    assert kaggle.slept == [3600, 7.5]


def test_pending_for_ever(kaggle, sent, monkeypatch):
    monkeypatch.setattr(sending, "PATIENCE", 600)
    kaggle.competition.pending = 10**9
    with pytest.raises(UnreachableError, match=r"later, submit\.py --status"):
        sending.wait(*sent)
    assert sum(kaggle.slept) >= 600
