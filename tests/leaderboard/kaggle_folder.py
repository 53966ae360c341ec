"""A folder laid out like /kaggle and a run of a kernel's script in it: no network, inputs that cannot be written."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from kit.data.competition import TGS

LAYOUTS = ("flat", "nested")  # Kaggle mounts inputs in two ways, some say by session
NO_NETWORK = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


@cache
def why_no_namespace() -> str:
    """Why this machine has no namespaces without a network, or nothing."""
    if not shutil.which("unshare"):
        return "there is no unshare here"
    done = subprocess.run([*NO_NETWORK, "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip()


def build(root: Path, data: Path, datasets: Mapping[str, Mapping[str, bytes]], layout: str = "flat") -> Path:
    """Lay out root/input and root/working: the competition's files, and for each "owner/slug" its files."""
    at = root / "input" / ("competitions" if layout == "nested" else "") / TGS.slug
    shutil.copytree(data, at)
    for ref, files in datasets.items():
        folder = root / "input" / (f"datasets/{ref}" if layout == "nested" else ref.split("/")[1])
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
    (root / "working").mkdir()
    return root


def run(script: Path, root: Path, *arguments: str, on_kaggle: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the script as Kaggle does, in a namespace of its own. What it prints comes back as text."""
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "OMP_NUM_THREADS", "LANG")}
    private = root / "private"
    private.mkdir(exist_ok=True)
    env = kept | {"KIT_KAGGLE_ROOT": str(root), "HOME": str(private), "TMPDIR": str(private)}
    env["CUDA_VISIBLE_DEVICES"] = ""
    if on_kaggle:
        env["KAGGLE_KERNEL_RUN_TYPE"] = "Batch"
    command = [sys.executable, str(script), *arguments]
    inside = [*NO_NETWORK, "sh", "-c", READ_ONLY, str(root / "input"), *command]
    return subprocess.run(
        inside, capture_output=True, text=True, cwd=root / "working", env=env, timeout=600, check=False
    )  # fmt: skip
