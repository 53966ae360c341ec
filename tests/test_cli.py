"""What the scripts share."""

import pytest

from kit import cli
from kit.errors import InputError


def test_durations():
    assert [cli.seconds("--x", text) for text in ("90s", "60m", "1.5h", "2")] == [90, 3600, 5400, 120]
    for text in ("", "0m", "-3m", "1d", "ten"):
        with pytest.raises(InputError, match=r"--x .* is no duration"):
            cli.seconds("--x", text)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("tile x is\nbroken: mend it"), 2, "error: tile x is broken: mend it\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (OSError(28, "No space left on device", "a.npy"), 2, "error: no room to write a.npy"),
        (PermissionError(13, "Permission denied", "a.npy"), 2, "error: a.npy cannot be opened"),
    ],
)
def test_errors_of_the_user_are_one_line(error, code, line, capsys):
    def fail():
        raise error

    with pytest.raises(SystemExit) as caught:
        cli.run(fail)
    assert caught.value.code == code
    assert capsys.readouterr().err.startswith(line)


def test_defects_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
