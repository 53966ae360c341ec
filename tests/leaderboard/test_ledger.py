"""The ledger: whatever happens to its last line, what stands before it is kept; and two writers lose nothing."""

import json
import os
import subprocess
import sys

import pytest

from kit.errors import InputError
from kit.leaderboard.ledger import Ledger


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "new" / "ledger.jsonl")


def test_lines_laid_over_one_another_are_the_record(ledger):
    assert ledger.records() == []
    ledger.add("a", "intent", content="c1", oof=0.7, message="first")
    ledger.add("b", "queued", content="c2")
    ledger.add("a", "sent", ref=7)
    record = ledger.add("a", "complete", public=0.81, private=0.8)
    assert [record.tag for record in ledger.records()] == ["a", "b"]
    assert (record.oof, record.ref, record.public, record.state) == (0.7, 7, 0.81, "complete")
    assert record.in_words() == "7 complete: public 0.81000, private 0.80000"
    assert len(ledger.path.read_text().splitlines()) == 4
    assert all(json.loads(line)["time"].endswith("+00:00") for line in ledger.path.read_text().splitlines())


@pytest.mark.parametrize("cut", [1, 2, 20, 59])
def test_a_torn_last_line_is_left_out_and_cut_off(ledger, cut):
    ledger.add("a", "intent", content="c")
    whole = ledger.path.read_bytes()
    ledger.add("a", "sent", ref=7)
    torn = ledger.path.read_bytes()[:-cut]
    ledger.path.write_bytes(torn)
    sent = cut == 1  # only the line's end is missing
    assert [record.state for record in ledger.records()] == ["sent" if sent else "intent"]
    ledger.add("b", "sent", ref=8)
    lines = ledger.path.read_text().splitlines()
    assert [json.loads(line)["tag"] for line in lines] == (["a", "a", "b"] if sent else ["a", "b"])
    assert ledger.path.read_bytes().startswith(whole)


def test_a_damaged_line_before_the_last_is_named(ledger):
    ledger.add("a", "sent")
    ledger.path.write_text("<<<<<<< ours\n" + ledger.path.read_text())
    with pytest.raises(InputError, match=r"ledger\.jsonl, line 1 is no entry of a ledger: mend or delete that line"):
        ledger.records()


@pytest.mark.parametrize("fact", ['"public": "high"', '"ref": "7"', '"tag": null', '"message": 3'])
def test_a_fact_of_another_kind_is_named(ledger, fact):
    ledger.add("a", "complete", public=0.5)
    ledger.path.write_text(ledger.path.read_text() + f'{{"tag": "a", "state": "sent", "time": "", {fact}}}\n')
    with pytest.raises(InputError, match="line 2 is no entry of a ledger"):
        ledger.records()


def test_a_score_may_be_whole(ledger):
    assert ledger.add("a", "complete", public=1, private=None).public == 1


def test_unknown_facts_are_refused(ledger):
    with pytest.raises(TypeError, match="scoer"):
        ledger.add("a", "complete", scoer=1)
    assert not ledger.path.exists()


def test_two_writers_lose_nothing(ledger):
    code = (
        "import sys; from pathlib import Path; from kit.leaderboard.ledger import Ledger\n"
        "for n in range(50): Ledger(Path(sys.argv[1])).add(sys.argv[2] + str(n), 'sent', message='x' * 3000)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(ledger.path), name]) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(ledger.records()) == 100


def test_a_full_disk_leaves_no_half_line(ledger, monkeypatch):
    ledger.add("a", "sent")
    before = ledger.path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            ledger.add("b", "sent")
    assert ledger.path.read_bytes() == before
