"""The kit's scripts as processes that wait a hundredth as long: python quick.py SCRIPT [argument ...], and a starter.

QUICK_TIMEOUT: seconds after which a call is given up; long, as a busy machine is slow, but where a test waits for it.
QUICK_CLOCK: days by which the clock is wrong.
"""

import os
import runpy
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(script, *arguments, cwd, **variables):
    """Start a script of scripts/ in the folder cwd, with other environment variables (None: without that one)."""
    environment = {**os.environ, "KIT_DATA": None, "KIT_CACHE": None, **variables}
    given = {key: value for key, value in environment.items() if value is not None}
    return subprocess.Popen(
        [sys.executable, __file__, str(ROOT / "scripts" / script), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=given,
    )  # fmt: skip


def run(script, *arguments, cwd, **variables):
    """(exit code, stdout, stderr) of a script."""
    process = start(script, *arguments, cwd=cwd, **variables)
    out, err = process.communicate(timeout=600)
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
