"""What this process may take of its machine: cores, memory, and how many cores others keep busy.

Linux says all of it in /proc and in the control groups that containers are made of; elsewhere less is known.
"""

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
LOOKS, LOOK = 2, 0.15  # so many looks of so many seconds: what keeps a core busy in one of them only will be gone
CROWDED = 0.25  # of the wanted cores that others have


def cpus() -> int:
    """The cores that this process may use: those it may run on, or fewer where a container's share of time is less."""
    quotas = [_quota(group) for group in _groups("cpu")]
    return max(1, math.ceil(min([len(_cores()), *quotas])))


def free_memory() -> int | None:
    """Bytes that this process may still take; None where that is not known."""
    available = _bytes(PROC / "meminfo", "MemAvailable")
    return None if available is None else int(min([available, *(_room(group) for group in _groups("memory"))]))


def resident_memory() -> int | None:
    """Bytes that this process has in memory; None where that is not known."""
    return _bytes(PROC / "self" / "status", "VmRSS")


def peak_memory() -> int | None:
    """The most bytes that this process has had in memory so far; None where that is not known."""
    return _bytes(PROC / "self" / "status", "VmHWM")


def crowding() -> str:
    """What other processes take of the cores that this one wants, in words; "" where that is little, or not known.

    Takes a third of a second. Processes of low priority do not count: they give way.
    """
    if not (PROC / "stat").exists():
        return ""
    busy, there, wanted = min(_busy_elsewhere() for _ in range(LOOKS)), len(_cores()), cpus()
    if there - busy >= (1 - CROWDED) * wanted:
        return ""
    return f"other processes keep {busy:.1f} of {there} {'core' if there == 1 else 'cores'} busy"


def _busy_elsewhere() -> float:
    """How many of this process's cores others keep busy, as a mean over LOOK seconds."""
    since, others = time.monotonic(), _busy_seconds() - time.process_time()
    time.sleep(LOOK)
    others = _busy_seconds() - time.process_time() - others
    return others / (time.monotonic() - since)


def _busy_seconds() -> float:
    """Seconds that processes of usual priority have run on this process's cores since the machine was started."""
    names = {f"cpu{number}" for number in _cores()}
    lines = [line.split() for line in _read(PROC / "stat").splitlines()]
    ticks = sum(int(line[1]) + int(line[3]) for line in lines if line and line[0] in names)  # user, system
    return ticks / os.sysconf("SC_CLK_TCK")


def _cores() -> set[int]:
    """The numbers of the cores that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _quota(group: Path) -> float:
    """How many cores' time a control group may use: cpu.max of version 2, cpu.cfs_* of version 1."""
    text = _read(group / "cpu.max") or f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
    quota, *period = text.split() or [""]
    return int(quota) / int(*period) if quota.isdecimal() else math.inf  # "max", "-1" or no such file


def _room(group: Path) -> float:
    """Bytes that a control group may still take; pages of files that were not used lately are given up first."""
    limit = (_read(group / "memory.max") or _read(group / "memory.limit_in_bytes")).strip()
    used = (_read(group / "memory.current") or _read(group / "memory.usage_in_bytes")).strip()
    if not limit.isdecimal() or not used.isdecimal():
        return math.inf
    pages = dict(line.split() for line in _read(group / "memory.stat").splitlines())
    return int(limit) - int(used) + int(pages.get("total_inactive_file", pages.get("inactive_file", 0)))


def _groups(controller: str) -> Iterator[Path]:
    """The control groups that this process is in as the controller sees it: its own and those around that."""
    for line in _read(PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):  # version 2 has one tree for all and no name
            tree = CGROUP / controllers
            own = tree / path.lstrip("/")
            yield from (group for group in (own, *own.parents) if group.is_relative_to(tree))


def _bytes(path: Path, key: str) -> int | None:
    """The value of a line such as "MemAvailable:  1024 kB"."""
    for line in _read(path).splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None


def _read(path: Path) -> str:
    """The text of a file, "" where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
