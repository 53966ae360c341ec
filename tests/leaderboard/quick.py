"""The kit's scripts as processes that wait a hundredth as long.

QUICK_TIMEOUT: seconds after which a call is given up; long, as a busy machine is slow, but where a test waits for it.
QUICK_CLOCK: days by which the clock is wrong.
"""

import os
import time
from datetime import datetime, timedelta
from functools import partial

from tests import processes


def _hurry():
    from kit.leaderboard import client, ledger, sending

    client.TIMEOUT = (30, float(os.environ.get("QUICK_TIMEOUT", "30")))
    client.sleep = lambda seconds: time.sleep(seconds / 100)
    wrong = timedelta(days=float(os.environ.get("QUICK_CLOCK", "0")))
    ledger.datetime = sending.datetime = type(
        "Wrong", (datetime,), {"now": classmethod(lambda cls, zone=None: datetime.now(zone) + wrong)}
    )


start = partial(processes.start, before=_hurry)
run = partial(processes.run, before=_hurry)
