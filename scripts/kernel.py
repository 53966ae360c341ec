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
    folder = Path(globals().get("__file__", "")).absolute().parent.parent
    if wheels:
        folder = Path(tempfile.mkdtemp(prefix="salt-kit-"))  # unpacked: the kit reads files of its own
        zipfile.ZipFile(wheels[-1]).extractall(folder)
    elif not (folder / "kit" / "__init__.py").exists():
        print(f"error: no {WHEEL} under {root / 'input'}: attach the dataset that push_kernel.py published, "
              "and wait until Kaggle says that it is ready", file=sys.stderr)  # fmt: skip
        sys.exit(2)
    sys.path.insert(0, str(folder))


def main(root: Path) -> None:
    from kit import cli

    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--recipe", metavar="NAME", help="train this recipe (default: baseline)")
    add("--arch", metavar="NAME", help="timm encoder (default: the recipe's)")
    add("--fold", default="0", metavar="K", help="0, or 0,2, or all, or none = train on every tile (default: 0)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="any key of the recipe")
    add("--weights", metavar="FILE", help="name of an input: encoder weights (default: encoder-ARCH-*, if attached)")
    add("--trained", metavar="FILE", help="name of an input: a trained run; only predict with it")
    add("--time-limit", default="8h", metavar="TIME", help="90s, 30m, 8h: of the whole kernel (default: 8h)")
    typed = [] if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else sys.argv[1:]  # there they are Kaggle's own
    args = parser.parse_args([*ARGUMENTS, *typed])

    from kit.leaderboard import kernel_run

    cli.run(lambda: kernel_run.run(root, args))


if __name__ == "__main__":
    at = Path(os.environ.get("KIT_KAGGLE_ROOT", "/kaggle")).absolute()
    add_kit(at)
    main(at)
