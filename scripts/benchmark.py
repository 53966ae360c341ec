"""Measure the kit beside its peers on this machine, in one run, and print a table with the ratios.

python scripts/benchmark.py
python scripts/benchmark.py training
python scripts/benchmark.py --peer --minutes 15 --data data     # a recipe against a plain U-Net, by score
"""

import importlib
import platform
import tempfile
from importlib import metadata
from pathlib import Path

import _path  # noqa: F401

from kit import cli

PACKAGES = ("torch", "fastai", "timm", "albumentations", "numpy", "segmentation-models-pytorch")
GROUPS = ("data", "losses", "training")


def main() -> None:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("group", nargs="?", choices=GROUPS, help="only this group (default: all)")
    add("--peer", action="store_true", help="train a recipe and segmentation_models.pytorch's U-Net, compare scores")
    add("--recipe", default="cpu", help="the recipe to compare (default: cpu)")
    add("--minutes", type=float, default=15, help="of each of the two trainings (default: 15)")
    add("--fold", type=int, default=0, help="the fold to validate on (default: 0)")
    add("--seed", type=int, default=0, help="of both, and of the folds (default: 0)")
    add("--out", metavar="FOLDER", help="of runs and predictions; what is there is not trained again")
    cli.add_data(parser)
    args = parser.parse_args()

    print(f"{_processor()}; Python {platform.python_version()}, "
          + ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES))  # fmt: skip
    if args.peer:
        importlib.import_module("tests.benchmarks.peer").main(args)
    else:
        with tempfile.TemporaryDirectory() as folder:
            importlib.import_module("tests.benchmarks.side").table(Path(folder), [args.group] if args.group else GROUPS)


def _processor() -> str:
    """The processor's name as Linux knows it, its cores, and the GPU's name where there is one."""
    import torch

    from kit.runs import cpus

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    gpu = f" with {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (names[0] if names else platform.processor()) + f", {cpus()} cores" + gpu


if __name__ == "__main__":
    cli.run(main)
