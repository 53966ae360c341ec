"""What a process may take of its machine, from planted files of the kernel's."""

import os
import time

import pytest

from kit import machine

GB = 1024**3


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A function that writes files as the kernel shows them: /proc and /sys/fs/cgroup are folders of the test."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_cores", lambda: {0, 1, 4, 5})

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return write


def test_without_files_of_linux_there_is_less_to_know(kernel):
    assert machine.cpus() == 4
    assert machine.free_memory() is None
    assert machine.resident_memory() is None
    assert machine.crowding() == ""


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "max 100000\n"}, 4),
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "250000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "6400000 100000\n"}, 4),
        # the group around it has less than it has itself
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "cgroup/a/b/cpu.max": "300000 100000\n",
                "cgroup/a/cpu.max": "200000 100000\n",
            },
            2,
        ),
        # version 1, and a container that sees its own group as the root
        (
            {
                "proc/self/cgroup": "5:memory:/docker/7\n4:cpu,cpuacct:/docker/7\n0::/\n",
                "cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
                "cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
    ],
)
def test_cores_are_those_it_may_run_on_and_has_time_for(kernel, files, expected):
    kernel(files)
    assert machine.cpus() == expected


MEMINFO = {"proc/meminfo": f"MemTotal: {64 * GB // 1024} kB\nMemAvailable:   {20 * GB // 1024} kB\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 20 * GB),
        ({"proc/self/cgroup": "0::/a\n", "cgroup/a/memory.max": "max\n", "cgroup/a/memory.current": "7\n"}, 20 * GB),
        (
            {
                "proc/self/cgroup": "0::/a\n",
                "cgroup/a/memory.max": f"{8 * GB}\n",
                "cgroup/a/memory.current": f"{5 * GB}\n",
                "cgroup/a/memory.stat": f"anon 4\nactive_file 9\ninactive_file {2 * GB}\n",
            },
            5 * GB,
        ),
        (
            {
                "proc/self/cgroup": "3:memory:/docker/7\n",
                "cgroup/memory/memory.limit_in_bytes": f"{4 * GB}\n",
                "cgroup/memory/memory.usage_in_bytes": f"{3 * GB}\n",
                "cgroup/memory/memory.stat": "inactive_file 5\ntotal_inactive_file 7\n",
            },
            GB + 7,
        ),
    ],
)
def test_free_memory_is_the_machines_or_what_is_left_of_a_containers(kernel, files, expected):
    kernel(MEMINFO | files)
    assert machine.free_memory() == expected


@pytest.mark.slow
def test_the_memory_of_a_process_is_its_own():
    before = machine.peak_memory()
    if before is None:
        pytest.skip("no /proc here")
    held = bytearray(os.urandom(1) * (before + 64 * 1024**2))  # pages that are written, more than it ever had
    assert machine.resident_memory() >= len(held)
    del held
    assert machine.peak_memory() >= before + 64 * 1024**2


def stat(*cores: tuple[int, int, int]) -> dict[str, str]:
    """/proc/stat with (user, nice, system) seconds of cores 0, 1, 4, 5 and a core 2 that is another's."""
    ticks = os.sysconf("SC_CLK_TCK")
    lines = [f"cpu{number} {' '.join(str(int(n * ticks)) for n in each)} 99 5 0 0 0 0 0"
             for number, each in zip((0, 1, 4, 5), cores, strict=True)]  # fmt: skip
    return {"proc/stat": "\n".join(["cpu 1 2 3 4", *lines, f"cpu2 {int(time.monotonic() * ticks)} 0 0 0", "intr 5"])}


@pytest.mark.parametrize(
    ("looks", "own", "expected"),
    [
        ([(0, 0, 0)], 0, ""),
        ([(1, 0, 0)], 0, "other processes keep 4.0 of 4 cores busy"),
        ([(0.25, 0, 0.15)], 0, "other processes keep 1.6 of 4 cores busy"),
        ([(0.2, 0, 0.02)], 0, ""),  # less than a quarter
        ([(0, 1, 0)], 0, ""),  # of low priority
        ([(1, 0, 0)], 4, ""),  # this process itself
        ([(1, 0, 0)], 3, ""),
        ([(1, 0, 0), (0, 0, 0)], 0, ""),  # was gone at the second look
    ],
)
def test_others_are_seen_and_this_process_is_not(kernel, monkeypatch, looks, own, expected):
    """Each look takes a second of a planted clock, in which each core has been busy for so many seconds."""
    now = {"time": 0.0, "looks": 0, "busy": (0.0, 0.0, 0.0)}

    def pass_a_second(_):
        look = looks[min(now["looks"], len(looks) - 1)]
        now.update(time=now["time"] + 1, looks=now["looks"] + 1)
        now["busy"] = tuple(before + more for before, more in zip(now["busy"], look, strict=True))
        kernel(stat(*[now["busy"]] * 4))

    kernel(stat(*[now["busy"]] * 4))
    monkeypatch.setattr(machine.time, "sleep", pass_a_second)
    monkeypatch.setattr(machine.time, "monotonic", lambda: now["time"])
    monkeypatch.setattr(machine.time, "process_time", lambda: own * now["time"])
    assert machine.crowding() == expected


def test_busy_cores_that_nobody_asks_for_are_no_crowd(kernel, monkeypatch):
    kernel({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "100000 100000\n"} | stat(*[(0, 0, 0)] * 4))
    busy = 3.0
    monkeypatch.setattr(machine, "_busy_elsewhere", lambda: busy)
    assert machine.crowding() == ""
    busy = 3.5
    assert machine.crowding() == "other processes keep 3.5 of 4 cores busy"
