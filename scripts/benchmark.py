"""Measure the kit beside its peers on this machine, in one run, and print a table with the ratios.

python scripts/benchmark.py
python scripts/benchmark.py training
"""

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
    parser.add_argument("group", nargs="?", choices=GROUPS, help="only this group (default: all)")
    args = parser.parse_args()

    import importlib

    from kit.data import demo, tiles
    from kit.runs import cpus

    print(f"{_processor()}, {cpus()} cores; Python {platform.python_version()}, "
          + ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        demo.write(Path(folder), n_train=400, n_test=100, seed=0)
        loaded = tiles.load(folder, progress=False)
        print("\n| what | this kit | peer | ratio | rounds |\n|---|---|---|---|---|", flush=True)
        for group in [args.group] if args.group else GROUPS:
            for row in importlib.import_module(f"tests.benchmarks.{group}").rows(loaded, Path(folder)):
                print(row, flush=True)


def _processor() -> str:
    """The processor's name as Linux knows it, and the GPU's where there is one."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    gpu = f" with {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (names[0] if names else platform.processor()) + gpu


if __name__ == "__main__":
    cli.run(main)
