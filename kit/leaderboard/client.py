"""The real kaggle client in bounds: a timeout on every call, Kaggle's own words in errors, only retries that are safe.

The one module that touches the client, which is imported when first needed: importing it logs in, may print a help
page and takes a second. What it prints is swallowed; its objects are read, never its text. It sets no timeout, loses
the reasons of refusals and repeats what must not be repeated, so here its calls are made one by one.
"""

import contextlib
import io
import math
import random
import re
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from kit.errors import InputError, RefusedError, UnreachableError
from kit.leaderboard.credentials import warn_exposed

TIMEOUT = (10, 60)  # seconds: to connect, and between two parts of an answer
TRIES = 5
LONGEST_WAIT = 120  # seconds; where Kaggle asks for more, the user decides
LOOKS = (2, 5, 15, 30)  # seconds before each look for what an unanswered call may have done
MISSES = 10  # looks for a result, one after the other, at which Kaggle may be away
SERVICES = ("competitions.competition_api_client", "datasets.dataset_api_client", "kernels.kernels_api_client",
            "blobs.blob_api_client")  # fmt: skip
NO_CREDENTIALS = (
    "no Kaggle credentials, or none that Kaggle knows: make a token at https://www.kaggle.com/settings/api, "
    "save it to ~/.kaggle/access_token and keep it to yourself with chmod 600, or run kaggle auth login"
)

T = TypeVar("T")

sleep = time.sleep  # every wait of this room, so that tests can wait less


class TroubleError(Exception):
    """One attempt failed in a way that may pass.

    after: seconds that Kaggle asks to wait. maybe_done: Kaggle may have done what was asked, only the answer is lost.
    """

    def __init__(self, line: str, after: float = 0, maybe_done: bool = True):
        super().__init__(line)
        self.after, self.maybe_done = after, maybe_done


def patiently(attempt: Callable[[], T], found: Callable[[], T | None] | None = None) -> T:
    """What `attempt` returns, tried TRIES times with growing, uneven waits, never sooner than Kaggle asks.

    found: for what must not be done twice. Where Kaggle may have done it without our hearing of it, this looks for it
    before the next try and returns it, or None. Raises UnreachableError.
    """
    unclear = False
    for number in range(TRIES):
        try:
            return attempt()
        except RefusedError:  # a limit, say, that the lost try has used up
            if found and unclear and (result := found()) is not None:
                return result
            raise
        except TroubleError as trouble:
            if found and trouble.maybe_done:
                unclear = True
                for wait in LOOKS:
                    sleep(wait)
                    if (result := found()) is not None:
                        return result
            if number == TRIES - 1 or trouble.after > LONGEST_WAIT:
                asked = f", Kaggle asks to wait {trouble.after:.0f} s" if trouble.after else ""
                raise UnreachableError(
                    f"{trouble} ({number + 1} tries{asked}): try again later", trouble.after
                ) from None
            sleep(max(trouble.after, min(2**number, 30)) * random.uniform(1, 1.5))
    raise AssertionError("TRIES is above 0")


def poll(look: Callable[[], T | None], longest: float = math.inf) -> T | None:
    """The first answer of `look` that is not None, asked after 5 s and then ever less often, at last each minute.

    None where there is none within `longest` seconds. Kaggle may be away for MISSES looks less one; the next one
    raises UnreachableError.
    """
    waited, pause, missed = 0.0, 5.0, 0
    while True:
        rest = pause
        try:
            if (found := look()) is not None:
                return found
            missed = 0
        except UnreachableError as error:
            missed, rest = missed + 1, max(pause, error.after)
            if missed == MISSES:
                raise
        if waited >= longest:
            return None
        sleep(rest)
        waited, pause = waited + rest, min(1.5 * pause, 60.0)


