"""The kit's scripts as processes that wait a hundredth as long: python quick.py SCRIPT [argument ...], and a starter.

QUICK_TIMEOUT: seconds after which a call is given up; long, as a busy machine is slow, but where a test waits for it.
QUICK_CLOCK: days by which the clock is wrong.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).parents[2]

# each script is a process of its own, forked from one without threads that has done the slow imports; not kaggle's,
# which reads the environment
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["pytest", "kit.leaderboard.command", "kit.report.standing", "kagglesdk"])


class Started:
    """A script's process, with the part of subprocess.Popen that the tests use."""

    def __init__(self, script, arguments, cwd, environment):
        self._folder = tempfile.TemporaryDirectory()
        self._texts = [Path(self._folder.name) / name for name in ("out", "err")]
        command = [str(ROOT / "scripts" / script), *arguments]
        self._process = FORKING.Process(target=_become, args=(command, cwd, environment, self._texts))
        self._process.start()

    def communicate(self, timeout=600):
        """Wait for its end, and return stdout and stderr; once."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still running after {timeout} s"
        with self._folder:
            return tuple(path.read_text() if path.exists() else "" for path in self._texts)

    @property
    def returncode(self):
        return self._process.exitcode

    def kill(self):
        self._process.kill()

    def send_signal(self, number):
        os.kill(self._process.pid, number)


def start(script, *arguments, cwd, **variables):
    """Start a script of scripts/ in the folder cwd, with other environment variables (None: without that one)."""
    environment = {**os.environ, "KIT_DATA": None, "KIT_CACHE": None, **variables}
    given = {key: value for key, value in environment.items() if value is not None}
    return Started(script, [*map(str, arguments)], cwd, given)


def _become(command, cwd, environment, texts):
    """In a fresh process: take on a script's folder, environment, output and command line, and run it."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell are born deaf to it
    tempfile.tempdir = None  # it was remembered from another environment
    for path, stream in zip(texts, (sys.stdout, sys.stderr), strict=True):
        with open(path, "w") as file:
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = ["quick.py", *command]
    main()


def run(script, *arguments, cwd, **variables):
    """(exit code, stdout, stderr) of a script."""
    process = start(script, *arguments, cwd=cwd, **variables)
    out, err = process.communicate()
    assert "Traceback" not in err, err
    return process.returncode, out, err


def main():
    sys.path.insert(0, str(ROOT))
    from kit.leaderboard import client, ledger, sending

    client.TIMEOUT = (30, float(os.environ.get("QUICK_TIMEOUT", "30")))
    client.sleep = lambda seconds: time.sleep(seconds / 100)
    wrong = timedelta(days=float(os.environ.get("QUICK_CLOCK", "0")))
    ledger.datetime = sending.datetime = type(
        "Wrong", (datetime,), {"now": classmethod(lambda cls, zone=None: datetime.now(zone) + wrong)}
    )
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
