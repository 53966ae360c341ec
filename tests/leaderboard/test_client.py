"""The real client against a server of our own: timeouts, retries, and refusals in Kaggle's words."""

import pytest

from kit.data.competition import TGS
from kit.errors import InputError, RefusedError, UnreachableError
from kit.leaderboard import client
from kit.leaderboard.client import Client
from tests.leaderboard.server import KEY, USER

LIMITS = {"competitionName": TGS.slug}
HANG = pytest.param({"hang": 5}, marks=pytest.mark.slow)  # waits for the client to give up


def limits():
    return Client().ask("GetSubmissionLimits", **LIMITS)


def test_answers_are_the_clients_objects(kaggle):
    kaggle.competition.used_today = 2
    answer = limits()
    assert (answer.num_today, answer.num_allowed_now) == (2, 3)
    assert kaggle.calls == [("GetSubmissionLimits", LIMITS)]
    assert Client().username == USER


def test_a_token_logs_in_too(kaggle, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_API_TOKEN", KEY)
    assert limits().num_allowed_now == 5
    assert kaggle.bodies("IntrospectToken")[-1] == {"token": KEY}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 400, "message": "Your team\nhas  used its allowance"}, "400, Your team has used its allowance"),
        ({"status": 401}, "make a new token at https://www.kaggle.com/settings/api"),
        ({"status": 403}, f"accept the rules at https://www.kaggle.com/c/{TGS.slug}/rules"),
        ({"status": 404}, "mend the competition's name"),
        ({"status": 409, "message": "conflict"}, "409, conflict"),
    ],
)
def test_a_no_is_final_and_in_kaggles_words(kaggle, fault, words):
    kaggle.plant("GetSubmissionLimits", **fault, times=9)
    with pytest.raises(RefusedError, match=words.replace(".", r"\.")) as caught:
        limits()
    assert caught.value.status == fault["status"]
    assert "\n" not in str(caught.value)
    assert kaggle.count("GetSubmissionLimits") == 1
    assert kaggle.slept == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"status": 503}, {"status": 408}, {"cut": True}, {"body": b"<html>"}, HANG]
)
def test_trouble_passes(kaggle, fault):
    kaggle.plant("GetSubmissionLimits", **fault)
    assert limits().num_allowed_now == 5
    assert kaggle.count("GetSubmissionLimits") == 2


def test_trouble_that_stays_ends(kaggle):
    kaggle.plant("GetSubmissionLimits", status=500, times=99)
    with pytest.raises(UnreachableError, match=r"answers 500 \(5 tries\): try again later"):
        limits()
    assert kaggle.count("GetSubmissionLimits") == 5
    assert kaggle.slept == [1, 2, 4, 8]


def test_retry_after_is_obeyed_in_seconds_and_as_a_date(kaggle):
    kaggle.plant("GetSubmissionLimits", status=429, headers={"Retry-After": "7"})
    day = "Wed, 21 Oct 2015 07:28"
    kaggle.plant("GetSubmissionLimits", status=429, headers={"Date": f"{day}:00 GMT", "Retry-After": f"{day}:09 GMT"})
    assert limits().num_allowed_now == 5
    assert kaggle.slept == [7, 9]


def test_a_wait_that_is_too_long_is_left_to_the_user(kaggle):
    kaggle.plant("GetSubmissionLimits", status=429, headers={"Retry-After": "3600"})
    with pytest.raises(UnreachableError, match="Kaggle asks to wait 3600 s"):
        limits()
    assert kaggle.slept == []


def test_no_credentials(kaggle, monkeypatch, capsys):
    monkeypatch.delenv("KAGGLE_KEY")
    with pytest.raises(InputError, match="no Kaggle credentials, or none that Kaggle knows: make a token"):
        limits()
    assert capsys.readouterr() == ("", "")
    assert kaggle.calls == []


def test_a_token_that_kaggle_does_not_know(kaggle, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "old")
    with pytest.raises(InputError, match="none that Kaggle knows"):
        limits()


@pytest.mark.parametrize("name", ["KAGGLE_USERNAME", "KAGGLE_KEY"])
def test_empty_variables_are_no_credentials(kaggle, monkeypatch, name):
    monkeypatch.setenv(name, "")
    with pytest.raises(InputError, match="is empty: set both KAGGLE_USERNAME and KAGGLE_KEY, or neither"):
        limits()
    assert kaggle.calls == []
    monkeypatch.setenv("KAGGLE_API_TOKEN", KEY)  # which comes first
    assert limits().num_allowed_now == 5


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_logging_in_does_not_hang(kaggle, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_API_TOKEN", KEY)
    kaggle.plant("IntrospectToken", hang=60)
    assert limits().num_allowed_now == 5
    kaggle.plant("IntrospectToken", hang=60, times=99)
    with pytest.raises(UnreachableError, match="logging in: no answer from Kaggle within 1 s"):
        limits()


def test_nobody_there(kaggle):
    kaggle.__exit__()
    with pytest.raises(UnreachableError, match="cut or refused"):
        limits()


@pytest.mark.parametrize("name", ["KAGGLE_KEY", "KAGGLE_API_TOKEN"])
@pytest.mark.parametrize("value", [f"{KEY}\nx", f"{KEY}…"])
def test_a_miscopied_key_is_not_quoted(kaggle, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises((InputError, RefusedError)) as caught:
        limits()
    assert KEY not in str(caught.value)


def test_the_method_must_exist_and_know_its_fields(kaggle):
    with pytest.raises(TypeError, match="competitionname"):
        Client().ask("GetSubmissionLimits", competitionname=TGS.slug)
    with pytest.raises(AttributeError, match="get_nothing"):
        Client().ask("GetNothing")


class Counter:
    """Something that must be done once, on the server as CreateSubmission, and a look for it."""

    def __init__(self, kaggle):
        self.kaggle, self.looks = kaggle, 0

    def found(self):
        self.looks += 1
        return self.kaggle.competition.submissions[0]["ref"] if self.kaggle.competition.submissions else None

    def create(self):
        token = self.kaggle.place(0)["token"]
        answer = Client().once("CreateSubmission", self.found, **LIMITS, blobFileTokens=token)
        return getattr(answer, "ref", answer)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", [{"cut": True}, {"status": 500}, {"body": b"torn {"}, HANG])
@pytest.mark.parametrize("committed", [True, False])
def test_once_is_once(kaggle, fault, committed):
    kaggle.plant("CreateSubmission", **fault, committed=committed)
    counter = Counter(kaggle)
    assert counter.create() == 30_000_001
    assert len(kaggle.competition.submissions) == 1
    assert counter.looks == (1 if committed else len(client.LOOKS))


def test_a_limit_of_calls_was_certainly_not_done(kaggle):
    kaggle.plant("CreateSubmission", status=429)
    counter = Counter(kaggle)
    assert counter.create() == 30_000_001
    assert (counter.looks, len(kaggle.competition.submissions)) == (0, 1)
