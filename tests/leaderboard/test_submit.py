"""What a user of scripts/submit.py sees, the script as a process and the real client against a server of our own."""

import json
import re
import signal

import pytest

from kit.leaderboard import submission
from tests.leaderboard import quick, user
from tests.leaderboard.server import KEY, until
from tests.leaderboard.user import ledger_of, submit

pytestmark = pytest.mark.slow  # processes that talk to a server

RULES = "https://www.kaggle.com/c/tgs-salt-identification-challenge/rules"


@pytest.fixture
def home(tmp_path, kaggle):
    user.folder(tmp_path)
    user.add_run(tmp_path, "a", 0.81)
    return tmp_path


def states_of(home):
    return [line["state"] for line in ledger_of(home)]


def test_a_run_is_submitted_and_its_score_waited_for(home, kaggle):
    code, out, err = submit(home, "a", "-m", "first|try: é", "--wait")
    assert (code, err) == (0, "")
    assert "it will be scored, not ranked" in out
    assert out.splitlines()[-1] == "a: 30000001 complete: public 0.81234, private 0.83456"
    (sent,) = kaggle.competition.submissions
    (path,) = (home / "submissions").glob("*.csv")
    assert sent["content"] == path.read_bytes()
    assert re.fullmatch(r"first-try: - kit-[0-9a-f]{12}-1", sent["description"])
    assert submission.content_hash(path.read_text())[:12] in sent["description"]
    assert states_of(home) == ["intent", "sent", "complete"]
    first, *_, last = ledger_of(home)
    assert (first["run"], first["oof"], first["message"]) == ("a", 0.81, "first|try: é")
    assert (last["public"], last["private"]) == (0.81234, 0.83456)


def test_the_same_content_is_refused_whatever_its_order(home, kaggle):
    submit(home, "a", "--wait")
    (path,) = (home / "submissions").glob("*.csv")
    header, *rows = path.read_text().splitlines()
    user.add_run(home, "b", 0.5, seed=sum(b"a"))  # the same predictions
    (home / "crlf.csv").write_bytes("\r\n".join([header, *rows]).encode())
    (home / "order.csv").write_text("\n".join([header, *reversed(rows), ""]))
    for what in ("a", "b", "crlf.csv", "order.csv"):
        calls = len(kaggle.calls)
        code, _, err = submit(home, what)
        assert code == 2
        assert "the same content was submitted as 30000001 complete: public 0.81234, private 0.83456 (a)" in err
        assert len(kaggle.calls) == calls
    assert len(kaggle.competition.submissions) == 1


def test_a_refusal_asks_for_the_score_that_was_pending(home, kaggle):
    kaggle.competition.pending = 1
    submit(home, "a")
    assert states_of(home)[-1] == "sent"
    for _ in range(2):  # the first answer is that it is still pending
        err = submit(home, "a")[2]
    assert "the same content was submitted as 30000001 complete: public 0.81234, private 0.83456 (a)" in err
    kaggle.__exit__()
    assert submit(home, "a")[0] == 2


def test_a_no_to_the_question_whether_it_arrived_is_none_to_the_submission(home, kaggle):
    kaggle.plant("CreateSubmission", cut=True, committed=True)
    kaggle.plant("ListSubmissions", status=403, skip=1)
    code, _, err = submit(home, "a")
    assert (code, "it may have arrived" in err) == (4, True)
    assert states_of(home) == ["intent"]
    assert submit(home, "a")[0] == 0
    assert len(kaggle.competition.submissions) == 1


def test_another_machines_submission_of_it_is_found_on_kaggle(home, kaggle):
    submit(home, "a", "--wait")
    for name in ("b", "c"):  # ours is no longer on the first page
        user.add_run(home, name, 0.5)
        submit(home, name)
    (home / "submissions" / "ledger.jsonl").unlink()
    code, _, err = submit(home, "a")
    assert code == 2
    assert "was submitted from elsewhere as 30000001 complete: public 0.81234" in err
    assert len(kaggle.competition.submissions) == 3


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", [{"cut": True}, {"status": 500}, {"hang": 5}, {"body": b"<html>"}])
@pytest.mark.parametrize("committed", [True, False])
def test_exactly_one_whatever_happens_to_the_answer(home, kaggle, fault, committed):
    kaggle.plant("CreateSubmission", **fault, committed=committed)
    code, out, err = submit(home, "a", "--wait")
    assert code == 0, err
    assert "complete: public 0.81234" in out
    assert len(kaggle.competition.submissions) == 1


