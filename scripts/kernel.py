"""What runs on Kaggle, with internet off: finds the kit's wheel among the inputs and calls it for a submission.csv.

The same file runs wherever a folder is laid out like /kaggle (input/ may be read-only, working/ is written):
KIT_KAGGLE_ROOT=/tmp/kaggle python scripts/kernel.py --recipe cpu --time-limit 30m
"""

import base64
import io
import os
import sys
import tempfile
import zipfile
from pathlib import Path

# push_kernel.py fills these three in, in the copy that it pushes
ARGUMENTS: list[str] = []
WHEEL = "salt_kit-*.whl"
EMBEDDED = ""  # the wheel itself, base64


def add_kit(root: Path) -> None:
    """Put the kit on the import path: the embedded wheel, else the one among the inputs, else the clone around us."""
    wheels = [io.BytesIO(base64.b64decode(EMBEDDED))] if EMBEDDED else sorted((root / "input").rglob(WHEEL))
    clone = Path(globals().get("__file__", "")).resolve().parent.parent
    if wheels:
        # unpacked, because the kit reads files of its own; nothing is installed
        folder = tempfile.mkdtemp(prefix="salt-kit-")
        zipfile.ZipFile(wheels[-1]).extractall(folder)
        print(f"kit: {'embedded' if EMBEDDED else wheels[-1]}", flush=True)
    elif (clone / "kit" / "__init__.py").exists():
        folder = str(clone)
    else:
        sys.exit(f"error: no {WHEEL} under {root / 'input'}: attach the dataset that push_kernel.py published, "
                 "and wait until Kaggle says that it is ready")  # fmt: skip
    sys.path.insert(0, folder)


def main() -> None:
    root = Path(os.environ.get("KIT_KAGGLE_ROOT", "/kaggle"))
    add_kit(root)

    from kit.leaderboard import kernel_run

    # what Kaggle itself puts behind the script's name is not for us
    typed = [] if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else sys.argv[1:]
    kernel_run.main(root, [*ARGUMENTS, *typed])


if __name__ == "__main__":
    main()
