"""The tests run on the CPU, on a GPU machine too: equality to the bit is promised there. And none can reach Kaggle."""

import os

import pytest

from kit.machine import cpus
from tests import processes

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process for each core: threads of two would wait for each other
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # a test may import it before the kit, which says so too
# whatever asks Kaggle asks a closed port of this machine instead, unless a test starts a server (tests/leaderboard)
CLOSED = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
os.environ |= {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "NO_PROXY": "", "no_proxy": "", **CLOSED}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """One more than there are cores, but for the quick tests alone.

    Some of the slow ones wait, for a server of theirs or for scripts that they started.
    """
    return cpus() + (config.option.markexpr != "not slow")


@pytest.fixture(autouse=True)
def _no_script_runs_on():
    yield
    processes.kill_all()


LONGEST = (
    *("test_scripts.py", "test_resume.py", "test_sweep.py", "test_kernel_run.py", "test_parallel.py", "test_team.py"),
    *(
        "test_tutorial.py",
        "test_browser.py",
        "test_micro_batches.py",
        "test_recipes.py",
        "test_peer.py",
        "test_encoders.py",
    ),
)


def pytest_collection_modifyitems(items):
    """The longest files begin first: a process gets a whole file, and none should end long after the others."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