@pytest.mark.parametrize("committed", [True, False])
def test_killed_between_intent_and_answer(home, kaggle, committed):
    kaggle.plant("CreateSubmission", hang=600, committed=committed)
    process = quick.start("submit.py", "a", cwd=home)
    until(lambda: kaggle.count("CreateSubmission") == 1)
    process.kill()
    process.communicate()
    assert states_of(home) == ["intent"]
    code, out, err = submit(home, "a", "--wait")
    assert code == 0, err
    assert "complete: public" in out
    assert len(kaggle.competition.submissions) == 1
    assert len({line["tag"] for line in ledger_of(home)}) == 1


def test_the_last_slot_went_to_one_that_was_killed(home, kaggle):
    kaggle.competition.daily_limit = 1
    kaggle.plant("CreateSubmission", hang=600, committed=True)
    process = quick.start("submit.py", "a", cwd=home)
    until(lambda: kaggle.count("CreateSubmission") == 1)
    process.kill()
    process.communicate()
    code, out, err = submit(home, "a")
    assert code == 0, err
    assert "submitted: a as 30000001" in out


def test_the_last_slot_went_to_the_try_whose_answer_was_lost(home, kaggle):
    """The list is late, so the submission is tried again, and the day's limit is what shows that it had arrived."""
    kaggle.competition.daily_limit = 1
    kaggle.plant("CreateSubmission", cut=True, committed=True)
    kaggle.plant("ListSubmissions", body=b"{}", headers={"Content-Type": "application/json"}, times=5)
    code, out, err = submit(home, "a")
    assert code == 0, err
    assert "submitted: a as 30000001" in out
    assert len(kaggle.competition.submissions) == 1


def test_kaggle_away_for_long_then_back(home, kaggle):
    kaggle.plant("CreateSubmission", cut=True, committed=True)
    kaggle.plant("ListSubmissions", status=503, times=99, skip=1)
    code, _, err = submit(home, "a")
    assert code == 4
    assert err.startswith("error: ListSubmissions: Kaggle answers 503 (5 tries)")
    assert states_of(home) == ["intent"]
    kaggle.faults.clear()
    assert submit(home, "a")[0] == 0
    assert len(kaggle.competition.submissions) == 1


def test_two_at_once(home, kaggle):
    kaggle.plant("CreateSubmission", hang=0.3, committed=True)
    processes = [quick.start("submit.py", "a", cwd=home) for _ in range(2)]
    ends = [process.communicate() for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2], ends
    assert len(kaggle.competition.submissions) == 1


def test_ctrl_c_while_waiting(home, kaggle):
    kaggle.competition.pending = 10**6
    process = quick.start("submit.py", "a", "--wait", cwd=home)
    until(lambda: kaggle.count("GetSubmission") > 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert "30000001 stays submitted; its score: python scripts/submit.py --status" in out
    assert "Traceback" not in err
    kaggle.competition.pending = 0
    assert "0.83456" in submit(home, "--status")[1]
    assert states_of(home) == ["intent", "sent", "complete"]


def test_a_submission_that_ends_in_error(home, kaggle):
    kaggle.competition.fails_with = "ERROR: Record\nraised unexpected error"
    code, _, err = submit(home, "a", "--wait")
    assert code == 3
    assert "30000001 error: ERROR: Record raised unexpected error" in err
    kaggle.competition.fails_with = ""
    code, out, _ = submit(home, "a", "--wait")  # it took no slot of the content's, so it may be tried again
    assert code == 0
    assert "30000002 complete" in out


def settings(**values):
    return lambda kaggle: vars(kaggle.competition).update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (settings(entered=False), [RULES]),
        (settings(disabled=True), ["takes no submissions any more"]),
        (settings(kernels_only=True), ["only kernels are taken", "push_kernel.py"]),
        (settings(used_today=5), ["0 of the day's submissions left", "at 00:00 UTC, in ", "--queue"]),
        (lambda kaggle: kaggle.plant("GetCompetition", status=401), ["401", "https://www.kaggle.com/settings/api"]),
        (lambda kaggle: kaggle.plant("StartSubmissionUpload", status=403), ["403", RULES]),
        (lambda kaggle: kaggle.plant("PUT", status=403), ["403"]),
        (lambda kaggle: kaggle.plant("CreateSubmission", status=400, message="Must be\nsubmission.csv"),
         ["400, Must be submission.csv"]),
    ],
)  # fmt: skip
def test_a_no_is_one_line_and_costs_nothing(home, kaggle, change, words):
    change(kaggle)
    code, _, err = submit(home, "a", "--wait")
    assert code == 3
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
    assert kaggle.competition.submissions == []
    assert KEY not in err


