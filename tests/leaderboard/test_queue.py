"""The queue of scripts/submit.py: best first, within the day's limit, through every kind of end."""

import pytest

from tests.leaderboard import quick, user
from tests.leaderboard.server import until

pytestmark = pytest.mark.slow  # processes that talk to a server

SCORES = {"a": 0.80, "b": 0.83, "c": 0.82}


@pytest.fixture
def home(tmp_path, kaggle):
    """Three runs on the queue, put there without Kaggle."""
    user.folder(tmp_path)
    for name, score in SCORES.items():
        user.add_run(tmp_path, name, score)
    code, out, err = quick.run("submit.py", *SCORES, "--queue", cwd=tmp_path)
    assert (code, err, out.count("queued: ")) == (0, "", 3)
    assert kaggle.calls == []
    return tmp_path


def work(home, *arguments):
    return quick.run("submit.py", "--work-queue", *arguments, cwd=home)


def order(kaggle):
    return [row["description"].split("_")[1] for row in kaggle.competition.submissions]


def test_best_first_as_far_as_the_day_allows(home, kaggle):
    kaggle.competition.used_today = 3
    code, out, err = work(home)
    assert (code, err) == (0, "")
    assert order(kaggle) == ["b", "c"]
    assert "1 wait in the queue" in out
    assert work(home)[0] == 0  # nothing to be done today
    kaggle.competition.used_today = 0
    code, out, _ = work(home, "--wait")
    assert order(kaggle) == ["b", "c", "a"]
    assert "30000003 complete: public 0.81234" in out
    assert "0 wait in the queue" in out


def test_a_cron_line_in_another_folder_does_not_pass_for_an_empty_queue(tmp_path, kaggle):
    code, _, err = work(tmp_path)
    assert (code, f"{tmp_path / 'submissions' / 'ledger.jsonl'} is not there" in err) == (2, True)
    assert not (tmp_path / "submissions").exists()


def test_what_waits_or_was_sent_is_not_queued_again(home, kaggle):
    code, _, err = quick.run("submit.py", "a", "--queue", cwd=home)
    assert (code, "the same content is queued already" in err) == (2, True)
    code, _, _ = quick.run("submit.py", "a", cwd=home)  # but may be sent by hand, before its turn
    assert code == 0
    work(home)
    assert order(kaggle) == ["a", "b", "c"]


@pytest.mark.parametrize("committed", [True, False])
def test_a_worker_that_is_killed(home, kaggle, committed):
    kaggle.plant("CreateSubmission", hang=600, committed=committed, skip=1)
    process = quick.start("submit.py", "--work-queue", cwd=home)
    until(lambda: kaggle.count("CreateSubmission") == 2)
    process.kill()
    process.communicate()
    assert work(home)[0] == 0
    assert order(kaggle) == ["b", "c", "a"]


def test_two_workers_at_once(home, kaggle):
    kaggle.plant("CreateSubmission", hang=0.2, committed=True, times=3)
    workers = [quick.start("submit.py", "--work-queue", cwd=home) for _ in range(2)]
    ends = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], ends
    assert sorted(order(kaggle)) == ["a", "b", "c"]


def test_a_file_that_changed_is_dropped_and_the_others_go(home, kaggle):
    (path,) = (home / "submissions").glob("*_b_*.csv")
    path.write_text(path.read_text().replace("1 ", "2 ", 1))
    code, out, err = work(home)
    assert code == 3
    assert f"{path.relative_to(home)} is not what was queued" in err
    assert order(kaggle) == ["c", "a"]
    assert "0 wait in the queue" in out
    assert work(home)[0] == 0


def test_kaggles_no_to_one_is_not_a_no_to_all(home, kaggle):
    kaggle.plant("CreateSubmission", status=400, message="Bad columns")
    code, _, err = work(home)
    assert (code, "400, Bad columns" in err) == (3, True)
    assert order(kaggle) == ["c", "a"]


def test_the_last_slot_was_taken_meanwhile(home, kaggle):
    kaggle.plant("CreateSubmission", status=400, message="Submission not allowed: used its daily allowance", skip=1)
    kaggle.competition.daily_limit = 1
    kaggle.plant("GetSubmissionLimits", body=b'{"numAllowedNow": 1}', headers={"Content-Type": "application/json"},
                 skip=2, times=2)  # what was true a moment ago  # fmt: skip
    code, out, err = work(home)
    assert (code, err) == (0, "")
    assert "2 wait in the queue" in out
    kaggle.competition.daily_limit = 5
    work(home)
    assert order(kaggle) == ["b", "c", "a"]


@pytest.mark.parametrize(("fault", "code"), [({"status": 401}, 3), ({"status": 503, "times": 99}, 4)])
def test_a_no_to_the_user_leaves_the_queue(home, kaggle, fault, code):
    kaggle.plant("GetCompetition", **fault)
    assert work(home)[0] == code
    kaggle.faults.clear()
    assert "0 wait in the queue" in work(home)[1]
    assert order(kaggle) == ["b", "c", "a"]