class Client:
    """Kaggle's API as one user. Methods and fields have the API's own names: ask("GetSubmission", ref=7).status.

    Answers are the client's objects, their fields in snake_case; a download's answer is the open HTTP response.
    Raises InputError without credentials, RefusedError, UnreachableError.
    """

    def __init__(self) -> None:
        with in_bounds():
            try:
                from kaggle.api.kaggle_api_extended import KaggleApi
            except ImportError as error:
                raise InputError(f"the kaggle client cannot be imported ({error}): pip install kaggle six") from None
            self._api = KaggleApi()
        patiently(self._log_in)
        self.username: str = self._api.get_config_value("username") or ""

    def ask(self, method: str, **fields: Any) -> Any:
        """A call that only reads, repeated while trouble lasts."""
        return patiently(lambda: self._call(method, fields))

    def pages(self, method: str, **fields: Any) -> Iterator[Any]:
        """The answers of a list that comes in pages."""
        token = ""
        while True:
            answer = self.ask(
                method, **fields, pageSize=20, pageToken=token
            )  # the size that the client itself asks for
            yield answer
            token = answer.next_page_token
            if not token:
                return

    def once(self, method: str, found: Callable[[], T | None], **fields: Any) -> T | Any:
        """A call that must be done once: after a lost answer, `found` looks for its work before it is made again."""
        return patiently(lambda: self._call(method, fields), found)

    def _log_in(self) -> None:
        try:
            with in_bounds("logging in"):
                self._api.authenticate()
                self._services = self._api.build_kaggle_client()
        except SystemExit:
            raise InputError(NO_CREDENTIALS) from None
        known = self._api.config_values
        if not known.get("token") and any(known.get(name) == "" for name in ("username", "key")):
            raise InputError("the Kaggle username or key is empty: set both KAGGLE_USERNAME and KAGGLE_KEY, or neither")

    def _call(self, method: str, fields: dict[str, Any]) -> Any:
        call = self._method(re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower())
        request = call.__annotations__["request"]
        if unknown := fields.keys() - {field.json_name for field in request._fields}:
            raise TypeError(f"{method} has no {', '.join(unknown)}")
        with in_bounds(method, fields.get("competitionName")):
            return call(request.from_dict(fields))

    def _method(self, name: str) -> Callable[..., Any]:
        for path in SERVICES:
            group, client = path.split(".")
            service = getattr(getattr(self._services, group), client)
            if hasattr(service, name):
                method: Callable[..., Any] = getattr(service, name)
                return method
        raise AttributeError(f"the kaggle client has no {name}")


def log_in() -> Client:
    """A Client, after a warning for each key that others can read. Raises as Client does."""
    warn_exposed()
    return Client()


@contextlib.contextmanager
def in_bounds(what: str = "", competition: str | None = None) -> Iterator[None]:
    """Code of the client's, or of requests: with timeouts, silent, its errors turned into TroubleError or RefusedError.

    No error's own text is passed on: addresses and headers, which it may quote, hold keys.
    """
    import requests

    adapter: Any = requests.adapters.HTTPAdapter
    send = adapter.send

    def timed(self: Any, request: Any, stream: bool = False, timeout: Any = None, **rest: Any) -> Any:
        return send(self, request, stream=stream, timeout=timeout or TIMEOUT, **rest)

    adapter.send = timed
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except requests.HTTPError as error:
        raise _judged(error.response, what, competition) from None
    except requests.ConnectTimeout:
        raise TroubleError(f"{what}: no connection to Kaggle within {TIMEOUT[0]} s", maybe_done=False) from None
    except requests.Timeout:
        raise TroubleError(f"{what}: no answer from Kaggle within {TIMEOUT[1]} s") from None
    except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
        raise TroubleError(f"{what}: the connection to Kaggle was cut or refused ({type(error).__name__})") from None
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        if isinstance(error, UnicodeError) or "header" in str(error):  # it quotes the key, so it is not passed on
            raise InputError("the Kaggle key has characters that no key has: copy it again, alone") from None
        raise TroubleError(f"{what}: what came is no answer of Kaggle's ({type(error).__name__})") from None
    finally:
        adapter.send = send


def _judged(response: Any, what: str, competition: str | None = None) -> Exception:
    status, reason = _reason(response)
    line = f"{what}: Kaggle answers {status}{f', {reason}' if reason else ''}"
    if status == 429:
        return TroubleError(line, _retry_after(response), maybe_done=False)
    if status == 408 or status >= 500:
        return TroubleError(line, _retry_after(response))
    mend = "check what was asked for"
    if status == 401:
        mend = "make a new token at https://www.kaggle.com/settings/api"
    elif status in (403, 404) and competition:
        mend = f"accept the rules at https://www.kaggle.com/c/{competition}/rules, or mend the competition's name"
    elif status in (403, 404):
        mend = "check the name and that it is yours"
    return RefusedError(f"{line}: {mend}" if not reason or status in (401, 403, 404) else line, status)


def _reason(response: Any) -> tuple[int, str]:
    """The status and Kaggle's words. They stand in {"error": {...}} or, from older services, in {...} itself."""
    try:
        body = response.json()
        body = body["error"] if isinstance(body.get("error"), dict) else body
        return int(body.get("code") or response.status_code), " ".join(str(body.get("message") or "").split())[:300]
    except (ValueError, AttributeError, TypeError):
        return response.status_code, ""  # a page of some proxy: its text helps nobody


def _retry_after(response: Any) -> float:
    """Seconds, given as such or as a date; the date is held against the server's own clock, ours may be wrong."""
    text = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        now = parsedate_to_datetime(response.headers["Date"])
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (ValueError, TypeError, KeyError):
        return 0.0
