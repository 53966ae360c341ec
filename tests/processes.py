"""The kit's scripts as processes of their own, forked from one that has done the slow imports once for all of them.

A test that is about what a script imports, or that limits a process, starts a new Python instead.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).parent.parent

# what has no threads before it is used; not kaggle, which reads the environment
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload([
    *("pytest", "kit.leaderboard.command", "kit.report.sections", "kit.report.standing", "kagglesdk"),
    *("kit.training.parallel", "kit.training.pretext", "kit.training.budget", "kit.inference.predict"),
])  # fmt: skip


class Started:
    """A script's process, with the part of subprocess.Popen that the tests use."""

    alive: ClassVar[list["Started"]] = []

    def __init__(self, command: list[str], cwd: Path, environment: dict[str, str], before: Callable[[], None] | None):
        self._folder = tempfile.TemporaryDirectory()
        self._texts = [Path(self._folder.name) / name for name in ("out", "err")]
        self._process = FORKING.Process(target=_become, args=(command, cwd, environment, self._texts, before))
        self._process.start()
        self.alive.append(self)

    def communicate(self, timeout: float = 600) -> tuple[str, ...]:
        """Wait for its end, and return stdout and stderr; once."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still running after {timeout} s"
        self.alive.remove(self)
        with self._folder:
            return tuple(path.read_text() if path.exists() else "" for path in self._texts)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)


def kill_all() -> None:
    """End what a failed test has left running, for which pytest would wait at its end."""
    for process in tuple(Started.alive):
        process.kill()
        process.communicate()


def start(script: str, *arguments: object, cwd: Path, before: Callable[[], None] | None = None,
          **variables: str | None) -> Started:  # fmt: skip
    """Start a script of scripts/ in the folder cwd, with other environment variables (None: without that one).

    before: called in the new process, before the script.
    """
    environment = {**os.environ, "KIT_DATA": None, "KIT_CACHE": None, **variables}
    given = {key: value for key, value in environment.items() if value is not None}
    return Started([str(ROOT / "scripts" / script), *map(str, arguments)], cwd, given, before)


def run(script: str, *arguments: object, cwd: Path, **kwargs) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a script."""
    process = start(script, *arguments, cwd=cwd, **kwargs)
    out, err = process.communicate()
    assert "Traceback" not in err, err
    return process.returncode, out, err


def succeed(script: str, *arguments: object, cwd: Path, **kwargs) -> str:
    """The stdout of a script that must end well."""
    code, out, err = run(script, *arguments, cwd=cwd, **kwargs)
    assert code == 0, err
    return out


def _become(command, cwd, environment, texts, before):
    """In a fresh process: take on a script's folder, environment, output and command line, and run it."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell are born deaf to it
    tempfile.tempdir = None  # it was remembered from another environment
    for path, stream in zip(texts, (sys.stdout, sys.stderr), strict=True):
        with open(path, "w") as file:
            os.dup2(file.fileno(), stream.fileno())
    if before:
        before()
    sys.argv = command
    sys.path[0] = str(Path(command[0]).parent)
    runpy.run_path(command[0], run_name="__main__")