def test_all_are_checked_before_the_first_costs_a_slot(home, kaggle):
    user.add_run(home, "b", 0.7)
    kaggle.competition.used_today = 4
    code, _, err = submit(home, "a", "b")
    assert code == 3
    assert "1 of the day's submissions left, 2 wanted" in err
    (home / "runs" / "b" / "test.npy").unlink()
    assert submit(home, "a", "b")[0] == 2
    assert kaggle.competition.submissions == []


def test_without_credentials_or_network(home, kaggle):
    code, _, err = submit(home, "a", KAGGLE_KEY=None)
    assert (code, "no Kaggle credentials" in err) == (2, True)
    code, _, err = submit(home, "a", KAGGLE_KEY="other")
    assert (code, "401" in err) == (3, True)
    kaggle.__exit__()
    code, _, err = submit(home, "a")
    assert code == 4
    assert err.count("\n") == 1


def test_refusals_of_the_command_line(home):
    for arguments, words in [
        ([], "name runs or files"),
        (["a", "--work-queue"], "name runs or files"),
        (["a", "--status"], "name runs or files"),
        (["--work-queue", "--queue"], "--queue only puts"),
        (["--kernel", "me/slug"], "--version go together"),
        (["--kernel", "slug", "--version", "2"], "owner/slug"),
        (["--kernel", "me/slug", "--version", "2", "--dry-run"], "--dry-run"),
        (["none.csv"], "none.csv is missing"),
    ]:
        code, _, err = submit(home, *arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert words in err
    assert ledger_of(home) == []


def test_demo_tiles_are_not_submitted(home, kaggle):
    (home / "data" / "demo_answers.csv").write_bytes((home / "data" / "sample_submission.csv").read_bytes())
    code, _, err = submit(home, "a")
    assert (code, "which Kaggle does not know" in err) == (2, True)
    assert kaggle.calls == []


def test_a_kernels_output(home, kaggle):
    kaggle.competition.kernels_only = True
    code, out, _ = submit(home, "--kernel", "me/salt-kit", "--version", 3, "--wait")
    assert code == 0
    assert "30000001 complete" in out
    (body,) = kaggle.bodies("CreateCodeSubmission")
    assert body["kernelVersion"] == 3
    assert (body["kernelOwner"], body["kernelSlug"], body["fileName"]) == ("me", "salt-kit", "submission.csv")
    code, _, err = submit(home, "--kernel", "me/salt-kit", "--version", 3)
    assert (code, "was submitted as 30000001" in err) == (2, True)


def test_a_key_that_others_can_read_is_pointed_out(home, kaggle):
    path = home / "home" / ".kaggle" / "kaggle.json"
    path.write_text(json.dumps({"username": "tester", "key": KEY}))
    path.chmod(0o644)
    code, _, err = submit(home, "a")
    assert code == 0
    assert err == f"warning: others can read the Kaggle key in {path}: chmod 600 {path}\n"
    path.chmod(0o600)
    assert submit(home, "--status")[2] == ""


def test_the_key_is_nowhere(home, kaggle):
    kaggle.plant("CreateSubmission", status=500)
    code, out, err = submit(home, "a", "--wait", VERBOSE="1")
    assert code == 0
    assert KEY not in out + err
    for path in [*home.rglob("submissions/*"), *home.rglob("runs/**/*")]:
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


@pytest.mark.parametrize("days", ["-4000", "4000"])
def test_a_clock_that_is_wrong(home, kaggle, days):
    """Nothing depends on this machine's clock but the dates in the ledger."""
    kaggle.plant("CreateSubmission", hang=600, committed=True)
    process = quick.start("submit.py", "a", cwd=home, QUICK_CLOCK=days)
    until(lambda: kaggle.count("CreateSubmission") == 1)
    process.kill()
    process.communicate()
    code, out, err = submit(home, "a", "--wait")
    assert (code, "30000001 complete" in out) == (0, True), err
    assert submit(home, "a", QUICK_CLOCK=days)[0] == 2
    assert len(kaggle.competition.submissions) == 1
