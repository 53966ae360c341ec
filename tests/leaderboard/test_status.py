"""What submit.py --status tells: every submission, wherever it was made, and how the leaderboard follows the folds."""

import re

import pytest

from tests.leaderboard import user
from tests.leaderboard.user import ledger_of, submit

pytestmark = pytest.mark.slow  # processes that talk to a server


@pytest.fixture
def home(tmp_path, kaggle):
    user.folder(tmp_path)
    user.add_run(tmp_path, "a", 0.81)
    return tmp_path


def test_without_wait_status_brings_the_score(home, kaggle):
    code, out, _ = submit(home, "a")
    assert code == 0
    assert "a is pending as 30000001; its score: python scripts/submit.py --status" in out
    code, out, _ = submit(home, "--status")
    assert "1 pending on Kaggle" in out
    code, out, _ = submit(home, "--status")
    assert code == 0
    assert re.search(r"complete  0\.81000  0\.81234  0\.83456   30000001  a$", out, re.M)
    assert (home / "submissions" / "status.png").stat().st_size > 10_000
    before = ledger_of(home)
    submit(home, "--status")
    assert ledger_of(home) == before


def test_submissions_made_elsewhere_are_imported(home, kaggle):
    for n in range(5):
        token = kaggle.place(0)["token"]
        body = {"blobFileTokens": token, "submissionDescription": f"by\nhand {n}"}
        kaggle.competition.CreateSubmission({"competitionName": kaggle.competition.slug, **body})
    submit(home, "--status")
    code, out, _ = submit(home, "--status")
    assert code == 0
    assert len(re.findall(r"complete +- +0\.81234  0\.83456   3000000\d  submission\.csv", out)) == 5
    assert "no correlation yet" in out


def test_the_correlation_is_that_of_the_scores(home, kaggle):
    kaggle.competition.pending = 0
    for name, oof, public in (("a", 0.81, "0.80"), ("b", 0.83, "0.84"), ("c", 0.82, "0.81")):
        user.add_run(home, name, oof)
        kaggle.competition.scores = (public, "0.9")
        submit(home, name, "--wait")
    out = submit(home, "--status")[1]
    # by hand: deviations (-1, 1, 0) and (-5, 7, -2) / 300: 12 / sqrt(2 * 78)
    assert "out of fold against public: correlation 0.96, -0.0033 on average" in out


def test_status_without_kaggle_shows_what_is_known(home, kaggle):
    submit(home, "a", "--wait")
    kaggle.__exit__()
    code, out, err = submit(home, "--status")
    assert code == 4
    assert "0.83456" in out
    assert err.count("\n") == 1
