"""Whether everything is there that the kit needs: a line for each thing, with the mend where it is not."""

import shutil
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from kit.data.competition import TGS
from kit.errors import InputError, RefusedError, UnreachableError
from kit.leaderboard.client import Client
from kit.leaderboard.credentials import exposed

TESTED = ("2.2.4", "2.2.5")  # of the kaggle client
NEEDED = 3  # GiB for the competition's zip, its cache and some runs


def run(data: Path) -> None:
    """Print all checks. Raises InputError where one says that something must be mended."""
    client: list[Client] = []

    def login() -> str:
        if files := exposed():
            raise InputError(f"others can read {files[0]}: chmod 600 {files[0]}")
        client.append(Client())
        return f"as {client[0].username}"

    def logged_in(check: Callable[[Client], str]) -> Callable[[], str]:
        def checked() -> str:
            if not client:
                raise InputError("not asked: mend the credentials first")
            return check(client[0])

        return checked

    checks = {"credentials": login, "client": _version, "disk": lambda: _disk(data), "GPU": _gpu,
              "competition": logged_in(_access), "kernel quota": logged_in(_quota)}  # fmt: skip
    wrong = [name for name, check in checks.items() if not _passes(name, check)]
    if wrong:
        raise InputError(f"to be mended, as the lines above say: {', '.join(wrong)}")


def _passes(name: str, check: Callable[[], str]) -> bool:
    try:
        print(f"ok    {name:<14}{check()}", flush=True)
        return True
    except (InputError, RefusedError, UnreachableError) as error:
        print(f"mend  {name:<14}{error}", flush=True)
        return False


def _version() -> str:
    try:
        version = metadata.version("kaggle")
    except metadata.PackageNotFoundError:
        raise InputError("the kaggle client is not installed: pip install kaggle six") from None
    return f"kaggle {version}" + ("" if version in TESTED else f", the kit is tested with {' and '.join(TESTED)}")


def _disk(data: Path) -> str:
    there = next(folder for folder in [data.absolute(), *data.absolute().parents] if folder.exists())
    free = shutil.disk_usage(there).free / 2**30
    if free < NEEDED:
        raise InputError(f"{free:.1f} GiB free at {there}, {NEEDED} are needed: make room, or name another --data")
    return f"{free:.0f} GiB free at {there}"


def _gpu() -> str:
    """Asked of the driver; loading torch for it would take longer than all the rest."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        found = ""
    return "; ".join(found.splitlines()) or "none: trainings run on the CPU, or on Kaggle with scripts/push_kernel.py"


def _access(client: Client) -> str:
    facts = client.ask("GetCompetition", competitionName=TGS.slug)
    if not facts.user_has_entered:
        raise RefusedError(f"not entered: accept the rules at https://www.kaggle.com/c/{TGS.slug}/rules")
    limits = client.ask("GetSubmissionLimits", competitionName=TGS.slug)
    return f"entered, {limits.num_allowed_now} of {facts.max_daily_submissions} submissions left today"


def _quota(client: Client) -> str:
    quota = client.ask("GetAcceleratorQuotaStatistics").gpu_quota
    if quota is None or quota.total_time_allowed is None:
        raise RefusedError("Kaggle names no GPU hours: verify your phone at https://www.kaggle.com/settings")
    allowed = quota.total_time_allowed.total_seconds() / 3600
    used = quota.time_used.total_seconds() / 3600 if quota.time_used else 0
    if used >= allowed:
        raise RefusedError(f"all {allowed:.0f} GPU hours of this week are used: push without a GPU, or wait")
    return f"{allowed - used:.1f} of {allowed:.0f} GPU hours left this week"
